"""The data of a training run: features, states and soft targets, joined by utterance id."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, Shard, TensorSpec, open_joined
from asr_kd.targets import TargetStore

STATISTICS_FRAMES = 1_000_000  # frames that mean and standard deviation of the features are estimated on


@dataclasses.dataclass(frozen=True)
class DataStatistics:
    """``mean``, ``std`` ``[bins]`` of the features (float32) and ``state_counts`` ``[states]`` of the labels."""

    mean: np.ndarray
    std: np.ndarray
    state_counts: np.ndarray

    @property
    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of all bins together, repeated for each bin."""
        mean = self.mean.mean(dtype=np.float64)
        variance = (self.std.astype(np.float64) ** 2 + (self.mean - mean) ** 2).mean()
        return np.full_like(self.mean, mean), np.full_like(self.std, np.sqrt(variance))

    @property
    def log_prior(self) -> np.ndarray:
        """Natural log of the states' frequencies ``[states]``."""
        return prior_of(self.state_counts)


@dataclasses.dataclass(frozen=True)
class Frames:
    """Utterances one after the other; utterance ``i`` has the rows ``offsets[i]:offsets[i + 1]``.

    ``features [frames, bins]``; ``states [frames]`` if there are labels; ``targets``, the tensors of the soft targets
    ``{name: [frames, ...]}``, empty if there are none.
    """

    offsets: np.ndarray
    features: np.ndarray
    states: np.ndarray | None
    targets: dict[str, np.ndarray]


class TrainingData:
    """Stores of features, and perhaps of states and soft targets, read by utterance.

    ``utterances`` are read; by default all, which must then be the same in each store. Raises ``UserError`` for a
    store of another kind, for an utterance that a store lacks, and for one whose frame counts differ.
    """

    def __init__(
        self,
        features: FrameStore,
        states: FrameStore | None = None,
        utterances: Sequence[str] | None = None,
        targets: TargetStore | None = None,
    ) -> None:
        for store, kind in ((features, "features"), (states, "states")):
            if store is not None and store.kind != kind:
                raise UserError(f"{store.path}: holds {store.kind}; expected {kind}")
        self.features, self.states, self.targets = features, states, targets
        stores = [features, states, targets.store if targets else None]
        self.joined = open_joined([store for store in stores if store is not None], utterances)
        self.feature_name = next(iter(features.tensors))
        self.target_tensors: dict[str, TensorSpec] = targets.store.tensors if targets else {}
        self.utterances = list(self.joined.utterances)
        self.frame_counts = self.joined.frame_counts
        self.total_frames = self.joined.total_frames
        if not self.total_frames:
            raise UserError(f"{features.path}: no frames to train on")

    @property
    def num_states(self) -> int:
        """The number of states that the labels were made with, as their store records it; 0 if it does not."""
        return (self.states.num_states or 0) if self.states else 0

    @property
    def labelled(self) -> bool:
        """Whether some frame has a label; labels are read until one is found."""
        return self.states is not None and any(
            (run.tensors["state"] >= 0).any() for run in self.states.runs(self.utterances)
        )

    @property
    def bytes_per_frame(self) -> int:
        """Bytes that a frame takes in memory, bookkeeping included."""
        held = 4 * self.bins + sum(spec.bytes_per_frame for spec in self.target_tensors.values())
        return held + 40

    @property
    def bins(self) -> int:
        """Width of a feature frame."""
        return int(self.features.tensors[self.feature_name].shape[-1])

    def read(self, utterance: str) -> Frames:
        """The frames of an utterance; ``UserError`` if a feature is NaN or infinite."""
        return next(self.runs([utterance]))

    def runs(self, utterances: Sequence[str]) -> Iterator[Frames]:
        """The frames of ``utterances`` in their order; those that lie together in the stores come together.

        Raises ``UserError`` if a feature is NaN or infinite, or if a target has a state that the teacher lacks.
        """
        return map(self._checked, self.joined.runs(utterances))

    def read_into(self, arrays: dict[str, np.ndarray], utterances: Sequence[str]) -> Frames:
        """The frames of ``utterances`` in their order, all together in ``arrays``, one for each tensor of the stores.

        Raises ``UserError`` as ``runs`` does.
        """
        offsets = np.cumsum([0, *(self.frame_counts[utterance] for utterance in utterances)])
        first = 0
        for run in self.joined.runs(utterances):
            last = first + int(run.offsets[-1])
            for name, array in arrays.items():
                array[first:last] = run.tensors[name]
            first = last
        return self._checked(Shard(tuple(utterances), offsets, arrays))

    def _checked(self, run: Shard) -> Frames:
        features, targets = run.tensors[self.feature_name], {name: run.tensors[name] for name in self.target_tensors}
        finite = np.isfinite(features)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            utterance, frame = _frame_at(run, row)
            raise UserError(
                f"{self.features.path}: utterance {utterance}, frame {frame}, bin {column} is"
                f" {features[row, column]}; a finite number was expected: compute the features again"
            )
        if self.targets is not None:
            _check_states(self.targets, run)
        return Frames(run.offsets, features, run.tensors.get("state"), targets)

    def sample(self, frames: int, seed: int, labelled: bool = False) -> "TrainingData":
        """About ``frames`` frames, in whole utterances drawn at random with ``seed``.

        ``labelled``: draw only utterances in which some frame has a label.
        """
        chosen: list[str] = []
        left = frames
        for i in np.random.default_rng(seed).permutation(len(self.utterances)):
            utterance = self.utterances[i]
            if labelled and not (self.states is not None and (self.states.read(utterance)["state"] >= 0).any()):
                continue
            chosen.append(utterance)
            left -= self.frame_counts[utterance]
            if left <= 0:
                break
        return TrainingData(self.features, self.states, chosen, self.targets)

    def state_counts(self, num_states: int) -> np.ndarray:
        """``count_states`` of the utterances; zeros if there are no labels."""
        if self.states is None:
            return np.zeros(num_states, np.int64)
        return count_states(self.states, self.utterances, num_states)

    def statistics(self, num_states: int, seed: int = 0) -> DataStatistics:
        """State counts of all frames; mean and deviation of the features of at most a million, drawn by utterance."""
        total, squares, frames = np.zeros(self.bins), np.zeros(self.bins), 0
        for run in self.runs(self.sample(STATISTICS_FRAMES, seed).utterances):
            features = run.features.astype(np.float64)
            total += features.sum(0)
            squares += (features**2).sum(0)
            frames += len(features)
        mean = total / frames
        std = np.sqrt(np.maximum(squares / frames - mean**2, 1e-8))
        return DataStatistics(mean.astype(np.float32), std.astype(np.float32), self.state_counts(num_states))


def count_states(
    states: FrameStore, utterances: Sequence[str], num_states: int, network: str = "the network"
) -> np.ndarray:
    """How often each state is a label, int64 ``[states]``; -1 means no label.

    Raises ``UserError`` for a state that ``network``, as the message calls it, does not have.
    """
    counts = np.zeros(num_states, np.int64)
    for run in states.runs(utterances):
        labels = run.tensors["state"]
        if len(labels) and int(labels.max()) >= num_states:
            utterance, _ = _frame_at(run, int(labels.argmax()))
            raise UserError(
                f"{states.path}: utterance {utterance} has state {labels.max()}, but {network} has {num_states}"
                " outputs; are these the states of another model?"
            )
        counts += np.bincount(labels[labels >= 0], minlength=num_states)
    return counts


def _check_states(targets: TargetStore, run: Shard) -> None:
    """``UserError`` for a state that the student lacks, on the CPU, since a GPU's kernels cannot name it."""
    states = run.tensors.get("target_state")
    if states is None or not states.size or (states.min() >= 0 and states.max() < targets.num_states):
        return
    row, column = np.argwhere((states < 0) | (states >= targets.num_states))[0]
    utterance, frame = _frame_at(run, row)
    raise UserError(
        f"{targets.path}: utterance {utterance}, frame {frame}: a soft target is state {states[row, column]}; the"
        f" student has states 0 to {targets.num_states - 1}: write the targets again"
    )


def _frame_at(run: Shard, row: int) -> tuple[str, int]:
    """The utterance of ``row`` of a run, and its frame there."""
    number = int(np.searchsorted(run.offsets, row, side="right")) - 1
    return run.utterances[number], row - int(run.offsets[number])


def prior_of(state_counts: np.ndarray) -> np.ndarray:
    """Natural log of the states' frequencies ``[states]``; one is added to each count, so that none is -inf."""
    counts = state_counts.astype(np.float64) + 1
    prior: np.ndarray = np.log(counts / counts.sum()).astype(np.float32)
    return prior
