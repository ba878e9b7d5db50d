"""Teachers and features -> a store of soft targets."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from asr_kd.config import to_dict
from asr_kd.errors import UserError
from asr_kd.frames import DEFAULT_OPTIONS, FrameStore, StoreContent, WriteOptions, one_by_one, write_store
from asr_kd.frames.folders import folder_at
from asr_kd.nets import Ensemble, model_hash, num_parameters, settle_precision
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.encode import draws_of, encode
from asr_kd.targets.target_store import TargetStore
from asr_kd.targets.teacher import Teacher

SAMPLE = 20_000  # frames of the transfer set that the estimate is based on

Computed = Iterator[tuple[str, dict[str, np.ndarray] | UserError]]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What writing the targets will cost.

    ``accuracy``: the teacher's frame accuracy on ``judged`` frames of the transfer set, None without labels. ``frames``
    to write, ``bytes_per_frame``, ``free`` bytes on the disk (None at a URL), ``seconds`` with the given jobs.
    """

    networks: int
    parameters: int
    accuracy: float | None
    judged: int
    frames: int
    bytes_per_frame: int
    free: int | None
    seconds: float


def write_targets(
    teacher: Teacher,
    out: str | Path,
    config: TargetConfig,
    utterances: Sequence[str] | None = None,
    options: WriteOptions = DEFAULT_OPTIONS,
) -> TargetStore:
    """Write the teacher's distribution over states for each frame of its features, or the shards that ``out`` lacks.

    The transfer set is ``utterances``, by default all; it needs no labels. On CPUs of one kind the store's bytes depend
    only on the teacher, the features and ``config``. Memory: one shard and the teacher per job.

    Raises ``UserError`` as ``write_store`` does, and for an utterance whose outputs are not finite.
    """
    if options.force and options.part[1] > 1:
        raise UserError(
            f"{out}: --force with --part would delete the shards of the other parts; delete the store, then run without"
            " --force"
        )
    teacher, config = _settled(teacher, config)
    features = teacher.features
    content = StoreContent(
        "targets",
        config.tensors(teacher.num_states),
        {**to_dict(config), "num_states": teacher.num_states},
        {"features": features.content_hash, "teacher": model_hash(teacher.folder)},
        features.skipped if utterances is None else {},
    )
    store = write_store(out, content, teacher.frame_counts(utterances), _LabelShard(teacher, config), options)
    return TargetStore(store)


def estimate(
    teacher: Teacher,
    out: str | Path,
    config: TargetConfig,
    utterances: Sequence[str] | None = None,
    states: FrameStore | None = None,
    options: WriteOptions = DEFAULT_OPTIONS,
) -> Estimate:
    """Compute targets for a sample of the transfer set, to estimate the teacher's accuracy and the time for all of it.

    ``states``: labels for the frame accuracy. Raises ``UserError`` as ``Teacher.sample`` does.
    """
    teacher, config = _settled(teacher, config)
    bytes_per_frame = sum(spec.bytes_per_frame for spec in config.tensors(teacher.num_states).values())
    frames = sum(teacher.frame_counts(utterances).values())
    jobs = options.jobs * options.part[1] if teacher.device == "cpu" else 1
    begun, right, judged, seen = time.monotonic(), 0, 0, 0
    for utterance, log_prob, labels in teacher.sample(SAMPLE, utterances, states, options.skip_bad):
        encode(log_prob, config, draws_of(utterance, config.seed))
        seen += len(log_prob)
        if labels is not None:
            right += int((log_prob.argmax(1).cpu().numpy() == labels).sum())
            judged += int((labels >= 0).sum())
    seconds = (time.monotonic() - begun) * frames / max(seen, 1) / jobs
    return Estimate(
        networks=len(teacher.model.members) if isinstance(teacher.model, Ensemble) else 1,
        parameters=num_parameters(teacher.model),
        accuracy=right / judged if judged else None,
        judged=judged,
        frames=frames,
        bytes_per_frame=bytes_per_frame,
        free=folder_at(out).free(force=False),
        seconds=seconds,
    )


def _settled(teacher: Teacher, config: TargetConfig) -> tuple[Teacher, TargetConfig]:
    """Both with ``auto`` replaced by the precision it stands for, and the default k filled in."""
    precision = settle_precision(config.precision, teacher.device)
    config = dataclasses.replace(config, precision=precision).for_states(teacher.num_states)
    return dataclasses.replace(teacher, precision=precision), config


@dataclasses.dataclass(frozen=True)
class _LabelShard:
    """The targets of one shard's utterances."""

    teacher: Teacher
    config: TargetConfig

    def __call__(self, utterances: Sequence[str]) -> Computed:
        outputs = self.teacher.log_probs(utterances)
        return one_by_one(utterances, lambda utterance: self._encoded(utterance, next(outputs)))

    def _encoded(self, utterance: str, log_prob: Tensor | UserError) -> dict[str, np.ndarray]:
        if isinstance(log_prob, UserError):
            raise log_prob
        return encode(log_prob, self.config, draws_of(utterance, self.config.seed))
