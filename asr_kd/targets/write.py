"""Teachers and features -> a store of soft targets."""

import dataclasses
import functools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from asr_kd.config import to_dict
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, write_store
from asr_kd.frames.plan import SHARD_FRAMES
from asr_kd.frames.remote import local_folder
from asr_kd.nets import Ensemble, StateModel, logits_by_chunk, model_hash, num_parameters, open_model
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.encode import draws_of, encode
from asr_kd.targets.store import TargetStore

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
    _check_features(features)
    model = open_model(teacher)
    counts = frame_counts(features, utterances)
    store = write_store(
        out,
        "targets",
        config.tensors(model.num_states),
        counts,
        _Label(Path(teacher), features, config, device),
        {**to_dict(config), "num_states": model.num_states},
        {"features": features.content_hash, "teacher": model_hash(teacher)},
        jobs,
        shard_frames,
        skip_bad,
        left_out={utt: why for utt, why in features.skipped.items() if utterances is None or utt in set(utterances)},
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
) -> Estimate:
    """Label a sample of the transfer set, to see how good the teacher is on it and how long all of it will take.

    Raises ``UserError`` where an utterance of the sample has another number of frames in ``states``.
    """
    _check_features(features)
    model = open_model(teacher).to(device)
    counts = frame_counts(features, utterances)
    label = _Label(Path(teacher), features, config, device)
    begun, right, judged, seen = time.monotonic(), 0, 0, 0
    for utterance in _spread(sorted(counts), counts):
        log_prob = label.log_prob(model, utterance)
        encode(log_prob, config, draws_of(utterance, config.seed))
        seen += len(log_prob)
        if states is not None and utterance in states:
            truth = states.read(utterance)["state"].astype(np.int64)
            if len(truth) != len(log_prob):
                raise UserError(
                    f"utterance {utterance}: {len(log_prob)} frames in {features.path}, {len(truth)} in {states.path}"
                )
            right += int((log_prob.argmax(1).cpu().numpy() == truth).sum())
            judged += len(truth)
    seconds = (time.monotonic() - begun) * sum(counts.values()) / max(seen, 1) / (jobs if device == "cpu" else 1)
    folder = local_folder(out)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return Estimate(
        networks=len(model.members) if isinstance(model, Ensemble) else 1,
        parameters=num_parameters(model),
        accuracy=right / judged if judged else None,
        judged=judged,
        frames=sum(counts.values()),
        bytes_per_frame=sum(spec.bytes_per_frame for spec in config.tensors(model.num_states).values()),
        free=shutil.disk_usage(existing).free,
        seconds=seconds,
    )


def frame_counts(features: FrameStore, utterances: Sequence[str] | None) -> dict[str, int]:
    """Frames of each utterance of the transfer set; ``UserError`` for one that ``features`` lacks."""
    if utterances is None:
        return features.frame_counts
    if missing := [utterance for utterance in utterances if utterance not in features]:
        raise UserError(f"{features.path}: lacks utterance {missing[0]}, which you asked for ({len(missing):,} in all)")
    return {utterance: features.frame_counts[utterance] for utterance in utterances}


def _check_features(features: FrameStore) -> None:
    if features.kind != "features":
        raise UserError(f"{features.path}: holds {features.kind}; a store of features was expected")


def _spread(utterances: Sequence[str], counts: dict[str, int]) -> Sequence[str]:
    """About ``SAMPLE`` frames of utterances, evenly from all."""
    step = max(1, round(sum(counts.values()) / SAMPLE))
    return utterances[::step]


@dataclasses.dataclass(frozen=True)
class _Label:
    """The targets of one shard's utterances."""

    teacher: Path
    features: FrameStore
    config: TargetConfig
    device: str

    @functools.cached_property  # loaded once in each process
    def _model(self) -> StateModel:
        return open_model(self.teacher).to(self.device)

    def __call__(self, utterances: Sequence[str]) -> Computed:
        for utterance in utterances:
            try:
                log_prob = self.log_prob(self._model, utterance)
                yield utterance, encode(log_prob, self.config, draws_of(utterance, self.config.seed))
            except UserError as error:
                yield utterance, error

    @torch.inference_mode()
    def log_prob(self, model: StateModel, utterance: str) -> torch.Tensor:
        """``[frames, states]`` of an utterance, always by one thread: more would add up in another order."""
        features = next(iter(self.features.read(utterance).values()))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.autocast(
                torch.device(self.device).type, torch.bfloat16, enabled=self.config.precision == "bf16"
            ):
                return torch.cat([logits[0].float().log_softmax(-1) for logits in logits_by_chunk(model, features)])
        finally:
            torch.set_num_threads(threads)
