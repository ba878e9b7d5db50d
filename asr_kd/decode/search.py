"""Beam search: log-likelihoods through a decoding graph to the best path, or to a lattice of all good ones."""

import dataclasses

import numpy as np

from asr_kd.decode import search_kernels
from asr_kd.decode.lattice import Lattice
from asr_kd.decode.search_kernels import BEGIN, END, ENDLESS, FRAMES, LIMIT, LINKS, Graph, Limits
from asr_kd.errors import UserError

COMPACT_AT = 1 << 20  # tokens or links in memory before those that lead nowhere are first dropped
BLOCK = 100  # frames of one call of compiled code, between which Ctrl-C is handled


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How costs are combined and what is pruned. Every cost is a negative natural log.

    - ``acoustic_scale`` multiplies the log-likelihoods; ``word_penalty`` is added for each word.
    - ``beam``: tokens that cost this much more than the frame's best are dropped; ``max_active``: about how many stay.
    - ``lattice_beam``: a lattice holds the paths whose cost exceeds the best path's by up to this.
    """

    acoustic_scale: float = 0.1
    word_penalty: float = 0.0
    beam: float = 13.0
    max_active: int = 7000
    lattice_beam: float = 6.0

    def __post_init__(self) -> None:
        for name in ("acoustic_scale", "beam", "max_active"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not self.lattice_beam >= 0:
            raise UserError(f"lattice_beam is {self.lattice_beam}; expected 0 or more")
        if not np.isfinite(self.word_penalty):
            raise UserError(f"word_penalty is {self.word_penalty}; expected a finite number")


@dataclasses.dataclass(frozen=True)
class Path:
    """The best path: word ids, the frame at which the graph emits each, and the tied state of each frame.

    ``enters`` ``[frames]`` is false where the path takes a state's self-loop. ``complete`` is false if no final state
    of the graph was reached; the words are then those of the best unfinished path.
    """

    words: tuple[int, ...]
    frames: tuple[int, ...]
    states: np.ndarray
    enters: np.ndarray
    cost: float
    complete: bool


class Decoder:
    """Token-passing search over a ``Graph``: ``start``, ``advance`` by blocks of frames, then ``path`` or ``lattice``.

    Memory: the graph (mapped, shared by processes), 4 bytes for each of its states, and 24 bytes for each token and
    link that a surviving path uses. Time and memory are linear in the length of the audio.
    """

    def __init__(self, graph: Graph, options: SearchOptions, lattice: bool = False) -> None:
        self.graph, self.options = graph, options
        self.columns = graph.columns
        self._limits = Limits(
            float(options.acoustic_scale),
            float(options.word_penalty),
            float(options.beam),
            int(options.max_active),
            float(options.lattice_beam) if lattice else -1.0,
        )
        self._slot = np.empty(len(graph.states), np.int32)
        self._pool = np.empty(1 << 14, search_kernels.TOKEN)
        self._links = np.empty(1 << 14, search_kernels.LINK)
        self._stack = np.empty(1 << 10, np.int32)
        self.start()

    def start(self) -> None:
        """Forget the last utterance: one token in the graph's start state, and those reached from it without input."""
        self._slot.fill(-1)
        self._slot[self.graph.start] = 0
        self._pool[0] = (0.0, self.graph.start, -1, -1, 0)
        self._spans = np.zeros(6, np.int64)
        self._spans[END], self._spans[LIMIT] = 1, COMPACT_AT
        penalty = self._limits.word_penalty
        rest = (self._spans, np.inf)
        self._pool, self._stack = search_kernels.close(self.graph, penalty, self._slot, self._pool, self._stack, *rest)
        if self._limits.lattice_beam >= 0:
            self._links = search_kernels.link_closure(
                self.graph, self._limits, self._slot, self._pool, self._links, *rest
            )

    def advance(self, scores: np.ndarray) -> None:
        """Consume log-likelihoods ``[frames, states]``, natural log; -inf forbids a state at a frame.

        Raises ``UserError`` for NaN or +inf, for fewer columns than the graph has states, and where no path through the
        graph is left.
        """
        if scores.ndim != 2 or scores.shape[1] < self.columns:
            raise UserError(f"scores of shape {scores.shape}: the graph needs [frames, {self.columns} states]")
        if len(scores) and not scores.max() < np.inf:  # NaN compares false
            raise UserError("the log-likelihoods contain NaN or +inf; check the features and the network")
        scores = read_only(np.ascontiguousarray(scores, np.float32))
        for start in range(0, len(scores), BLOCK):
            self._advance(scores[start : start + BLOCK])

    def _advance(self, scores: np.ndarray) -> None:
        before = int(self._spans[FRAMES])
        buffers = self._slot, self._pool, self._links, self._stack, self._spans
        self._pool, self._links, self._stack = search_kernels.advance(self.graph, self._limits, *buffers, scores)
        if self._spans[ENDLESS]:
            raise UserError(
                f"the graph has too many input-epsilon paths at frame {self._spans[FRAMES]}; compile it again, with"
                " asr-kd graph compile"
            )
        if self._spans[FRAMES] < before + len(scores):
            raise UserError(
                f"no path through the graph has a likelihood above zero at frame {self._spans[FRAMES]}; raise --beam"
            )

    def path(self) -> Path:
        """The best path so far. It ends in a final state if any token is in one."""
        if not self._spans[FRAMES]:
            raise UserError("no frames: the audio is shorter than one analysis window")
        final, complete = self._final()
        last = self._pool[self._spans[BEGIN] : self._spans[END]]
        costs = last["cost"] + final
        best = int(np.argmin(costs))
        arcs = self.graph.arcs[search_kernels.trace(self._pool, int(self._spans[BEGIN]) + best)]
        return self._path(arcs, float(costs[best]), complete)

    def _path(self, arcs: np.ndarray, cost: float, complete: bool) -> Path:
        emitting = arcs["label"] > 0
        sources = np.concatenate([[self.graph.start], arcs["next"][:-1]])
        frame: np.ndarray = np.cumsum(emitting) - emitting  # of an arc without input: the frame about to come
        word = arcs["word"] > 0
        return Path(
            words=tuple(arcs["word"][word].tolist()),
            frames=tuple(np.minimum(frame[word], emitting.sum() - 1).tolist()),
            states=arcs["label"][emitting] - 1,
            enters=(sources != arcs["next"])[emitting],
            cost=cost,
            complete=complete,
        )

    def lattice(self) -> Lattice:
        """Every path within ``lattice_beam`` of the best; the decoder must have been made with ``lattice=True``."""
        assert self._limits.lattice_beam >= 0, "Decoder(..., lattice=True) keeps what a lattice needs"
        assert self._spans[FRAMES], "path() has refused an utterance without frames"
        final, _ = self._final()
        costs = self._pool["cost"][self._spans[BEGIN] : self._spans[END]] + final
        search_kernels.compact(self._pool, self._links, self._spans, costs - costs.min(), self._limits.lattice_beam)
        final, _ = self._final()
        links = self._links[: self._spans[LINKS]]
        arcs = self.graph.arcs[links["arc"]]
        word, label = arcs["word"], arcs["label"]
        acoustic = (arcs["cost"] + self._limits.word_penalty * (word > 0) - links["cost"]) / self._limits.acoustic_scale
        ends = np.full(self._spans[END], np.inf)
        ends[self._spans[BEGIN] :] = final
        self._spans[FRAMES] = 0  # the pool has been cut to the lattice: start() comes next
        return Lattice.build(links["source"], links["target"], links["cost"], acoustic, word, label > 0, ends)

    def decode(self, scores: np.ndarray) -> Path:
        """``start``, ``advance`` and ``path`` for one utterance."""
        self.start()
        self.advance(scores)
        return self.path()

    def _final(self) -> tuple[np.ndarray, bool]:
        """The cost of ending in each of the last tokens, 0 for all if none can end; and whether any can."""
        tokens = self._pool[self._spans[BEGIN] : self._spans[END]]
        final = self.graph.states["final"][tokens["state"]].astype(np.float64)
        complete = bool(np.isfinite(final).any())
        return (final if complete else np.zeros(len(final))), complete


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to: numba then sees one type, whether ``array`` is mapped or in memory."""
    view = array.view()
    view.flags.writeable = False
    return view
