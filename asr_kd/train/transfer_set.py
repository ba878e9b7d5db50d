"""What a network is trained on: data, soft targets or a live teacher, and priors; checked before the first step."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from asr_kd.errors import UserError, counted
from asr_kd.frames import FrameStore, Shard
from asr_kd.nets import AcousticModel, Ensemble, hold_weights, model_hash, open_model, settle_precision
from asr_kd.storage import exists, joined
from asr_kd.train.augment import changes
from asr_kd.train.config import TrainConfig
from asr_kd.train.frame_data import TrainingData, count_states, prior_of
from asr_kd.train.objective import HardTargets, LiveTeacher, Objective, StoredTargets
from asr_kd.train.reader import Reader

HARD_WEIGHT = 0.5  # of labels beside soft targets, if there are labels


@dataclasses.dataclass(frozen=True)
class Sources:
    """Models and stores, besides the data, that a training run takes from.

    - ``teacher``: the folder of a network or ensemble whose soft targets are computed for every batch.
    - ``priors``: a store of states or soft targets, or a model folder, whose priors the network gets. By default they
      are the frequencies of the labels. If no frame has a label they are the teacher's: its mean posterior over the
      stored targets at T = 1, or the priors of a live teacher.
    - ``begin``: the folder of a network of the same shape. Training begins with its weights and standardisation, by
      default with random weights and the standardisation of the data.
    """

    teacher: str | Path | None = None
    priors: str | Path | None = None
    begin: str | Path | None = None


NO_SOURCES = Sources()


@dataclasses.dataclass(frozen=True)
class TrainingTask:
    """A training run before it starts: its data, teacher and configuration, which fit each other.

    In ``config`` all that depends on the data and the device is filled in. ``teacher`` is a live one. ``log_prior``
    ``[states]`` is None if the priors are those of the labels. ``hashes`` identify what was read for these.
    """

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
        sources: Sources = NO_SOURCES,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> "TrainingTask":
        """See ``train``. Raises ``UserError`` if data, targets, teacher and configuration do not fit each other."""
        teacher = None if sources.teacher is None else open_model(sources.teacher)
        soft, labelled = teacher is not None or data.targets is not None, data.labelled
        if not soft and not labelled:
            place, count = (data.states or data.features).path, len(data.utterances)
            raise UserError(
                f"{place}: nothing to train on: no frame of {count:,} utterances has a label; give --states, --targets"
                " or --teacher"
            )
        if teacher is not None and data.targets is not None:
            raise UserError(
                f"{sources.teacher} and {data.targets.path}: train on a live teacher or on stored targets, not on both"
            )
        config = fit_to_data(_settled(config, device, soft, labelled), data, teacher, sources.teacher or "the teacher")
        if soft:
            _check_soft(config, data, labelled)
        if data.targets is not None:
            data.targets.check(config.net.states, data.features, config.temperature, config.match)
            _check_unchanged(config, data)
        _check_splices(config, live=teacher is not None)
        hashes = {} if sources.teacher is None else {"teacher": model_hash(sources.teacher)}
        log_prior = None
        if sources.priors is not None:
            log_prior, hashes["priors"] = read_priors(sources.priors, config.net.states)
        elif not labelled:
            log_prior = _teacher_prior(data, teacher)
        if sources.begin is not None:
            hashes["begin"] = model_hash(sources.begin)
        return cls(config, data, teacher, log_prior, hashes)

    @property
    def context(self) -> tuple[int, int]:
        """Frames that the live teacher sees before and after the one it scores."""
        return (0, 0) if self.teacher is None else (self.teacher.left_context, self.teacher.right_context)

    def objective(self, reader: Reader, device: torch.device) -> Objective:
        """The loss of the batches of ``reader``, on ``device``."""
        if self.teacher is not None:
            hold_weights(self.teacher, self.config.precision)
            return LiveTeacher(self.teacher.to(device), reader.left, reader.right, self.config)
        if self.data.targets is not None:
            return StoredTargets(self.data.targets, self.config)
        return HardTargets(self.config.label_smoothing)


def _settled(config: TrainConfig, device: torch.device, soft: bool, labelled: bool) -> TrainConfig:
    """``config`` with what it leaves to the kind of targets and to the device."""
    hard_weight = config.hard_weight
    if hard_weight is None:
        hard_weight = 0.0 if soft and not labelled else HARD_WEIGHT
    keep, precision = config.keep or ("last" if soft else "best"), settle_precision(config.precision, device)
    return dataclasses.replace(config, keep=keep, precision=precision, hard_weight=hard_weight)


def fit_to_data(
    config: TrainConfig,
    data: TrainingData,
    teacher: AcousticModel | Ensemble | None = None,
    folder: str | Path = "the teacher",
) -> TrainConfig:
    """``config`` with the network's ``bins`` and ``states`` filled in from the data; ``UserError`` if they differ.

    ``folder``: that of the teacher, for messages.
    """
    known = [(data.features.path, data.num_states)]
    if data.targets is not None:
        known.append((data.targets.path, data.targets.num_states))
    if teacher is not None:
        known.append((Path(folder), teacher.num_states))
        data.features.expect_width(teacher.bins, folder)
    bins = config.net.bins or data.bins
    states = config.net.states or next((number for _, number in known if number), 0)
    if bins != data.bins:
        raise UserError(f"net.bins is {bins}, but {data.features.path} has {data.bins} coefficients per frame")
    if not states:
        place = data.states.path if data.states else data.features.path
        raise UserError(f"{place}: does not record the number of states; give --set net.states=NUMBER")
    for place, number in known[1:]:
        if number != states:
            raise UserError(
                f"{place}: {counted(number, 'state')}, but the student's labels or net.states have {states}; all must"
                " be of the same HMM"
            )
    return dataclasses.replace(config, net=dataclasses.replace(config.net, bins=bins, states=states))


def read_priors(place: str | Path, num_states: int) -> tuple[np.ndarray, str]:
    """``log_prior [states]`` of a store of states or soft targets or of a model folder, and a hash of what was read.

    Those of soft targets are the teacher's mean posterior at T = 1. They suit a student with few labels: a state that
    its teacher knows, but its labels lack, would be all but impossible by the labels' frequencies.
    """
    if exists(joined(place, "index.json")):
        store = FrameStore(place)
        if store.kind == "targets":
            return _mean_posterior(store, store.shards(), num_states), store.content_hash
        if store.kind != "states":
            raise UserError(f"{place}: holds {store.kind}; expected states, soft targets or a model for priors")
        return prior_of(count_states(store, store.utterances, num_states)), store.content_hash
    log_prior = open_model(place).log_prior.numpy()
    if len(log_prior) != num_states:
        raise UserError(
            f"{place}: priors of {counted(len(log_prior), 'state')}, but the network has {num_states} outputs"
        )
    return log_prior, hashlib.sha256(log_prior.tobytes()).hexdigest()


def _teacher_prior(data: TrainingData, teacher: AcousticModel | Ensemble | None) -> np.ndarray:
    """``log_prior [states]`` of a student without labels: what its teacher believes in the mean."""
    if data.targets is None:
        assert teacher is not None  # or there would be nothing to train on
        return teacher.log_prior.numpy()
    store = data.targets.store
    if "log_prob" not in store.tensors:
        raise UserError(
            f"{store.path}: there are no labels, and {store.config.get('form')} targets do not say how probable each"
            " state is at temperature 1; give --priors, for example the teacher's folder"
        )
    return _mean_posterior(store, store.runs(data.utterances), data.targets.num_states)


def _mean_posterior(store: FrameStore, pieces: Iterable[Shard], num_states: int) -> np.ndarray:
    """The log of a teacher's mean posterior at T = 1, from ``pieces`` of its stored soft targets: ``[states]``."""
    if "log_prob" not in store.tensors or store.num_states != num_states:
        raise UserError(
            f"{store.path}: {store.config.get('form')} targets of {store.num_states} states; priors come from dense or"
            f" top-k targets of {counted(num_states, 'state')}"
        )
    mass = np.zeros(num_states)
    for piece in pieces:
        prob = np.exp(piece.tensors["log_prob"].astype(np.float64))
        if "target_state" not in piece.tensors:
            mass += prob.sum(0)
            continue
        states = piece.tensors["target_state"].ravel()
        if states.size and int(states.max()) >= num_states:
            raise UserError(
                f"{store.path}: has state {states.max()}, but the targets are of {counted(num_states, 'state')}"
            )
        mass += np.bincount(states, prob.ravel(), num_states)
    return prior_of(mass)


def _check_soft(config: TrainConfig, data: TrainingData, labelled: bool) -> None:
    if config.label_smoothing:
        raise UserError("label_smoothing is for training on labels; with soft targets set it to 0")
    if not config.soft_weight:
        raise UserError("soft_weight is 0, so the soft targets would have no effect; leave them out, or raise it")
    if config.hard_weight and not labelled:
        place = data.states.path if data.states else data.features.path
        raise UserError(
            f"{place}: hard_weight is {config.hard_weight:g}, but no frame has a label; set hard_weight=0 or give"
            " states"
        )


def _check_splices(config: TrainConfig, *, live: bool) -> None:
    if config.splices and (not live or config.hard_weight):
        raise UserError(
            f"splices is {config.splices}, but labels and stored targets do not match examples that are cut and"
            " joined; set splices=0, or train on a live teacher (--teacher) with hard_weight=0"
        )


def _check_unchanged(config: TrainConfig, data: TrainingData) -> None:
    if changed := changes(config):
        assert data.targets is not None
        raise UserError(
            f"{data.targets.path}: these targets belong to the stored features, but {', '.join(changed)} would change"
            " the features; set these to 0, use a live teacher (--teacher), or write targets of augmented copies"
            " (corpus perturb, feats, targets write)"
        )
