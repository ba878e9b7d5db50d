"""What a network is to learn from which teacher, settled and checked before the first step."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.nets import AcousticModel, Ensemble, hold_weights, model_hash, open_model, settle_precision
from asr_kd.train.augment import changes
from asr_kd.train.config import TrainConfig
from asr_kd.train.frame_data import TrainingData, prior_of
from asr_kd.train.objective import HardTargets, LiveTeacher, Objective, StoredTargets
from asr_kd.train.reader import Reader


@dataclasses.dataclass(frozen=True)
class Lesson:
    """``config`` with all that depends on the data and the device filled in, the ``teacher`` that is asked live, and
    the priors ``log_prior [states]`` that are not the labels' own. ``hashes`` identify what was read for these."""

    config: TrainConfig
    data: TrainingData
    teacher: AcousticModel | Ensemble | None
    log_prior: np.ndarray | None
    hashes: dict[str, str]

    @classmethod
    def plan(
        cls,
        config: TrainConfig,
        data: TrainingData,
        teacher: str | Path | None = None,
        priors: str | Path | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> "Lesson":
        """See ``train``. Raises ``UserError`` where data, targets, teacher and configuration do not fit each other."""
        opened = None if teacher is None else open_model(teacher)
        soft = opened is not None or data.targets is not None
        if not soft and not data.labelled:
            place, count = (data.states or data.features).path, len(data.utterances)
            raise UserError(
                f"{place}: nothing to learn: no frame of {count:,} utterances has a label; give states, soft targets or"
                " a teacher"
            )
        keep, precision = config.keep or ("last" if soft else "best"), settle_precision(config.precision, device)
        config = dataclasses.replace(config, keep=keep, precision=precision)
        config = fit_to_data(config, data, opened)
        if opened is not None and data.targets is not None:
            raise UserError(
                f"{teacher} and {data.targets.path}: learn from a live teacher or from stored targets, not both"
            )
        if soft:
            _check_soft(config, data)
        if data.targets is not None:
            data.targets.check(config.net.states, data.features, config.temperature, config.match)
            _check_unchanged(config, data)
        _check_splices(config, asked=opened is not None)
        hashes = {}
        if teacher is not None:
            hashes["teacher"] = model_hash(teacher)
        log_prior = None
        if priors is not None:
            log_prior, hashes["priors"] = read_priors(priors, config.net.states)
        elif data.states is None:
            raise UserError(
                "there are no labels to count the states' priors; give --priors, a store of states or a model"
            )
        return cls(config, data, opened, log_prior, hashes)

    @property
    def context(self) -> tuple[int, int]:
        """Frames that the teacher sees before and after the one it judges."""
        return (0, 0) if self.teacher is None else (self.teacher.left_context, self.teacher.right_context)

    def objective(self, reader: Reader, device: torch.device) -> Objective:
        """What the batches of ``reader`` are compared with, on ``device``."""
        if self.teacher is not None:
            hold_weights(self.teacher, self.config.precision)
            return LiveTeacher(self.teacher.to(device), reader.left, reader.right, self.config)
        if self.data.targets is not None:
            return StoredTargets(self.data.targets, self.config)
        return HardTargets(self.config.label_smoothing)


def fit_to_data(
    config: TrainConfig, data: TrainingData, teacher: AcousticModel | Ensemble | None = None
) -> TrainConfig:
    """``config`` with the network's ``bins`` and ``states`` filled in from the data; ``UserError`` if they differ."""
    known = [(data.features.path, data.num_states)]
    if data.targets is not None:
        known.append((data.targets.path, data.targets.num_states))
    if teacher is not None:
        known.append((Path("the teacher"), teacher.num_states))
        if teacher.bins != data.bins:
            raise UserError(f"the teacher hears {teacher.bins} bins, but {data.features.path} has {data.bins}")
    bins = config.net.bins or data.bins
    states = config.net.states or next((number for _, number in known if number), 0)
    if bins != data.bins:
        raise UserError(f"net.bins is {bins}, but {data.features.path} has {data.bins} bins")
    if not states:
        place = data.states.path if data.states else data.features.path
        raise UserError(f"{place}: does not record how many states there are; give --set net.states=NUMBER")
    for place, number in known[1:]:
        if number != states:
            raise UserError(f"{place}: {number} states, but the student's labels or configuration have {states}")
    return dataclasses.replace(config, net=dataclasses.replace(config.net, bins=bins, states=states))


def read_priors(place: str | Path, num_states: int) -> tuple[np.ndarray, str]:
    """``log_prior [states]`` of a store of states or soft targets or of a model folder, and a hash of what was read.

    Those of soft targets are the mean of what the teacher believed at T = 1: a student whose few labels lack a state
    that its teacher knows would count it, by the labels' frequencies, as all but impossible.
    """
    if (Path(place) / "index.json").exists():
        store = FrameStore(place)
        if store.kind == "targets":
            return _prior_of_targets(store, num_states), store.content_hash
        if store.kind != "states":
            raise UserError(f"{place}: holds {store.kind}; priors come from states, soft targets or a model")
        counts = np.zeros(num_states, np.int64)
        for shard in store.shards():
            states = shard.tensors["state"]
            found = np.bincount(states[states >= 0], minlength=num_states)
            if len(found) > num_states:
                raise UserError(f"{place}: has state {len(found) - 1}, but the network has {num_states} outputs")
            counts += found
        return prior_of(counts), store.content_hash
    log_prior = open_model(place).log_prior.numpy()
    if len(log_prior) != num_states:
        raise UserError(f"{place}: priors of {len(log_prior)} states, but the network has {num_states} outputs")
    return log_prior, hashlib.sha256(log_prior.tobytes()).hexdigest()


def _prior_of_targets(store: FrameStore, num_states: int) -> np.ndarray:
    if "log_prob" not in store.tensors or store.config.get("num_states") != num_states:
        raise UserError(
            f"{store.path}: {store.config.get('form')} targets of {store.config.get('num_states')} states; priors come"
            f" from dense or top-k targets of {num_states} states"
        )
    mass = np.zeros(num_states)
    for shard in store.shards():
        prob = np.exp(shard.tensors["log_prob"].astype(np.float64))
        if "target_state" in shard.tensors:
            mass += np.bincount(shard.tensors["target_state"].ravel(), prob.ravel(), num_states)
        else:
            mass += prob.sum(0)
    return prior_of(mass)


def _check_soft(config: TrainConfig, data: TrainingData) -> None:
    if config.label_smoothing:
        raise UserError("label_smoothing is for training on labels; with soft targets set it to 0")
    if not config.soft_weight:
        raise UserError("soft_weight is 0, so the teacher would not be heard; leave it out, or raise soft_weight")
    if config.hard_weight and data.states is None:
        raise UserError(
            f"hard_weight is {config.hard_weight:g}, but there are no labels; set hard_weight=0 or give states"
        )


def _check_splices(config: TrainConfig, *, asked: bool) -> None:
    if config.splices and (not asked or config.hard_weight):
        raise UserError(
            f"splices is {config.splices}, but labels and stored targets do not follow when examples are cut and"
            " joined; set splices=0, or ask a live teacher (--teacher) with hard_weight=0"
        )


def _check_unchanged(config: TrainConfig, data: TrainingData) -> None:
    if changed := changes(config):
        assert data.targets is not None
        raise UserError(
            f"{data.targets.path}: these targets are what the teacher said of the stored features, but"
            f" {', '.join(changed)} would show the student others; set these to 0, ask the teacher itself (--teacher),"
            " or write targets of augmented copies (corpus perturb, feats, targets write)"
        )
