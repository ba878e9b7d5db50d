"""The decoding graph of a deployed model: OpenFst's const format, aligned, so that processes map and share it."""

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr_kd.compiling import compiled
from asr_kd.decode.search_kernels import ARC, STATE, Graph
from asr_kd.errors import UserError
from asr_kd.files import atomic_write

if TYPE_CHECKING:
    from asr_kd.graph.fst import Fst

_HEADER = struct.Struct("<i i5s i8s i i Q q q q")  # magic, fst type, arc type, version, flags, properties, sizes
_MAGIC, _VERSION, _ALIGNED, _EXPANDED = 2125659606, 2, 4, 1
_ALIGNMENT = 16


def search_graph(fst: "Fst") -> Graph:
    """``fst`` as the search reads it: the arcs of each state sorted by input label, so those without input lead.

    Raises ``UserError`` for what ``Fst.check`` refuses and for a cycle of arcs without input.
    """
    fst.check()
    sources = fst.source
    if (np.diff(sources.astype(np.int64) << 32 | fst.ilabel) < 0).any():
        fst = type(fst).from_arcs(fst.start, fst.final, sources, fst.ilabel, fst.olabel, fst.weight, fst.nextstate)
    arcs = np.empty(fst.num_arcs, ARC)
    arcs["label"], arcs["word"], arcs["cost"], arcs["next"] = fst.ilabel, fst.olabel, fst.weight, fst.nextstate
    states = np.zeros(fst.num_states, STATE)
    states["final"], states["first"], states["arcs"] = fst.final, fst.offsets[:-1], np.diff(fst.offsets)
    for field, labels in (("silent", fst.ilabel), ("wordless", fst.olabel)):
        states[field] = np.bincount(fst.source[labels == 0], minlength=fst.num_states)
    arcs.flags.writeable = states.flags.writeable = False  # as a mapped file's: numba compiles for one type
    if _has_silent_cycle(states, arcs):
        raise UserError("the graph has a cycle of arcs without input, on which a search would not end")
    return Graph(fst.start, states, arcs)


def write_graph(graph: Graph, path: str | Path) -> None:
    """Write a graph that ``map_graph`` maps and that OpenFst and Kaldi read."""
    sizes = graph.start, len(graph.states), len(graph.arcs)
    header = _HEADER.pack(_MAGIC, 5, b"const", 8, b"standard", _VERSION, _ALIGNED, _EXPANDED, *sizes)
    with atomic_write(path, "wb") as stream:
        for block in (header, graph.states, graph.arcs):
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            stream.write(block if isinstance(block, bytes) else block.tobytes())


def map_graph(path: str | Path) -> Graph:
    """Map what ``write_graph`` wrote; ``UserError`` for another file or another length."""
    with open(path, "rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if stream.seek(0, 2) else b""
    fields = _HEADER.unpack_from(content) if len(content) > _HEADER.size else (None,)
    if fields[:7] != (_MAGIC, 5, b"const", 8, b"standard", _VERSION, _ALIGNED):
        raise UserError(f"{path}: not a graph of `asr-kd model build` (OpenFst const, aligned); build the model again")
    start, num_states, num_arcs = fields[8:]
    first_state = _aligned(_HEADER.size)
    first_arc = _aligned(first_state + STATE.itemsize * num_states)
    if len(content) != first_arc + ARC.itemsize * num_arcs or not 0 <= start < num_states:
        raise UserError(f"{path}: {len(content):,} bytes do not hold {num_states:,} states and {num_arcs:,} arcs")
    states = np.frombuffer(content, STATE, num_states, first_state)
    return Graph(start, states, np.frombuffer(content, ARC, num_arcs, first_arc))


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


@compiled()
def _has_silent_cycle(states, arcs):  # type: ignore[no-untyped-def]
    """Whether the arcs without input have no topological order (Kahn's algorithm)."""
    entering = np.zeros(len(states), np.int32)
    for node in states:
        for place in range(node.first, node.first + node.silent):
            entering[arcs[place].next] += 1
    ready = np.flatnonzero(entering == 0)
    ordered = len(ready)
    stack = np.empty(len(states), np.int64)
    stack[:ordered] = ready
    depth = ordered
    while depth > 0:
        depth -= 1
        node = states[stack[depth]]
        for place in range(node.first, node.first + node.silent):
            target = arcs[place].next
            entering[target] -= 1
            if entering[target] == 0:
                stack[depth] = target
                depth += 1
                ordered += 1
    return ordered < len(states)
