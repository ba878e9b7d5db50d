"""Viterbi alignment: the best path of each utterance through the graph of its words."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from asr_kd.compiling import compiled
from asr_kd.errors import UserError, counted
from asr_kd.hmm.graphs import NO_WORD, UtteranceGraphs, build_graphs
from asr_kd.hmm.lexicon import Lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.parallel import Shared, parallel_threads, share

TOGETHER = 4  # utterances in one task
_IMPOSSIBLE = -1e30  # a log-probability


@dataclasses.dataclass(frozen=True)
class Segment:
    """A word or phone and the frames ``start:end`` that it lasts."""

    label: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Alignment:
    """``states`` ``[frames]`` int32, words and phones in time, and the path's natural log-likelihood.

    Silence between words belongs to no word; phones cover every frame.
    """

    states: np.ndarray
    words: tuple[Segment, ...]
    phones: tuple[Segment, ...]
    log_likelihood: float


def align(
    space: StateSpace, lexicon: Lexicon, words: Sequence[str], log_likelihoods: np.ndarray, beam: float = np.inf
) -> Alignment:
    """The best alignment of ``words`` to ``log_likelihoods`` ``[frames, states]`` (natural log, scaled by the caller).

    Raises ``UserError`` for a word outside the lexicon, a matrix of another number of states or one that is not
    finite, and for fewer frames than the words need.
    """
    aligner = Aligner(space, build_graphs(space, lexicon, [words]))
    if log_likelihoods.ndim != 2 or log_likelihoods.shape[1] != space.num_states:
        shape = " x ".join(map(str, log_likelihoods.shape))
        raise UserError(f"log-likelihoods are {shape}; expected frames x {counted(space.num_states, 'state')}")
    needed = int(aligner.graphs.shortest()[0])
    if len(log_likelihoods) < needed:
        raise UserError(
            f"{counted(len(log_likelihoods), 'frame')} for {counted(len(words), 'word')}, which need {needed:,}: the"
            " audio is too short for its words; check the transcript"
        )
    path, score = aligner.best_path(0, log_likelihoods[:, aligner.states(0)], beam)
    return aligner.alignment(path, words, score)


class Aligner:
    """Aligns the utterances of ``graphs`` with the states and self-loops of ``space``."""

    def __init__(self, space: StateSpace, graphs: UtteranceGraphs) -> None:
        self.space, self.graphs = space, graphs
        self.node_states = graphs.states(space)
        self._loop, self._leave = space.log_loop[self.node_states], space.log_next[self.node_states]

    def states(self, utterance: int) -> np.ndarray:
        """The distinct states that an utterance may pass through, sorted."""
        return np.unique(self.node_states[self._nodes(utterance)])

    def best_path(self, utterance: int, log_likelihoods: np.ndarray, beam: float = np.inf) -> tuple[np.ndarray, float]:
        """The node of each frame ``[frames]`` (numbered over all graphs) and the path's log-likelihood.

        ``log_likelihoods`` ``[frames, len(states(utterance))]``. Nodes at either end of the active stretch that are
        worse than the best by more than ``beam`` are dropped; if that loses every complete path, all are searched.
        """
        nodes, graphs = self._nodes(utterance), self.graphs
        if not np.isfinite(log_likelihoods).all():
            raise UserError("the log-likelihoods are not all finite; look for NaN in the features")
        columns = np.searchsorted(self.states(utterance), self.node_states[nodes])
        bounds = graphs.pred_bounds[nodes.start : nodes.stop + 1]
        preds = graphs.preds[bounds[0] : bounds[-1]]
        frames = np.ascontiguousarray(log_likelihoods, np.float32)
        # The arrays below are copied: shared ones are read-only, for which another function would be compiled.
        weights, ends = graphs.weights[bounds[0] : bounds[-1]], graphs.final_weights[nodes]
        if not len(graphs.weights):
            weights, ends = np.zeros(len(preds), np.float32), np.zeros(len(columns), np.float32)
        for width in dict.fromkeys((beam, np.inf)):
            path, score = _viterbi(
                frames, columns, *map(np.array, (self._loop[nodes], self._leave[nodes], preds)), bounds - bounds[0],
                *map(np.array, (weights, graphs.final[nodes], ends)), width,
            )  # fmt: skip
            if score > _IMPOSSIBLE / 2:
                return path + nodes.start, score
        raise UserError(f"{counted(len(frames), 'frame')}: the audio is too short for its words; check the transcript")

    def alignment(self, path: np.ndarray, words: Sequence[str], log_likelihood: float) -> Alignment:
        """A path of nodes as states, words and phones in time."""
        phones = [self.space.phones[phone] for phone in self.graphs.phone[path]]
        return Alignment(
            self.node_states[path],
            _segments(self.graphs.word[path], lambda start, word: words[word]),
            _segments(self.graphs.instance[path], lambda start, instance: phones[start]),
            log_likelihood,
        )

    def _nodes(self, utterance: int) -> slice:
        return slice(int(self.graphs.bounds[utterance]), int(self.graphs.bounds[utterance + 1]))


LogLikelihoods = Callable[[int, np.ndarray], np.ndarray]


def align_all(
    aligner: Aligner, log_likelihoods: LogLikelihoods, beam: float = 200.0, jobs: int = 1
) -> Iterator[tuple[np.ndarray, float]]:
    """``best_path`` of every utterance, in order, by ``jobs`` threads; a ``UserError`` names the utterance.

    ``log_likelihoods(utterance, states)`` -> ``[frames, len(states)]``, of those states only. The search and the
    matrix products release the interpreter's lock, so that threads are as good as processes and share the features.
    """
    work = share(_Work(aligner, log_likelihoods, beam))
    with parallel_threads(jobs) as pool:
        for paths in pool.map(_best_paths, [(work, batch) for batch in batches(range(len(aligner.graphs)))]):
            yield from paths


@dataclasses.dataclass(frozen=True)
class _Work:
    aligner: Aligner
    log_likelihoods: LogLikelihoods
    beam: float


def batches(utterances: Sequence[int]) -> list[Sequence[int]]:
    """Utterances to align in one task."""
    return [utterances[start : start + TOGETHER] for start in range(0, len(utterances), TOGETHER)]


def _best_paths(task: tuple[Shared[_Work], Sequence[int]]) -> list[tuple[np.ndarray, float]]:
    work, aligner = task[0].value, task[0].value.aligner
    paths = []
    for utterance in task[1]:
        try:
            scores = work.log_likelihoods(utterance, aligner.states(utterance))
            paths.append(aligner.best_path(utterance, scores, work.beam))
        except UserError as error:
            raise UserError(f"utterance {utterance}, counted from 0: {error}") from None
    return paths


def _segments(labels: np.ndarray, name: Callable[[int, int], str]) -> tuple[Segment, ...]:
    """Runs of equal labels; negative ones are left out."""
    starts = np.flatnonzero(np.diff(labels, prepend=-2))
    ends = np.append(starts[1:], len(labels))
    runs = zip(starts.tolist(), ends.tolist(), strict=True)
    return tuple(Segment(name(a, int(labels[a])), a, b) for a, b in runs if labels[a] != NO_WORD)


@compiled()
def _viterbi(  # type: ignore[no-untyped-def]
    frames, columns, loop, leave, preds, bounds, weights, final, ends, beam
):
    """Nodes are in topological order and visited backwards, so one array of scores is enough."""
    count, nodes = len(frames), len(columns)
    came = np.empty((count, nodes), np.int16)  # 0: stayed; k: from the k-th predecessor
    score = np.full(nodes, _IMPOSSIBLE)
    reach = np.zeros(nodes, np.int64)  # the last node that this one, or one before it, leads to
    high = 0
    for node in range(nodes):
        reach[node] = max(reach[node], node, reach[node - 1] if node else 0)
        for k in range(bounds[node], bounds[node + 1]):
            if preds[k] >= 0:
                reach[preds[k]] = max(reach[preds[k]], node)
            else:
                score[node] = frames[0, columns[node]] + weights[k]
                high = node
    for node in range(1, nodes):
        reach[node] = max(reach[node], reach[node - 1])
    low = 0
    for t in range(1, count):
        high = reach[high]
        best = 2 * _IMPOSSIBLE
        for node in range(high, low - 1, -1):
            value, choice = score[node] + loop[node], 0
            for k in range(bounds[node], bounds[node + 1]):
                pred = preds[k]
                if pred >= 0 and score[pred] + leave[pred] + weights[k] > value:
                    value, choice = score[pred] + leave[pred] + weights[k], k - bounds[node] + 1
            score[node] = value + frames[t, columns[node]]
            came[t, node] = choice
            best = max(best, score[node])
        while score[low] < best - beam:
            score[low] = _IMPOSSIBLE
            low += 1
        while score[high] < best - beam:
            score[high] = _IMPOSSIBLE
            high -= 1
    path = np.empty(count, np.int32)
    end, total = -1, _IMPOSSIBLE
    for node in range(nodes):
        if final[node] and score[node] + leave[node] + ends[node] > total:
            end, total = node, score[node] + leave[node] + ends[node]
    for t in range(count - 1, -1, -1):
        path[t] = end
        if end >= 0 and t > 0 and came[t, end]:
            end = preds[bounds[end] + came[t, end] - 1]
    return path, total
