"""Pools of frames: what a pool holds, and how it comes from the stores to the device.

On a GPU a thread reads the next pool into pinned memory and copies it on a stream of its own, while batches are drawn
from the current one: two pools are in memory.
"""

import contextlib
import dataclasses

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


class PoolLoader:
    """Reads pools of ``data`` onto ``device``.

    For a GPU the stores' numbers are copied as they are, and take their places in the pool on the GPU: a thread that
    computed more would hold up the one that starts the GPU's work.
    """

    def __init__(self, data: TrainingData, device: torch.device) -> None:
        self._data, self._device = data, device
        self.apart = device.type != "cpu"
        self._last: Pool | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def load(self, layout: Layout, keep: bool) -> Pool:
        """The pool of ``layout``; what was loaded last is not read again.

        ``keep``: the last pool is in use. Otherwise it is freed before the next one is allocated.
        """
        if self._last is None or self._last.layout.utterances != layout.utterances:
            self._last = self._last if keep else None
            self._last = self._read_apart(layout) if self.apart else self._read(layout)
        return self._last

    def _read(self, layout: Layout) -> Pool:
        features = torch.zeros(layout.rows, self._data.bins)
        labels = torch.full((layout.rows,), -1, dtype=torch.int32)
        targets = {
            name: torch.zeros(layout.rows, *spec.shape, dtype=_torch_dtype(np.dtype(spec.dtype)))
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
        return Pool(layout, features, labels, torch.from_numpy(valid), targets, (valid, (labels >= 0).numpy()))

    def _read_apart(self, layout: Layout) -> Pool:
        """As ``_read``, on the device."""
        with torch.cuda.device(self._device) if self._stream else contextlib.nullcontext():
            held = {
                name: torch.empty(
                    int(layout.counts.sum()), *spec.shape, dtype=_torch_dtype(np.dtype(spec.dtype)),
                    pin_memory=self._stream is not None,
                )
                for name, spec in self._data.joined.tensors.items()
            }  # fmt: skip
            arrays = {name: held[name].numpy().view(spec.dtype) for name, spec in self._data.joined.tensors.items()}
            read = self._data.read_into(arrays, layout.utterances)
            valid = layout.valid()
            labelled = np.zeros_like(valid)
            if read.states is not None:
                labelled[valid] = read.states >= 0
            counted = valid, labelled
            with torch.cuda.stream(self._stream):
                pool = self._placed(layout, {name: self._copied(tensor) for name, tensor in held.items()}, counted)
            if self._stream is not None:
                self._stream.synchronize()
            return pool

    def _placed(self, layout: Layout, held: dict[str, Tensor], counted: tuple[np.ndarray, np.ndarray]) -> Pool:
        """The pool of the frames ``held`` on the device, without gaps between utterances."""
        device, rows, margin = self._device, layout.rows, layout.margin
        offsets = np.concatenate([[0], np.cumsum(layout.counts)])
        frame = self._copied(torch.from_numpy(layout.frames(0, len(layout.counts), offsets)))
        valid = self._copied(torch.from_numpy(counted[0]))
        own = self._copied(torch.from_numpy(np.flatnonzero(counted[0])))
        features = torch.zeros(rows, self._data.bins, device=device)
        features[margin : rows - margin] = held[self._data.feature_name].index_select(0, frame)
        labels = torch.full((rows,), -1, dtype=torch.int32, device=device)
        if "state" in held:
            unsigned = self._data.joined.tensors["state"].dtype == "uint16"
            labels.index_copy_(0, own, held["state"].int() & 0xFFFF if unsigned else held["state"].int())
        targets = {
            name: torch.zeros(rows, *held[name].shape[1:], dtype=held[name].dtype, device=device)
            for name in self._data.target_tensors
        }
        for name, target in targets.items():
            target.index_copy_(0, own, held[name])
        return Pool(layout, features, labels, valid, targets, counted)

    def moved(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device, copied apart from what the GPU computes; this thread waits for it."""
        with torch.cuda.stream(self._stream):
            copied = self._copied(tensor)
        if self._stream is not None:
            self._stream.synchronize()
        return copied

    def _copied(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)


def _signed(array: np.ndarray) -> np.ndarray:
    """Unsigned 16-bit numbers as signed ones of the same bits: torch cannot index into unsigned ones."""
    return array.view(np.int16) if array.dtype == np.uint16 else array


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(_signed(np.empty(0, dtype))).dtype
