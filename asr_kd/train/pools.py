"""Pools of frames: what a pool holds, and how it comes from the stores to the device.

On a GPU a thread reads the next pool into pinned memory and copies it on a stream of its own, while batches are drawn
from the current one: two pools are in memory.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from asr_kd.train.frame_data import TrainingData


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

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Pool":
        """The pool with ``function`` of each tensor in its place."""
        targets = {name: function(tensor) for name, tensor in self.targets.items()}
        features, labels, valid = map(function, (self.features, self.labels, self.valid))
        return Pool(self.layout, features, labels, valid, targets, self.counted)


class PoolLoader:
    """Reads pools of ``data`` onto ``device``."""

    def __init__(self, data: TrainingData, device: torch.device) -> None:
        self._data, self._device = data, device
        self._last: Pool | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def load(self, layout: Layout, keep: bool) -> Pool:
        """The pool of ``layout``; what was loaded last is not read again.

        ``keep``: the last pool is in use. Otherwise it is freed before the next one is allocated.
        """
        if self._last is None or self._last.layout.utterances != layout.utterances:
            self._last = self._last if keep else None
            self._last = self._read(layout)
        return self._last

    def _read(self, layout: Layout) -> Pool:
        pinned = self._stream is not None
        with torch.cuda.device(self._device) if pinned else contextlib.nullcontext():
            features = torch.zeros(layout.rows, self._data.bins, pin_memory=pinned)
            labels = torch.full((layout.rows,), -1, dtype=torch.int32, pin_memory=pinned)
            targets = {
                name: torch.zeros(layout.rows, *spec.shape, dtype=_torch_dtype(np.dtype(spec.dtype)), pin_memory=pinned)
                for name, spec in self._data.target_tensors.items()
            }
            begins, valid, first = layout.begins, layout.valid(), 0
            for run in self._data.runs(layout.utterances):
                last = first + len(run.offsets) - 1
                rows = slice(begins[first], begins[last])
                features[rows] = torch.from_numpy(run.features[layout.frames(first, last, run.offsets)])
                own = torch.from_numpy(rows.start + np.flatnonzero(valid[rows]))
                if run.states is not None:
                    labels[own] = torch.from_numpy(run.states.astype(np.int32))
                for name, values in run.targets.items():
                    targets[name][own] = torch.tensor(_signed(values))
                first = last
            counted = valid, (labels >= 0).numpy()
            pool = Pool(layout, features, labels, torch.from_numpy(valid), targets, counted)
            return pool.mapped(self.moved)

    def moved(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device, copied apart from what the GPU computes; this thread waits for it."""
        if self._stream is None:
            return tensor.to(self._device)
        with torch.cuda.stream(self._stream):
            copied = tensor.to(self._device, non_blocking=True)
        self._stream.synchronize()
        return copied


def _signed(array: np.ndarray) -> np.ndarray:
    """Unsigned 16-bit numbers as signed ones of the same bits: torch cannot index into unsigned ones."""
    return array.view(np.int16) if array.dtype == np.uint16 else array


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(_signed(np.empty(0, dtype))).dtype
