"""The decoding graph of a deployed model: OpenFst's const format, aligned, so that processes map and share it."""

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr_kd.compiling import compiled
from asr_kd.decode.search_kernels import ARC, STATE, Graph, grown
from asr_kd.errors import UserError
from asr_kd.files import atomic_write, open_regular
from asr_kd.limits import WORD_ID

if TYPE_CHECKING:
    from asr_kd.graph.fst import Fst

_HEADER = struct.Struct("<i i5s i8s i i Q q q q")  # magic, fst type, arc type, version, flags, properties, sizes
_MAGIC, _VERSION, _ALIGNED, _EXPANDED = 2125659606, 2, 4, 1
_ALIGNMENT = 16


def search_graph(fst: "Fst") -> Graph:
    """``fst`` in the form that the search reads: the arcs of each state sorted by input label, so label 0 comes first.

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
    columns, _ = _check("the graph", states, arcs, int(fst.olabel.max()) + 1)
    return Graph(fst.start, states, arcs, columns)


def write_graph(graph: Graph, path: str | Path) -> None:
    """Write a graph that ``map_graph`` maps and that OpenFst and Kaldi read."""
    sizes = graph.start, len(graph.states), len(graph.arcs)
    header = _HEADER.pack(_MAGIC, 5, b"const", 8, b"standard", _VERSION, _ALIGNED, _EXPANDED, *sizes)
    with atomic_write(path, "wb") as stream:
        for block in (header, graph.states, graph.arcs):
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            stream.write(block if isinstance(block, bytes) else block.tobytes())


def map_graph(path: str | Path, num_words: int = WORD_ID) -> tuple[Graph, np.ndarray]:
    """Map and check what ``write_graph`` wrote; returns the graph and, ``[num_words]``, which words it emits.

    Compiled code follows every index of the graph, so each is checked here, in one pass at the speed of memory. Raises
    ``UserError`` for another file or length, an index, label or word out of range, a cost that is NaN or minus
    infinity, and arcs without input that are out of order or form a cycle.
    """
    with open_regular(path) as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if stream.seek(0, 2) else b""
    fields = _HEADER.unpack_from(content) if len(content) > _HEADER.size else (None,)
    if fields[:7] != (_MAGIC, 5, b"const", 8, b"standard", _VERSION, _ALIGNED):
        raise UserError(f"{path}: not a graph written by `asr-kd model build`; build the model again")
    start, num_states, num_arcs = fields[8:]
    first_state = _aligned(_HEADER.size)
    first_arc = _aligned(first_state + STATE.itemsize * num_states)
    if len(content) != first_arc + ARC.itemsize * num_arcs or num_arcs < 0 or not 0 <= start < num_states:
        raise UserError(
            f"{path}: the header promises {num_states:,} states, start state {start:,} and {num_arcs:,} arcs, but the "
            f"file has {len(content):,} bytes; build the model again"
        )
    states = np.frombuffer(content, STATE, num_states, first_state)
    arcs = np.frombuffer(content, ARC, num_arcs, first_arc)
    columns, emitted = _check(str(path), states, arcs, num_words)
    return Graph(start, states, arcs, columns), emitted


def _check(name: str, states: np.ndarray, arcs: np.ndarray, num_words: int) -> tuple[int, np.ndarray]:
    """The highest input label and which words are emitted; ``UserError``, opened by ``name``, as in ``map_graph``."""
    emitted = np.zeros(num_words, np.bool_)
    faulty, columns, rising, falling, ends = _scan(states, arcs, emitted)
    if faulty >= 0:
        raise UserError(f"{name}: state {faulty}: {_fault(states, arcs, faulty, num_words)}; build the graph again")
    if not ends:
        raise UserError(f"{name}: no state is final, so no path can end; build the graph again")
    if _has_silent_cycle(states, arcs, rising < falling):
        raise UserError(
            f"{name}: it has a cycle of input-epsilon arcs, so the search would never end; build the graph again"
        )
    return int(columns), emitted


def _fault(states: np.ndarray, arcs: np.ndarray, number: int, num_words: int) -> str:
    """What ``_scan`` found wrong with state ``number``."""
    node = states[number]
    first, count, silent = int(node["first"]), int(node["arcs"]), int(node["silent"])
    expected = int(states["first"][number - 1]) + int(states["arcs"][number - 1]) if number else 0
    if first != expected or count < 0 or first + count > len(arcs):
        return f"its arcs are {first:,} to {first + count:,} of {len(arcs):,}; expected to start at {expected:,}"
    if not node["final"] > -np.inf:
        return f"its final cost is {node['final']}"
    if not 0 <= silent <= count:
        return f"it has {count:,} arcs, {silent:,} of them without input"
    for place, (label, word, cost, target) in enumerate(arcs[first : first + count].tolist()):
        arc = f"arc {place} (label {label}, word {word}, cost {cost:g}, next state {target})"
        if not 0 <= target < len(states):
            return f"{arc}: there are {len(states):,} states"
        if not 0 <= word < num_words:
            return f"{arc}: words.txt has {num_words:,} words"
        if not cost > -np.inf:
            return f"{arc}: the cost is not a number above minus infinity"
        if label < 0 or (label == 0) != (place < silent):
            return f"{arc}: its first {silent:,} arcs should have label 0, the others a label above 0"
        if label == 0 and target == number:
            return f"{arc}: an input-epsilon self-loop, so the search would never end"
    if first + count < len(arcs) and number == len(states) - 1:
        return f"its arcs end at {first + count:,}, but there are {len(arcs):,}"
    return f"it does not have {node['wordless']} arcs without a word, as it says"


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


@compiled()
def _scan(states, arcs, emitted):  # type: ignore[no-untyped-def]
    """Check every field of every state and arc in one pass over memory.

    Returns the first state with a fault, or -1; the highest input label; how many arcs without input go to a
    higher-numbered state and how many to a lower one; and whether any state is final. Sets ``emitted`` of each word
    on an arc.
    """
    expected, highest, rising, falling = np.int64(0), np.int32(0), 0, 0
    ends = False
    for number in range(len(states)):
        node = states[number]
        first, count, silent = np.int64(node.first), np.int64(node.arcs), np.int64(node.silent)
        if first != expected or count < 0 or first + count > len(arcs) or not 0 <= silent <= count:
            return number, highest, rising, falling, ends
        expected = first + count
        ends |= node.final < np.inf
        faulty, wordless = not node.final > -np.inf, 0
        for place in range(first, expected):
            arc = arcs[place]
            known = 0 <= arc.word < len(emitted)
            faulty |= not known or not 0 <= arc.next < len(states) or not arc.cost > -np.inf
            emitted[arc.word if known else 0] = True
            wordless += arc.word == 0
            if place < first + silent:
                faulty |= arc.label != 0 or arc.next == number
                rising += arc.next > number
                falling += arc.next < number
            else:
                faulty |= arc.label < 1
                highest = max(highest, arc.label)
        if faulty or wordless != node.wordless:
            return number, highest, rising, falling, ends
    return -1 if expected == len(arcs) else len(states) - 1, highest, rising, falling, ends


@compiled()
def _has_silent_cycle(states, arcs, rising):  # type: ignore[no-untyped-def]
    """Whether arcs without input form a cycle.

    State numbers both rise and fall along a cycle, so a depth-first search from the arcs of one direction finds them
    all. The caller chooses the rarer direction: ``rising``, to a higher number, or falling.
    """
    colour = np.zeros(len(states), np.uint8)  # 1: on the stack, 2: no cycle can be reached from it
    stack = np.empty(1024, np.int64)
    at = np.empty(1024, np.int64)  # the next arc of each state on the stack
    for number in range(len(states)):
        node = states[number]
        for place in range(node.first, node.first + node.silent):
            root = arcs[place].next
            if (root > number) != rising or colour[root] == 2:
                continue
            depth, stack[0], at[0], colour[root] = 1, root, states[root].first, 1
            while depth > 0:
                top = states[stack[depth - 1]]
                if at[depth - 1] == top.first + top.silent:
                    colour[stack[depth - 1]] = 2
                    depth -= 1
                    continue
                target = arcs[at[depth - 1]].next
                at[depth - 1] += 1
                if colour[target] == 1:
                    return True
                if colour[target] == 0 and states[target].silent > 0:
                    if depth == len(stack):
                        stack, at = grown(stack, depth + 1), grown(at, depth + 1)
                    stack[depth], at[depth], colour[target] = target, states[target].first, 1
                    depth += 1
    return False
