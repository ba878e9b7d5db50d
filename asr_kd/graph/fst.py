"""Weighted finite-state transducers as numpy arrays, in OpenFst's binary formats."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from asr_kd.errors import UserError, counted
from asr_kd.files import atomic_write, open_regular
from asr_kd.limits import GRAPH_BYTES

EPSILON = 0
NOT_FINAL = np.float32(np.inf)

_REMEDY = "compile the graph again, or copy it again"
_MAGIC, _SYMBOLS_MAGIC = 2125659606, 2125658996
_HAS_INPUT_SYMBOLS, _HAS_OUTPUT_SYMBOLS, _IS_ALIGNED = 1, 2, 4
_ARC = np.dtype([("ilabel", "<i4"), ("olabel", "<i4"), ("weight", "<f4"), ("nextstate", "<i4")])
_CONST_STATE = np.dtype(
    [("final", "<f4"), ("offset", "<u4"), ("arcs", "<u4"), ("input_epsilons", "<u4"), ("output_epsilons", "<u4")]
)


@dataclasses.dataclass(frozen=True)
class Fst:
    """A transducer over the tropical semiring: a weight is a cost, the negative natural log of a probability.

    - ``start``: the initial state.
    - ``final`` ``[states]`` float32: the cost of ending in each state; infinity where a path may not end.
    - ``offsets`` ``[states + 1]`` int64: the arcs of state ``s`` are ``offsets[s]:offsets[s + 1]``.
    - ``ilabel``, ``olabel``, ``nextstate`` ``[arcs]`` int32 and ``weight`` ``[arcs]`` float32; label 0 is epsilon.
    """

    start: int
    final: np.ndarray
    offsets: np.ndarray
    ilabel: np.ndarray
    olabel: np.ndarray
    weight: np.ndarray
    nextstate: np.ndarray

    @property
    def num_states(self) -> int:
        """Number of states."""
        return len(self.final)

    @property
    def num_arcs(self) -> int:
        """Number of arcs."""
        return len(self.ilabel)

    @property
    def source(self) -> np.ndarray:
        """The state that each arc leaves, ``[arcs]`` int32."""
        return np.repeat(np.arange(self.num_states, dtype=np.int32), np.diff(self.offsets))

    @classmethod
    def from_arcs(
        cls,
        start: int,
        final: np.ndarray,
        source: np.ndarray,
        ilabel: np.ndarray,
        olabel: np.ndarray,
        weight: np.ndarray,
        nextstate: np.ndarray,
    ) -> "Fst":
        """Sort arcs, given in any order, by source, then input label (stable)."""
        key = source.astype(np.int64) << 32 | ilabel.astype(np.int64)
        order = np.argsort(key, kind="stable")
        offsets = np.zeros(len(final) + 1, np.int64)
        np.cumsum(np.bincount(source, minlength=len(final)), out=offsets[1:])
        labels = [np.asarray(values, np.int32)[order] for values in (ilabel, olabel, nextstate)]
        costs = np.asarray(weight, np.float32)[order]
        return cls(int(start), np.asarray(final, np.float32), offsets, labels[0], labels[1], costs, labels[2])

    def check(self, name: str | Path = "graph", max_ilabel: int | None = None, max_olabel: int | None = None) -> None:
        """Raise ``UserError``, opened by ``name``, for what would crash a decoder or make it read outside its arrays.

        That is: no states or arcs, no start or final state, an arc to a missing state, a negative label or one above
        the given maximum, a cost that is NaN or minus infinity.
        """
        if not self.num_states or not self.num_arcs:
            raise UserError(
                f"{name}: the graph is empty ({counted(self.num_states, 'state')}, {counted(self.num_arcs, 'arc')});"
                f" {_REMEDY}"
            )
        if not 0 <= self.start < self.num_states:
            raise UserError(
                f"{name}: start state {self.start} is not one of its {counted(self.num_states, 'state')}; {_REMEDY}"
            )
        if not np.isfinite(self.final).any():
            raise UserError(f"{name}: the graph has no final state, so no path through it can end; {_REMEDY}")
        if self.nextstate.min() < 0 or self.nextstate.max() >= self.num_states:
            bad = np.flatnonzero((self.nextstate < 0) | (self.nextstate >= self.num_states))[0]
            state = np.searchsorted(self.offsets, bad, "right") - 1
            raise UserError(
                f"{name}: an arc of state {state} goes to state {self.nextstate[bad]}, which is missing; {_REMEDY}"
            )
        for side, labels, limit in (("input", self.ilabel, max_ilabel), ("output", self.olabel, max_olabel)):
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or (limit is not None and high > limit):
                found = low if low < 0 else high
                raise UserError(
                    f"{name}: {side} label {found} is outside 0..{limit if limit is not None else ''}; {_REMEDY}"
                )
        for costs in (self.weight, self.final):
            if np.isnan(costs).any() or np.isneginf(costs).any():
                raise UserError(f"{name}: a cost is NaN or minus infinity; {_REMEDY}")

    def connect(self) -> "Fst":
        """Keep what is on a path from the start to a final state; states are numbered breadth-first from the start.

        The result has no states if there is no such path.
        """
        states, source = self.num_states, self.source
        ends = np.flatnonzero(np.isfinite(self.final))
        backward = np.concatenate([self.nextstate, np.full(len(ends), states)])
        towards = np.concatenate([source, ends])
        useful = np.zeros(states + 1, bool)
        useful[_reachable(backward, towards, states + 1, states)] = True
        keep = useful[self.nextstate] & useful[source]
        if not states or not useful[self.start]:
            empty = np.zeros(0, np.int32)
            return Fst(-1, np.zeros(0, np.float32), np.zeros(1, np.int64), empty, empty, np.zeros(0, np.float32), empty)
        order = _reachable(source[keep], self.nextstate[keep], states, self.start)
        number = np.full(states, -1, np.int32)
        number[order] = np.arange(len(order))
        keep &= number[source] >= 0
        arcs = (number[source[keep]], self.ilabel[keep], self.olabel[keep], self.weight[keep])
        return Fst.from_arcs(0, self.final[order], *arcs, number[self.nextstate[keep]])

    def write(self, path: str | Path, kind: str = "const") -> None:
        """Write OpenFst's ``const`` or ``vector`` format, atomically."""
        arcs = np.empty(self.num_arcs, _ARC)
        for name in _ARC.names or ():
            arcs[name] = getattr(self, name)
        with atomic_write(path, "wb") as stream:
            stream.write(_header(kind, self))
            if kind == "const":
                stream.write(self._const_states().tobytes())
                stream.write(arcs.tobytes())
            else:
                stream.write(self._vector_body(arcs).tobytes())

    def _const_states(self) -> np.ndarray:
        states = np.zeros(self.num_states, _CONST_STATE)
        states["final"], states["offset"], states["arcs"] = self.final, self.offsets[:-1], np.diff(self.offsets)
        for field, labels in (("input_epsilons", self.ilabel), ("output_epsilons", self.olabel)):
            before = np.concatenate([[0], np.cumsum(labels == EPSILON)])
            states[field] = before[self.offsets[1:]] - before[self.offsets[:-1]]
        return states

    def _vector_body(self, arcs: np.ndarray) -> np.ndarray:
        """Each state is its cost, its number of arcs (int64) and the arcs: 3 words of 32 bits, then 4 for each arc."""
        body = np.empty(3 * self.num_states + 4 * self.num_arcs, "<i4")
        heads = 3 * np.arange(self.num_states) + 4 * self.offsets[:-1]
        body[heads] = self.final.view(np.int32)
        body[heads + 1], body[heads + 2] = np.diff(self.offsets), 0
        arc_words = np.ones(len(body), bool)
        arc_words[heads] = arc_words[heads + 1] = arc_words[heads + 2] = False
        body[arc_words] = arcs.view("<i4")
        return body

    @classmethod
    def read(cls, path: str | Path) -> "Fst":
        """Read OpenFst's ``const`` or ``vector`` format with standard arcs, symbol tables skipped, and check it.

        Raises ``UserError`` for another format, a truncated file, or what ``check`` refuses.
        """
        with open_regular(path) as stream:
            if (size := os.fstat(stream.fileno()).st_size) > GRAPH_BYTES:
                raise UserError(f"{path}: {size:,} bytes; expected at most {GRAPH_BYTES:,}")
            content = stream.read()
        fst = _Reader(content, path).fst()
        fst.check(path)
        return fst


class _Reader:
    """A cursor over the bytes of an OpenFst file; ``UserError`` where they end too early."""

    def __init__(self, content: bytes, path: str | Path) -> None:
        self.content, self.path, self.at = content, path, 0

    def fst(self) -> Fst:
        if len(self.content) < 4 or self.take("<i4") != _MAGIC:
            raise UserError(f"{self.path}: not an OpenFst binary file; compile a graph in text form with fstcompile")
        kind, arc_type = self.string(), self.string()
        version, flags, _, start, states, arcs = (self.take(t) for t in ("<i4", "<i4", "<u8", "<i8", "<i8", "<i8"))
        if kind not in ("const", "vector") or arc_type != "standard":
            raise UserError(
                f"{self.path}: type {kind!r} with {arc_type!r} arcs; expected const or vector with 'standard' arcs;"
                " convert it with fstconvert or fstmap"
            )
        for flag in (_HAS_INPUT_SYMBOLS, _HAS_OUTPUT_SYMBOLS):
            if flags & flag:
                self.skip_symbols()
        aligned = kind == "const" and (version == 1 or bool(flags & _IS_ALIGNED))
        return self.const(start, states, arcs, aligned) if kind == "const" else self.vector(start, states)

    def const(self, start: int, states: int, arcs: int, aligned: bool) -> Fst:
        tables = []
        for dtype, count in ((_CONST_STATE, states), (_ARC, arcs)):
            if aligned:
                self.at = -(-self.at // 16) * 16
            tables.append(self.array(dtype, count))
        heads, table = tables
        offsets = np.concatenate([heads["offset"].astype(np.int64), [arcs]])
        if offsets[0] != 0 or not np.array_equal(np.diff(offsets), heads["arcs"]):
            raise UserError(
                f"{self.path}: its states do not list its {counted(arcs, 'arc')} in order; the file is damaged"
            )
        return _assemble(start, heads["final"], offsets, table)

    def vector(self, start: int, states: int) -> Fst:
        """The heads of the states are found one after the other, as each says where the next one is."""
        words = np.frombuffer(self.content[self.at :], "<i4", (len(self.content) - self.at) // 4)  # a copy is aligned
        view, at = memoryview(words.data), 0
        heads: list[int] = []
        limit = len(words) - 2
        while at < limit and len(heads) != states:  # a negative count of states: as many as there are
            heads.append(at)
            if view[at + 1] < 0:
                raise UserError(
                    f"{self.path}: state {len(heads) - 1} has a negative number of arcs; the file is damaged"
                )
            at += 3 + 4 * view[at + 1]
        if at > len(words) or len(heads) < states:
            raise UserError(f"{self.path}: truncated: it ends in state {len(heads) - 1} of {states:,}")
        starts = np.array(heads, np.int64)
        arc_words = np.ones(at, bool)
        for word in range(3):
            arc_words[starts + word] = False
        offsets = np.concatenate([[0], np.cumsum(words[starts + 1], dtype=np.int64)])
        return _assemble(start, words[starts].view("<f4"), offsets, words[:at][arc_words].view(_ARC))

    def take(self, dtype: str) -> int:
        return int(self.array(np.dtype(dtype), 1)[0])

    def array(self, dtype: np.dtype, count: int) -> np.ndarray:
        size = dtype.itemsize * count
        if count < 0 or self.at + size > len(self.content):
            raise UserError(
                f"{self.path}: truncated: {len(self.content):,} bytes, at least {self.at + size:,} expected"
            )
        values = np.frombuffer(self.content, dtype, count, self.at)
        self.at += size
        return values

    def string(self) -> str:
        return self.array(np.dtype("u1"), self.take("<i4")).tobytes().decode(errors="replace")

    def skip_symbols(self) -> None:
        if self.take("<i4") != _SYMBOLS_MAGIC:
            raise UserError(f"{self.path}: a symbol table is damaged")
        self.string()
        self.take("<i8")
        for _ in range(self.take("<i8")):
            self.string()
            self.take("<i8")


def to_kaldifst(fst: Fst) -> Any:
    """The same graph as a ``kaldifst.StdVectorFst``; checked first, because kaldifst crashes on a bad one."""
    import kaldifst

    fst.check()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.fst"
        fst.write(path, kind="vector")
        return kaldifst.StdVectorFst.read(str(path))


def from_kaldifst(graph: Any) -> Fst:
    """The arrays of a kaldifst graph (vector or const)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.fst"
        graph.write(str(path))
        return Fst.read(path)


def ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers ``starts[i]``, ..., ``starts[i] + counts[i] - 1`` for each i, after the i that each belongs to."""
    item = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return item, np.arange(len(item)) + (np.asarray(starts) - first)[item]


def distinct(values: np.ndarray) -> np.ndarray:
    """The sorted distinct values; ``np.unique`` hashes (numpy 2.3), which takes ten times as long on millions."""
    values = np.sort(values)
    return values[np.concatenate([np.ones(min(1, len(values)), bool), values[1:] != values[:-1]])]


def _assemble(start: int, final: np.ndarray, offsets: np.ndarray, arcs: np.ndarray) -> Fst:
    columns = [np.ascontiguousarray(arcs[name]) for name in ("ilabel", "olabel", "weight", "nextstate")]
    return Fst(start, np.ascontiguousarray(final), offsets, *columns)


def _header(kind: str, fst: Fst) -> bytes:
    def string(text: str) -> bytes:
        return len(text).to_bytes(4, "little") + text.encode()

    properties = {"const": 1, "vector": 3}[kind]  # expanded; expanded and mutable
    sizes = np.array([fst.start, fst.num_states, fst.num_arcs], "<i8").tobytes()
    versions = np.array([_MAGIC], "<i4").tobytes(), np.array([2, 0], "<i4").tobytes()
    return versions[0] + string(kind) + string("standard") + versions[1] + properties.to_bytes(8, "little") + sizes


def _reachable(source: np.ndarray, target: np.ndarray, states: int, start: int) -> np.ndarray:
    """The states that can be reached from ``start``, in breadth-first order."""
    links = csr_array((np.ones(len(source)), (source, target)), shape=(states, states))
    return breadth_first_order(links, start, return_predecessors=False)
