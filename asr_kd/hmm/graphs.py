"""Alignment graphs: the pronunciations of an utterance's words and optional silences, as phones in context.

The graphs depend on the lexicon and on the phones of a state space, not on its tree: a node is a position of a phone
between two neighbours, and ``StateSpace.table`` says which tied state that is. So they are built once for a whole
training run. All utterances share flat arrays, and nodes are in topological order: a predecessor has a smaller number.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from asr_kd.compiling import compiled
from asr_kd.errors import UserError
from asr_kd.hmm.lexicon import Lexicon, SilenceProbabilities
from asr_kd.hmm.states import StateSpace

START = -1  # the predecessor of the nodes where an utterance may begin
NO_WORD = -1  # the word of silence

_Pronunciation = tuple[int, tuple[int, ...]]  # its row of weights, -1 for silence; its phones
_Frontier = dict[tuple[int, int], list[int]]  # (phone, the next phone that it expects) -> its nodes


@dataclasses.dataclass(frozen=True)
class UtteranceGraphs:
    """Alignment graphs of several utterances. Silence is optional before, between and after words.

    Where the lexicon has no probabilities, every choice (a pronunciation, a silence or none) is equally likely: then
    ``weights`` and ``final_weights`` are empty, and a path's only probabilities are those of its states' self-loops.

    - ``bounds`` ``[utterances + 1]``: utterance u owns the nodes ``bounds[u]:bounds[u + 1]``.
    - ``left``, ``phone``, ``right``, ``position`` ``[nodes]``: the place of each node in ``StateSpace.table``.
    - ``word`` ``[nodes]``: index into the utterance's words; ``NO_WORD`` in silence.
    - ``instance`` ``[nodes]``: which phone of the graph the node is a position of.
    - ``preds`` and ``pred_bounds`` ``[nodes + 1]``: predecessors, as numbers within the utterance; ``START`` before
      the first phone.
    - ``final`` ``[nodes]``: whether the utterance may end here.
    - ``weights`` (one for each of ``preds``) and ``final_weights`` ``[nodes]``, float32 or empty: natural logs of the
      lexicon's probabilities, on the arc into a word's first phone or into a silence, and at the end.
    """

    bounds: np.ndarray
    left: np.ndarray
    phone: np.ndarray
    right: np.ndarray
    position: np.ndarray
    word: np.ndarray
    instance: np.ndarray
    preds: np.ndarray
    pred_bounds: np.ndarray
    final: np.ndarray
    weights: np.ndarray
    final_weights: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def states(self, space: StateSpace) -> np.ndarray:
        """The tied state of each node, ``[nodes]`` int32."""
        return space.table[self.left, self.phone, self.right, self.position]

    def shortest(self) -> np.ndarray:
        """The minimum number of frames for each utterance's words, ``[utterances]``."""
        return _shortest(self.bounds, self.preds, self.pred_bounds, self.final)


def build_graphs(space: StateSpace, lexicon: Lexicon, transcripts: Sequence[Sequence[str]]) -> UtteranceGraphs:
    """The graphs of ``transcripts``, a list of words for each utterance.

    Raises ``UserError`` for a word that ``lexicon`` lacks; callers with utterance ids should look for these first.
    """
    words = {word for transcript in transcripts for word in transcript}
    if absent := lexicon.missing(sorted(words)):
        raise UserError(f"not in the lexicon: {' '.join(absent[:10])}; add such words, or map them with --unknown spn")
    numbers = {phone: number for number, phone in enumerate(space.phones)}
    for phone in sorted({phone for word in words for pron in lexicon.entries[word] for phone in pron} - set(numbers)):
        space.index(phone)  # raises the error that names it
    weights = _Weights(lexicon) if lexicon.weights or lexicon.silences else None
    prons: dict[str, list[_Pronunciation]] = {}
    for word in sorted(words):
        ids = weights.add(word) if weights else [0] * len(lexicon.entries[word])
        phones = (tuple(numbers[phone] for phone in pron) for pron in lexicon.entries[word])
        prons[word] = list(zip(ids, phones, strict=True))
    builder = _Builder(numbers[space.silence[0]])
    for transcript in transcripts:
        builder.add([prons[word] for word in transcript])
    return _expand(builder, space.lengths, weights)


class _Weights:
    """Natural logs of the lexicon's probabilities as columns, a row for each pronunciation."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon, self.silences = lexicon, lexicon.silences or SilenceProbabilities()
        self.rows: list[tuple[float, float, float, float]] = []

    def add(self, word: str) -> list[int]:
        """The new rows of the pronunciations of ``word``."""
        for weights in self.lexicon.weights_of(word):
            after = self.silences.overall if weights.silence_after is None else weights.silence_after
            self.rows.append((weights.probability, after, weights.after_silence, weights.after_word))
        return list(range(len(self.rows) - len(self.lexicon.entries[word]), len(self.rows)))

    def arcs(self, rows: np.ndarray, source: np.ndarray, target: np.ndarray, within: np.ndarray) -> np.ndarray:
        """The weight of each arc between phones, ``[arcs]`` float32.

        ``rows`` ``[phones]`` is the row of each phone's pronunciation, -1 for a silence between words; ``source`` may
        be ``START``; arcs ``within`` a word have none.
        """
        probability, after, after_silence, after_word = self._columns()
        begin = np.log([1 - self.silences.begin, self.silences.begin])
        silent, next_silent = (source != START) & (rows[source] < 0), rows[target] < 0
        leave = np.where(next_silent, after[1][rows[source]], after[0][rows[source]])
        leave = np.where(silent, 0.0, np.where(source == START, begin[next_silent.astype(int)], leave))
        enter = probability[rows[target]] + np.where(silent, after_silence[rows[target]], after_word[rows[target]])
        return np.where(within, 0.0, leave + np.where(next_silent, 0.0, enter)).astype(np.float32)

    def ends(self, rows: np.ndarray) -> np.ndarray:
        """The weight of ending after each phone, ``[phones]``."""
        after_word = self._columns()[1][0][rows] + math.log(self.silences.end_after_word)
        return np.where(rows < 0, math.log(self.silences.end_after_silence), after_word)

    def _columns(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        columns = np.array([*self.rows, (1.0, 1.0, 1.0, 1.0)])  # the last row, -1, is that of silence, and not used
        with np.errstate(divide="ignore"):
            probability, after, after_silence, after_word = np.log(columns.T)
            return probability, (np.log1p(-columns[:, 1]), after), after_silence, after_word


class _Builder:
    """Grows the phones in context of all utterances, numbered over all of them."""

    def __init__(self, silence: int) -> None:
        self.silence = silence
        self.phones: list[tuple[int, int, int, int, int]] = []  # left, phone, right, word, pronunciation
        self.preds: list[list[int]] = []
        self.bounds = [0]
        self.finals: list[int] = []

    def add(self, words: list[list[_Pronunciation]]) -> None:
        """Append an utterance; each word is the list of its pronunciations."""
        silence: list[_Pronunciation] = [(-1, (self.silence,))]
        firsts = [{pron[0] for _, pron in prons} for prons in words] + [set()]
        frontier: _Frontier = {(self.silence, phone): [START] for phone in {self.silence} | firsts[0]}
        ending = {self.silence}  # beyond the utterance's end the context is silence
        after_silence = self._slot(silence, NO_WORD, frontier, firsts[0] or ending)
        for index, prons in enumerate(words):
            frontier = self._slot(prons, index, _merge(frontier, after_silence), {self.silence} | firsts[index + 1])
            after_silence = self._slot(silence, NO_WORD, frontier, firsts[index + 1] or ending)
        if words:
            after_silence = _merge(frontier, after_silence)
        self.finals += [node for (_, right), nodes in after_silence.items() if right == self.silence for node in nodes]
        self.bounds.append(len(self.phones))

    def _slot(self, prons: list[_Pronunciation], word: int, frontier: _Frontier, rights: set[int]) -> _Frontier:
        """Append one word after ``frontier``, in all contexts; the word's own frontier."""
        ends: _Frontier = defaultdict(list)
        entries = defaultdict(list)
        for (left, first), nodes in frontier.items():
            entries[first].append((left, nodes))
        for row, pron in prons:
            place = (word, row)
            if len(pron) == 1:
                for left, before in entries[pron[0]]:
                    for right in sorted(rights):
                        ends[pron[0], right].append(self._phone(left, pron[0], right, place, before))
                continue
            nodes = [self._phone(left, pron[0], pron[1], place, before) for left, before in entries[pron[0]]]
            for left, phone, right in zip(pron, pron[1:], pron[2:], strict=False):
                nodes = [self._phone(left, phone, right, place, nodes)]
            for right in sorted(rights):
                ends[pron[-1], right].append(self._phone(pron[-2], pron[-1], right, place, nodes))
        return ends

    def _phone(self, left: int, phone: int, right: int, place: tuple[int, int], preds: list[int]) -> int:
        self.phones.append((left, phone, right, *place))
        self.preds.append(preds)
        return len(self.phones) - 1


def _merge(one: _Frontier, other: _Frontier) -> _Frontier:
    return {key: one.get(key, []) + other.get(key, []) for key in {**one, **other}}


def _expand(builder: _Builder, lengths: np.ndarray, weights: _Weights | None) -> UtteranceGraphs:
    """Phones in context -> their positions, and predecessors numbered within each utterance."""
    left, phone, right, word, row = np.array(builder.phones, np.int32).reshape(-1, 5).T
    length = lengths[phone]
    first = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)  # the first node of each phone
    instance = np.repeat(np.arange(len(phone), dtype=np.int32), length)
    position = np.arange(first[-1]) - first[instance]
    bounds = first[np.array(builder.bounds)]
    base = np.repeat(bounds[:-1], np.diff(builder.bounds))  # the first node of each phone's utterance

    many = np.array([len(nodes) for nodes in builder.preds], np.int64)
    flat = np.array([node for nodes in builder.preds for node in nodes], np.int64)
    last = np.where(flat == START, START, first[flat + 1] - 1 - np.repeat(base, many))
    counts = np.ones(first[-1], np.int64)
    counts[first[:-1]] = many
    pred_bounds = np.concatenate([[0], np.cumsum(counts)])
    preds = np.empty(pred_bounds[-1], np.int32)
    opens = np.repeat(position == 0, counts)
    preds[opens] = last
    inner = np.flatnonzero(position > 0)
    preds[~opens] = inner - 1 - base[instance[inner]]
    final = np.zeros(first[-1], bool)
    final[first[np.array(builder.finals, np.int64) + 1] - 1] = True
    arc_weights = final_weights = np.zeros(0, np.float32)
    if weights is not None:
        target = np.repeat(np.arange(len(phone)), many)
        arc_weights = np.zeros(len(preds), np.float32)
        arc_weights[opens] = weights.arcs(row, flat, target, (flat != START) & (word[flat] == word[target]))
        final_weights = weights.ends(row)[instance].astype(np.float32)
    return UtteranceGraphs(
        bounds, left[instance], phone[instance], right[instance], position.astype(np.int32), word[instance],
        instance, preds, pred_bounds, final, arc_weights, final_weights,
    )  # fmt: skip


@compiled()
def _shortest(bounds, preds, pred_bounds, final):  # type: ignore[no-untyped-def]
    shortest = np.full(len(bounds) - 1, np.iinfo(np.int32).max, np.int32)
    frames = np.empty(len(final), np.int32)
    for utterance in range(len(shortest)):
        base = bounds[utterance]
        for node in range(base, bounds[utterance + 1]):
            frames[node] = np.iinfo(np.int32).max
            for k in range(pred_bounds[node], pred_bounds[node + 1]):
                frames[node] = min(frames[node], 1 + (frames[base + preds[k]] if preds[k] >= 0 else 0))
            if final[node]:
                shortest[utterance] = min(shortest[utterance], frames[node])
    return shortest
