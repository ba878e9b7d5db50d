"""What an utterance's words may sound like: pronunciations and optional silences as graphs of phones in context.

The graphs depend on the lexicon and on the phones of a state space, not on its tree: a node is a position of a phone
between two neighbours, and ``StateSpace.table`` says which tied state that is. So they are built once for a whole
training run. All utterances share flat arrays, and nodes are in topological order: a predecessor has a smaller number.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from asr_kd.compiling import compiled
from asr_kd.errors import UserError
from asr_kd.hmm.lexicon import Lexicon
from asr_kd.hmm.states import StateSpace

START = -1  # the predecessor of the nodes where an utterance may begin
NO_WORD = -1  # the word of silence

_Frontier = dict[tuple[int, int], list[int]]  # (phone, the next phone that it expects) -> its nodes


@dataclasses.dataclass(frozen=True)
class UtteranceGraphs:
    """Alignment graphs of several utterances. Silence is optional before, between and after words.

    Every choice (a pronunciation, a silence or none) is equally likely, so that no weights are stored: the only
    probabilities of a path are those of its states' self-loops.

    - ``bounds`` ``[utterances + 1]``: utterance u owns the nodes ``bounds[u]:bounds[u + 1]``.
    - ``left``, ``phone``, ``right``, ``position`` ``[nodes]``: the place of each node in ``StateSpace.table``.
    - ``word`` ``[nodes]``: index into the utterance's words; ``NO_WORD`` in silence.
    - ``instance`` ``[nodes]``: which phone of the graph the node is a position of.
    - ``preds`` and ``pred_bounds`` ``[nodes + 1]``: predecessors, as numbers within the utterance; ``START`` before
      the first phone.
    - ``final`` ``[nodes]``: whether the utterance may end here.
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

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def states(self, space: StateSpace) -> np.ndarray:
        """The tied state of each node, ``[nodes]`` int32."""
        return space.table[self.left, self.phone, self.right, self.position]

    def shortest(self) -> np.ndarray:
        """The fewest frames in which each utterance's words can be said, ``[utterances]``."""
        return _shortest(self.bounds, self.preds, self.pred_bounds, self.final)


def build_graphs(space: StateSpace, lexicon: Lexicon, transcripts: Sequence[Sequence[str]]) -> UtteranceGraphs:
    """The graphs of ``transcripts``, a list of words for each utterance.

    Raises ``UserError`` for a word that ``lexicon`` lacks; callers with utterance ids should look for these first.
    """
    words = {word for transcript in transcripts for word in transcript}
    if absent := lexicon.missing(sorted(words)):
        raise UserError(f"{len(absent)} word(s) are not in the lexicon: {' '.join(absent[:10])}; add them")
    numbers = {phone: number for number, phone in enumerate(space.phones)}
    for phone in sorted({phone for word in words for pron in lexicon.entries[word] for phone in pron} - set(numbers)):
        space.index(phone)  # raises the error that names it
    prons = {word: [tuple(numbers[phone] for phone in pron) for pron in lexicon.entries[word]] for word in words}
    builder = _Builder(numbers[space.silence[0]])
    for transcript in transcripts:
        builder.add([prons[word] for word in transcript])
    return _expand(builder, space.lengths)


class _Builder:
    """Grows the phones in context of all utterances, numbered over all of them."""

    def __init__(self, silence: int) -> None:
        self.silence = silence
        self.phones: list[tuple[int, int, int, int]] = []  # left, phone, right, word
        self.preds: list[list[int]] = []
        self.bounds = [0]
        self.finals: list[int] = []

    def add(self, words: list[list[tuple[int, ...]]]) -> None:
        """Append an utterance; each word is the list of its pronunciations."""
        silence: list[tuple[int, ...]] = [(self.silence,)]
        firsts = [{pron[0] for pron in prons} for prons in words] + [set()]
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

    def _slot(self, prons: list[tuple[int, ...]], word: int, frontier: _Frontier, rights: set[int]) -> _Frontier:
        """Append one word after ``frontier``, in all contexts; the word's own frontier."""
        ends: _Frontier = defaultdict(list)
        entries = defaultdict(list)
        for (left, first), nodes in frontier.items():
            entries[first].append((left, nodes))
        for pron in prons:
            if len(pron) == 1:
                for left, before in entries[pron[0]]:
                    for right in sorted(rights):
                        ends[pron[0], right].append(self._phone(left, pron[0], right, word, before))
                continue
            nodes = [self._phone(left, pron[0], pron[1], word, before) for left, before in entries[pron[0]]]
            for left, phone, right in zip(pron, pron[1:], pron[2:], strict=False):
                nodes = [self._phone(left, phone, right, word, nodes)]
            for right in sorted(rights):
                ends[pron[-1], right].append(self._phone(pron[-2], pron[-1], right, word, nodes))
        return ends

    def _phone(self, left: int, phone: int, right: int, word: int, preds: list[int]) -> int:
        self.phones.append((left, phone, right, word))
        self.preds.append(preds)
        return len(self.phones) - 1


def _merge(one: _Frontier, other: _Frontier) -> _Frontier:
    return {key: one.get(key, []) + other.get(key, []) for key in {**one, **other}}


def _expand(builder: _Builder, lengths: np.ndarray) -> UtteranceGraphs:
    """Phones in context -> their positions, and predecessors numbered within each utterance."""
    left, phone, right, word = np.array(builder.phones, np.int32).reshape(-1, 4).T
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
    return UtteranceGraphs(
        bounds, left[instance], phone[instance], right[instance], position.astype(np.int32), word[instance],
        instance, preds, pred_bounds, final,
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
