"""A network or an ensemble as a teacher: its distribution over states for each frame of a transfer set."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import UserError, counted
from asr_kd.frames import FrameStore
from asr_kd.frames.plan import alike, packed
from asr_kd.nets import AcousticModel, Ensemble, autocast, hold_weights, log_prob_by_chunk, log_prob_packed, open_model
from asr_kd.targets.encode import check_finite, one_thread

TOGETHER = 1000  # frames of utterances of equal length in one forward pass
PACKED = 8000  # frames of utterances of any length in one forward pass on a GPU


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The network or ensemble in ``folder``, applied to ``features``; each process loads it once.

    Raises ``UserError`` if the store does not hold features, or features of another width than those of its training.
    """

    folder: str | Path
    features: FrameStore
    precision: str = "fp32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.features.expect("features")

    def __reduce__(self) -> tuple[type["Teacher"], tuple[str | Path, FrameStore, str, str]]:
        return Teacher, (self.folder, self.features, self.precision, self.device)  # without the model

    @functools.cached_property
    def model(self) -> AcousticModel | Ensemble:
        """The teacher on its device, in evaluation mode."""
        model = open_model(self.folder).to(self.device)
        hold_weights(model, self.precision)
        check_features(self.features, model.bins, f"the teacher {self.folder}")
        return model

    @property
    def num_states(self) -> int:
        """Number of states of its distributions."""
        return self.model.num_states

    def log_probs(self, utterances: Sequence[str]) -> Iterator[Tensor | UserError]:
        """The natural log of p(state | features) at T = 1 of each utterance, ``[frames, states]`` on its device, NaN
        where the teacher's output is NaN; or the error in its features.

        Neighbours share a forward pass, since each pass takes at least a millisecond; on a CPU only those of equal
        length, so that the numbers of an utterance do not depend on its neighbours.
        """
        counts, on_cpu = self.features.frame_counts, torch.device(self.device).type == "cpu"
        for group in alike(utterances, counts, TOGETHER) if on_cpu else packed(utterances, counts, PACKED):
            read = [self._features(utterance) for utterance in group]
            good = [features for features in read if isinstance(features, np.ndarray)]
            outputs = iter(self._log_prob(good)) if good else iter(())
            yield from (features if isinstance(features, UserError) else next(outputs) for features in read)

    def _features(self, utterance: str) -> np.ndarray | UserError:
        try:
            return next(iter(self.features.read(utterance).values()))
        except UserError as error:
            return error

    @torch.inference_mode()
    def _log_prob(self, features: Sequence[np.ndarray]) -> Iterable[Tensor]:
        with one_thread(), autocast(self.device, self.precision):
            if len({len(each) for each in features}) > 1:
                return log_prob_packed(self.model, features)
            chunks = list(log_prob_by_chunk(self.model, np.stack(features)))
        return torch.cat(chunks, dim=1) if len(chunks) > 1 else chunks[0]

    def frame_counts(self, utterances: Sequence[str] | None) -> dict[str, int]:
        """Frames of each utterance of the transfer set, by default all; ``UserError`` for one without features."""
        known = self.features.frame_counts
        if utterances is None:
            return known
        if missing := [utterance for utterance in utterances if utterance not in known]:
            raise UserError(
                f"{self.features.path}: lacks utterance {missing[0]}, which you requested ({len(missing):,} in total)"
            )
        return {utterance: known[utterance] for utterance in utterances}

    def sample(
        self, frames: int, utterances: Sequence[str] | None, states: FrameStore | None, skip_bad: bool = False
    ) -> Iterator[tuple[str, Tensor, np.ndarray | None]]:
        """Utterances spread evenly over the transfer set, about ``frames`` frames in all: id, ``log_prob``, and the
        labels ``[frames]`` int64 (-1: no label), or None if ``states`` has none.

        Raises ``UserError`` naming an utterance whose output is not finite, unless ``skip_bad`` leaves it out, and one
        that has another number of frames in ``states``.
        """
        counts = self.frame_counts(utterances)
        check_labels(states, self.num_states, f"the teacher {self.folder}")
        step = max(1, round(sum(counts.values()) / frames))
        chosen = sorted(counts)[::step]
        for utterance, log_prob in zip(chosen, self.log_probs(chosen), strict=True):
            try:
                if isinstance(log_prob, UserError):
                    raise log_prob
                check_finite(log_prob)
            except UserError as error:
                if skip_bad:
                    continue
                raise UserError(f"{self.features.path}: utterance {utterance}: {error}") from None
            yield utterance, log_prob, self._labels(utterance, states)

    def _labels(self, utterance: str, states: FrameStore | None) -> np.ndarray | None:
        if states is None or utterance not in states:
            return None
        labels: np.ndarray = states.read(utterance)["state"].astype(np.int64)
        frames = self.features.frame_counts[utterance]
        if len(labels) != frames:
            raise UserError(
                f"utterance {utterance}: {counted(frames, 'frame')} in {self.features.path}, {len(labels):,} in"
                f" {states.path}; make both from the same audio"
            )
        return labels if (labels >= 0).any() else None


def check_features(features: FrameStore, bins: int, network: str) -> None:
    """Raise ``UserError`` unless ``features`` have the ``bins`` that ``network``, as the message names it, expects."""
    features.expect_width(bins, network)


def check_labels(states: FrameStore | None, num_states: int, network: str) -> None:
    """Raise ``UserError`` if ``states`` record another number of states than the ``num_states`` of ``network``."""
    if states is None:
        return
    states.expect("states")
    known = states.num_states
    if known not in (None, num_states):
        raise UserError(
            f"{states.path}: labels of {known} states, but {network} has {num_states} outputs; are these the states of"
            " another model?"
        )
