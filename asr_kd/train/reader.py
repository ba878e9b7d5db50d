"""Shuffled batches from stores of any size, in bounded memory, from any position on.

An epoch draws the utterances in random order into pools of at most ``pool_frames`` frames (and one utterance). A pool
is one contiguous tensor of frames in float32. Each utterance in it lies between its repeated edge frames, so that every
window is a slice; windows are copied only for the current batch. The examples of a pool are shuffled across all of its
utterances. Memory: one pool, at most ``pool_mib`` MiB, and a batch or two. A frame takes its features, its soft targets
and 40 bytes. The order follows from the seed, the epoch and the pool's number, so that a position is (epoch, batch).
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from asr_kd.train.config import TrainConfig
from asr_kd.train.frame_data import TrainingData
from asr_kd.train.group import ALONE, Group


@dataclasses.dataclass(frozen=True)
class RankPart:
    """The part of a batch that one data-parallel rank has: its examples from ``begin`` on.

    ``frames`` outputs of the whole batch belong to a frame. ``valid`` and ``labelled``: the fraction of these, and of
    the labelled ones, that this rank has, times the number of ranks. All follows from the plan of the batch, without
    communication.
    """

    begin: int
    frames: int
    valid: float
    labelled: float


@dataclasses.dataclass(frozen=True)
class Batch:
    """Examples of one step: ``features [examples, frames, bins]`` float32 and ``labels [examples, outputs]`` int64.

    ``valid [examples, outputs]`` says which outputs belong to a frame; a label of -1 means none. ``targets`` are the
    rows of a target store ``[examples x outputs, ...]``. ``fraction`` of the epoch is done after this batch.

    A data-parallel rank has its ``part`` of the examples, perhaps none; ``starts`` and ``utterances`` are those of the
    whole batch.
    """

    features: Tensor
    labels: Tensor
    valid: Tensor
    targets: dict[str, Tensor]
    fraction: float
    starts: np.ndarray
    layout: "Layout"
    part: RankPart

    @property
    def utterances(self) -> list[str]:
        """The distinct utterances in this batch, sorted."""
        return self.layout.utterances_at(self.starts)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the utterances of a pool lie: from row ``begins[i]``, ``left`` edge rows, the frames, ``right`` edge rows.

    ``margin`` rows before and after let chunks begin before the first utterance and end after the last.
    """

    utterances: list[str]
    counts: np.ndarray
    left: int
    right: int
    margin: int

    @property
    def begins(self) -> np.ndarray:
        """First row of each utterance, and the end of the last: ``[utterances + 1]``."""
        return self.margin + np.concatenate([[0], np.cumsum(self.counts + self.left + self.right)])

    @property
    def rows(self) -> int:
        """Rows in all."""
        return int(self.begins[-1]) + self.margin

    def frames(self, first: int, last: int, offsets: np.ndarray) -> np.ndarray:
        """The frame in each row of the utterances ``first:last``, which begin at ``offsets [last - first + 1]``."""
        counts = self.counts[first:last]
        lengths = counts + self.left + self.right
        begins = np.cumsum(lengths) - lengths
        place = np.arange(lengths.sum()) - np.repeat(begins + self.left, lengths)
        return np.repeat(offsets[:-1], lengths) + place.clip(0, np.repeat(counts - 1, lengths))

    def utterances_at(self, starts: np.ndarray) -> list[str]:
        """The distinct utterances of examples that start at these rows, sorted."""
        rows = np.searchsorted(self.begins, starts, side="right") - 1
        return sorted({self.utterances[max(row, 0)] for row in rows})

    def valid(self) -> np.ndarray:
        """Whether the output at each row, which predicts the frame ``left`` rows later, has a frame: ``[rows]``."""
        steps = np.zeros(self.rows + 1, np.int8)
        np.add.at(steps, self.begins[:-1], 1)
        np.add.at(steps, self.begins[:-1] + self.counts, -1)
        return np.cumsum(steps[:-1], dtype=np.int8).astype(bool)


@dataclasses.dataclass(frozen=True)
class Pool:
    """The frames of a layout in memory, ``[rows, ...]`` each; all but the features belong to the output of a row.

    ``counted``: whether each output has a frame, and whether it has a label, on the CPU, where batches are planned.
    """

    layout: Layout
    features: Tensor
    labels: Tensor
    valid: Tensor
    targets: dict[str, Tensor]
    counted: tuple[np.ndarray, np.ndarray]


class Reader:
    """The batches of each epoch over ``data`` for a network with this context.

    Every rank of a ``group`` plans the same batches and gathers its part of each.
    """

    def __init__(
        self,
        data: TrainingData,
        config: TrainConfig,
        left: int,
        right: int,
        chunk: int,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        self.data, self.config, self.device, self.group = data, config, device, group
        self.left, self.right, self.chunk = left, right, chunk
        self._pool: Pool | None = None
        self.pool_frames = min(config.pool_frames, (config.pool_mib << 20) // data.bytes_per_frame)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` (from 0), without the first ``skip``.

        They are gathered on demand. On a CPU a thread that gathers ahead would slow the matrix products down by more
        than it saves; on a GPU gathering is a kernel like any other.
        """
        done = 0
        for number, layout in enumerate(self._layouts(epoch)):
            frames = int(layout.counts.sum())
            batches = self._starts(layout, np.random.default_rng([self.config.seed, epoch, number]))
            for i in range(skip, len(batches)):
                fraction = (done + frames * (i + 1) / len(batches)) / self.data.total_frames
                yield self._gather(layout, batches[i], fraction)
            skip = max(0, skip - len(batches))
            done += frames

    def _layouts(self, epoch: int) -> Iterator[Layout]:
        utterances, counts = self.data.utterances, self.data.frame_counts
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(utterances))
        pool: list[str] = []
        frames = 0
        for i in order:
            if pool and frames + counts[utterances[i]] > self.pool_frames:
                yield self._layout(pool)
                pool, frames = [], 0
            pool.append(utterances[i])
            frames += counts[utterances[i]]
        yield self._layout(pool)

    def _layout(self, utterances: list[str]) -> Layout:
        utterances = sorted(utterances)  # the stores' own order: read from front to back
        counts = np.array([self.data.frame_counts[utterance] for utterance in utterances], np.int64)
        return Layout(utterances, counts, self.left, self.right, self.chunk - 1)

    def _starts(self, layout: Layout, random: np.random.Generator) -> list[np.ndarray]:
        """The first row of each example, shuffled and split into batches whose sizes differ by at most one.

        Batch normalisation needs two rows: fewer batches are made where one would have a single row.
        """
        valid = layout.valid()
        first = layout.margin - int(random.integers(self.chunk))
        starts = np.arange(first, layout.rows - layout.margin - self.left - self.right, self.chunk)
        offsets = np.arange(0, self.chunk, self.config.every)
        starts = starts[valid[starts[:, None] + offsets].any(axis=1)]
        random.shuffle(starts)
        examples = max(1, self.config.batch_frames // len(offsets))
        batches = math.ceil(len(starts) / examples)
        if self.config.net.norm == "batch" and len(offsets) == 1:
            batches = max(1, min(batches, len(starts) // 2))
        return np.array_split(starts, batches)

    def _gather(self, layout: Layout, starts: np.ndarray, fraction: float) -> Batch:
        pool = self._load(layout)
        bins, span, every = pool.features.shape[1], self.chunk + self.left + self.right, self.config.every
        own = self.group.slice_of(len(starts))
        chosen = torch.from_numpy(starts[own]).to(self.device)
        rows = len(pool.features) - span + 1
        windows = pool.features.as_strided((rows, span * bins), (bins, 1)).index_select(0, chosen)
        outputs = chosen[:, None] + torch.arange(0, self.chunk, every, device=self.device)
        return Batch(
            features=windows.view(-1, span, bins),
            labels=pool.labels[outputs].long(),
            valid=pool.valid[outputs],
            targets={name: tensor.index_select(0, outputs.flatten()) for name, tensor in pool.targets.items()},
            fraction=fraction,
            starts=starts,
            layout=layout,
            part=self._part(pool, starts[:, None] + np.arange(0, self.chunk, every), own),
        )

    def _part(self, pool: Pool, outputs: np.ndarray, own: slice) -> RankPart:
        """The examples ``own`` of a batch whose ``outputs [examples, outputs]`` are rows of ``pool``."""
        valid, labelled = (counted[outputs] for counted in pool.counted)
        fractions = (self.group.world * mask[own].sum() / max(mask.sum(), 1) for mask in (valid, labelled))
        return RankPart(own.start, int(valid.sum()), *map(float, fractions))

    def _load(self, layout: Layout) -> Pool:
        if self._pool is not None and self._pool.layout.utterances == layout.utterances:
            return self._pool
        self._pool = None  # free the last pool before the next one is allocated
        features = torch.zeros(layout.rows, self.data.bins)
        labels = torch.full((layout.rows,), -1, dtype=torch.int32)
        targets = {
            name: torch.zeros(layout.rows, *spec.shape, dtype=_torch_dtype(np.dtype(spec.dtype)))
            for name, spec in self.data.target_tensors.items()
        }
        begins, valid, first = layout.begins, layout.valid(), 0
        for run in self.data.runs(layout.utterances):
            last = first + len(run.offsets) - 1
            rows = slice(begins[first], begins[last])
            features[rows] = torch.from_numpy(run.features[layout.frames(first, last, run.offsets)])
            own = torch.from_numpy(rows.start + np.flatnonzero(valid[rows]))
            if run.states is not None:
                labels[own] = torch.from_numpy(run.states.astype(np.int32))
            for name, values in run.targets.items():
                targets[name][own] = torch.tensor(_signed(values))
            first = last
        self._pool = Pool(
            layout,
            features.to(self.device),
            labels.to(self.device),
            torch.from_numpy(valid).to(self.device),
            {name: tensor.to(self.device) for name, tensor in targets.items()},
            (valid, (labels >= 0).numpy()),
        )
        return self._pool


def _signed(array: np.ndarray) -> np.ndarray:
    """Unsigned 16-bit numbers as signed ones of the same bits: torch cannot index into unsigned ones."""
    return array.view(np.int16) if array.dtype == np.uint16 else array


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(_signed(np.empty(0, dtype))).dtype
