"""Shuffled batches from stores of any size, in bounded memory, from any position on.

An epoch draws the utterances in random order into pools of at most ``pool_frames`` frames (and one utterance), one by
one or in blocks of neighbours (``block_frames``), which are near each other in the stores. A pool
is one contiguous tensor of frames in float32. Each utterance in it lies between its repeated edge frames, so that every
window is a slice; windows are copied only for the current batch. The examples of a pool are shuffled across all of its
utterances. Memory: one pool, at most ``pool_mib`` MiB, and a batch or two; on a GPU two pools, since one is read while
the other is used. A frame takes its features, its soft targets and 40 bytes. The order follows from the seed, the epoch
and the pool's number, so that a position is (epoch, batch).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from asr_kd.frames.plan import packed
from asr_kd.train.config import TrainConfig
from asr_kd.train.frame_data import TrainingData
from asr_kd.train.group import ALONE, Group
from asr_kd.train.pools import Layout, Pool, PoolLoader


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
    layout: Layout
    part: RankPart

    @property
    def utterances(self) -> list[str]:
        """The distinct utterances in this batch, sorted."""
        return self.layout.utterances_at(self.starts)


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
        self.ahead = device.type != "cpu"  # read the next pool while this one is used
        self.pool_frames = min(config.pool_frames, (config.pool_mib << 20) // data.bytes_per_frame)
        self._loader = PoolLoader(data, device)
        self._offsets = torch.arange(0, chunk, config.every, device=device)
        self._executor: ThreadPoolExecutor | None = None
        self._next: _Coming | None = None

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` (from 0), without the first ``skip``.

        They are gathered on demand. On a CPU nothing is read or gathered ahead, as a thread would slow the matrix
        products down by more than it saves.
        """
        if not self.ahead:
            for plan, utterances in self._with_next(epoch, self._plans(epoch, skip)):
                yield from self._batches(plan, self._loader.load(plan.layout, keep=False), utterances)
            return
        coming = self._begun(epoch, skip)
        while (found := coming.result.result()) is not None:
            plan, pool = found
            coming = self._begin(epoch, coming.plans)
            yield from self._batches(plan, pool)
        if epoch + 1 < self.config.epochs:
            self._next = self._begin(epoch + 1, self._plans(epoch + 1, 0))

    def _with_next(self, epoch: int, plans: "Iterator[_Plan]") -> "Iterator[tuple[_Plan, list[str]]]":
        """Each plan, and the utterances of the one after it; none if no store has to fetch them."""
        if not self.data.joined.remote:
            yield from ((plan, []) for plan in plans)
            return
        coming = next(plans, None)
        while (plan := coming) is not None:
            coming = next(plans, None)
            after = coming
            if after is None and epoch + 1 < self.config.epochs:
                after = next(self._plans(epoch + 1, 0))
            yield plan, after.layout.utterances if after else []

    def _begun(self, epoch: int, skip: int) -> "_Coming":
        """The first pool of an epoch, which may be on its way since the end of the last one."""
        coming, self._next = self._next, None
        if coming is None or coming.epoch != epoch or skip:
            coming = self._begin(epoch, self._plans(epoch, skip))
        return coming

    def _begin(self, epoch: int, plans: "Iterator[_Plan]") -> "_Coming":
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "pools")
        return _Coming(epoch, plans, self._executor.submit(self._read_next, plans))

    def _read_next(self, plans: "Iterator[_Plan]") -> "tuple[_Plan, Pool] | None":
        plan = next(plans, None)
        if plan is None:
            return None
        pool = self._loader.load(plan.layout, keep=True)
        starts = self._loader.moved(torch.cat(plan.own))
        return dataclasses.replace(plan, own=starts.split([len(own) for own in plan.own])), pool

    def _plans(self, epoch: int, skip: int) -> "Iterator[_Plan]":
        """The pools of an epoch without those whose batches are all among the first ``skip``."""
        done = 0
        for number, layout in enumerate(self._layouts(epoch)):
            batches = self._starts(layout, np.random.default_rng([self.config.seed, epoch, number]))
            if skip < len(batches):
                own = tuple(torch.from_numpy(starts[self.group.slice_of(len(starts))]) for starts in batches)
                yield _Plan(layout, batches, own, skip, done)
            skip = max(0, skip - len(batches))
            done += int(layout.counts.sum())

    def _batches(self, plan: "_Plan", pool: Pool, next_utterances: Sequence[str] = ()) -> Iterator[Batch]:
        self.data.joined.ahead(next_utterances)
        if self.device.type == "cuda":  # it was allocated for another stream
            used = torch.cuda.current_stream(self.device)
            for tensor in (pool.features, pool.labels, pool.valid, *pool.targets.values(), *plan.own[:1]):
                tensor.record_stream(used)
        frames = int(plan.layout.counts.sum())
        for i in range(plan.skip, len(plan.starts)):
            fraction = (plan.done + frames * (i + 1) / len(plan.starts)) / self.data.total_frames
            yield self._gather(pool, plan, i, fraction)

    def _layouts(self, epoch: int) -> Iterator[Layout]:
        counts = self.data.frame_counts
        pool: list[str] = []
        frames = 0
        for utterance in self._order(epoch):
            if pool and frames + counts[utterance] > self.pool_frames:
                yield self._layout(pool)
                pool, frames = [], 0
            pool.append(utterance)
            frames += counts[utterance]
        yield self._layout(pool)

    def _order(self, epoch: int) -> Iterator[str]:
        random = np.random.default_rng([self.config.seed, epoch])
        most = self.config.block_frames
        blocks = list(packed(self.data.utterances, self.data.frame_counts, most)) if most else [self.data.utterances]
        for number in random.permutation(len(blocks)) if most else [0]:
            block = blocks[number]
            yield from (block[i] for i in random.permutation(len(block)))

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

    def _gather(self, pool: Pool, plan: "_Plan", i: int, fraction: float) -> Batch:
        starts, chosen = plan.starts[i], plan.own[i]
        bins, span, every = pool.features.shape[1], self.chunk + self.left + self.right, self.config.every
        rows = len(pool.features) - span + 1
        windows = pool.features.as_strided((rows, span * bins), (bins, 1)).index_select(0, chosen)
        outputs = chosen[:, None] + self._offsets
        return Batch(
            features=windows.view(-1, span, bins),
            labels=pool.labels[outputs].long(),
            valid=pool.valid[outputs],
            targets={name: tensor.index_select(0, outputs.flatten()) for name, tensor in pool.targets.items()},
            fraction=fraction,
            starts=starts,
            layout=plan.layout,
            part=self._part(pool, starts[:, None] + np.arange(0, self.chunk, every), self.group.slice_of(len(starts))),
        )

    def _part(self, pool: Pool, outputs: np.ndarray, own: slice) -> RankPart:
        """The examples ``own`` of a batch whose ``outputs [examples, outputs]`` are rows of ``pool``."""
        valid, labelled = (counted[outputs] for counted in pool.counted)
        fractions = (self.group.world * mask[own].sum() / max(mask.sum(), 1) for mask in (valid, labelled))
        return RankPart(own.start, int(valid.sum()), *map(float, fractions))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The batches of a pool: the first row of each of their examples, in ``starts`` of all ranks, in ``own`` of this
    rank, on the device. The first ``skip`` are left out; ``done`` frames of the epoch are in earlier pools."""

    layout: Layout
    starts: list[np.ndarray]
    own: tuple[Tensor, ...]
    skip: int
    done: int


@dataclasses.dataclass(frozen=True)
class _Coming:
    """A pool that a thread reads, the next of those that ``plans`` has left for an epoch; None after the last."""

    epoch: int
    plans: Iterator[_Plan]
    result: Future[tuple[_Plan, Pool] | None]
