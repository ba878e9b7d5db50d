"""Teachers and features -> a store of soft targets."""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from asr_kd.config import to_dict
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, one_by_one, write_store
from asr_kd.frames.plan import SHARD_FRAMES
from asr_kd.frames.remote import local_folder
from asr_kd.nets import Ensemble, model_hash, num_parameters, settle_precision
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.encode import draws_of, encode
from asr_kd.targets.target_store import TargetStore
from asr_kd.targets.teacher import Teacher

SAMPLE = 20_000  # frames of the transfer set that the estimate looks at

Computed = Iterator[tuple[str, dict[str, np.ndarray] | UserError]]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What writing will take.

    ``accuracy`` of the teacher on ``judged`` frames of the transfer set, None without labels; ``frames`` to write,
    ``bytes_per_frame``, ``free`` bytes of the disk, ``seconds`` with the jobs asked for.
    """

    networks: int
    parameters: int
    accuracy: float | None
    judged: int
    frames: int
    bytes_per_frame: int
    free: int
    seconds: float


def write_targets(
    teacher: str | Path,
    features: FrameStore,
    out: str | Path,
    config: TargetConfig,
    utterances: Sequence[str] | None = None,
    jobs: int = 1,
    device: str = "cpu",
    part: tuple[int, int] = (0, 1),
    shard_frames: int = SHARD_FRAMES,
    skip_bad: bool = False,
    force: bool = False,
) -> TargetStore:
    """Write, or go on writing, what the network or ensemble ``teacher`` says of each frame of ``features``.

    The transfer set is ``utterances``, or all; it needs no labels. ``part`` ``(i, n)``: only each n-th shard, from the
    i-th (see ``write_store``). On CPUs of one kind the store's bytes depend on nothing but teacher, features and
    ``config``. Memory: a shard and ``teacher`` for each of ``jobs``.

    Raises ``UserError`` as ``write_store`` does, and naming the utterance of which the teacher's output is not finite.
    """
    if force and part[1] > 1:
        raise UserError(f"{out}: --force with --part would delete what the other parts write; delete the store first")
    config = _settled(config, device)
    asked = Teacher(Path(teacher), features, config.precision, device)
    store = write_store(
        out,
        "targets",
        config.tensors(asked.num_states),
        asked.frame_counts(utterances),
        _Label(asked, config),
        {**to_dict(config), "num_states": asked.num_states},
        {"features": features.content_hash, "teacher": model_hash(teacher)},
        jobs,
        shard_frames,
        skip_bad,
        left_out=features.skipped if utterances is None else None,
        part=part,
        force=force,
    )
    return TargetStore(store)


def estimate(
    teacher: str | Path,
    features: FrameStore,
    out: str | Path,
    config: TargetConfig,
    states: FrameStore | None = None,
    utterances: Sequence[str] | None = None,
    jobs: int = 1,
    device: str = "cpu",
    skip_bad: bool = False,
) -> Estimate:
    """Label a sample of the transfer set, to see how good the teacher is on it and how long all of it will take.

    Raises ``UserError`` as ``Teacher.sample`` does.
    """
    config = _settled(config, device)
    asked = Teacher(Path(teacher), features, config.precision, device)
    bytes_per_frame = sum(spec.bytes_per_frame for spec in config.tensors(asked.num_states).values())
    frames = sum(asked.frame_counts(utterances).values())
    begun, right, judged, seen = time.monotonic(), 0, 0, 0
    for utterance, log_prob, labels in asked.sample(SAMPLE, utterances, states, skip_bad):
        encode(log_prob, config, draws_of(utterance, config.seed))
        seen += len(log_prob)
        if labels is not None:
            right += int((log_prob.argmax(1).cpu().numpy() == labels).sum())
            judged += int((labels >= 0).sum())
    seconds = (time.monotonic() - begun) * frames / max(seen, 1) / (jobs if device == "cpu" else 1)
    folder = local_folder(out)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return Estimate(
        networks=len(asked.model.members) if isinstance(asked.model, Ensemble) else 1,
        parameters=num_parameters(asked.model),
        accuracy=right / judged if judged else None,
        judged=judged,
        frames=frames,
        bytes_per_frame=bytes_per_frame,
        free=shutil.disk_usage(existing).free,
        seconds=seconds,
    )


def _settled(config: TargetConfig, device: str) -> TargetConfig:
    return dataclasses.replace(config, precision=settle_precision(config.precision, device))


@dataclasses.dataclass(frozen=True)
class _Label:
    """The targets of one shard's utterances."""

    teacher: Teacher
    config: TargetConfig

    def __call__(self, utterances: Sequence[str]) -> Computed:
        said = self.teacher.log_probs(utterances)
        return one_by_one(utterances, lambda utterance: self._encoded(utterance, next(said)))

    def _encoded(self, utterance: str, log_prob: Tensor | UserError) -> dict[str, np.ndarray]:
        if isinstance(log_prob, UserError):
            raise log_prob
        return encode(log_prob, self.config, draws_of(utterance, self.config.seed))
