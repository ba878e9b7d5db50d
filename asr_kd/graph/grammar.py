"""An n-gram language model as a grammar transducer G: words in, words out, back-off by epsilon arcs."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from asr_kd.errors import UserError
from asr_kd.graph.arpa import BEGIN, END, Arpa
from asr_kd.graph.fst import EPSILON, NOT_FINAL, Fst


@dataclasses.dataclass(frozen=True)
class _Histories:
    """The histories that have a continuation of their own, each a state of G.

    ``state[k]`` ``[n-grams of order k]``: the state of each n-gram as a history, -1 where it has none; order 0 is the
    empty history, state 0. ``count``: how many there are.
    """

    arpa: Arpa
    state: list[np.ndarray]
    count: int

    def resolve(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The state after the last words ``[n, k]``, and the back-off weight (log10) paid on the way to it.

        An n-gram without continuations would be a state with nothing but a back-off arc (five of six in a pruned
        model). Backing off to the longest history that has some is exact, and G and what is built from it are smaller.
        """
        state, paid = np.full(len(words), -1, np.int64), np.zeros(len(words))
        for length in range(words.shape[1], 0, -1):
            todo = np.flatnonzero(state < 0)
            row = self.arpa.find(words[todo, words.shape[1] - length :])
            known = row >= 0
            state[todo[known]] = self.state[length][row[known]]
            skipped = known & (state[todo] < 0)
            paid[todo[skipped]] += self.arpa.grams[length - 1].backoff[row[skipped]]
        return np.maximum(state, 0), paid


def make_grammar(arpa: Arpa, words: Sequence[str]) -> Fst:
    """The grammar over ``words``, whose labels are their places in the list plus 1; costs are natural logs.

    N-grams with any other word (``<unk>``, say) are left out; their probability is lost. ``<s>`` is the start state's
    history, ``</s>`` the final cost. Raises ``UserError`` if no sentence is left.
    """
    histories = _histories(arpa)
    label = _labels(arpa, words)
    begin, end = (arpa.vocabulary.index(word) if word in arpa.vocabulary else -1 for word in (BEGIN, END))
    final = np.full(histories.count, NOT_FINAL)
    arcs = [_backoff_arcs(histories)]
    for order, grams in enumerate(arpa.grams, 1):
        source = histories.state[order - 1][arpa.find(grams.words[:, :-1])] if order > 1 else np.zeros(len(grams.words))
        source = source.astype(np.int64)
        ends = grams.words[:, -1] == end
        final[source[ends]] = -math.log(10) * grams.log_prob[ends]
        keep = label[grams.words[:, -1]] > 0
        state, paid = histories.resolve(
            grams.words[keep][:, -arpa.order + 1 :] if arpa.order > 1 else grams.words[keep][:, :0]
        )
        labels = label[grams.words[keep, -1]]
        arcs.append((source[keep], labels, -math.log(10) * (grams.log_prob[keep] + paid), state))
    start, paid = (
        histories.resolve(np.array([[begin]])) if begin >= 0 and arpa.order > 1 else (np.zeros(1), np.zeros(1))
    )
    source, labels, cost, nextstate = (np.concatenate(column) for column in zip(*arcs, strict=True))
    grammar = Fst.from_arcs(int(start[0]), final, source, labels, labels, cost, nextstate).connect()
    if not grammar.num_arcs or not (grammar.ilabel > EPSILON).any():
        raise UserError("the grammar is empty: none of the language model's words is in the lexicon")
    return grammar


def _labels(arpa: Arpa, words: Sequence[str]) -> np.ndarray:
    number = {word: place for place, word in enumerate(words, 1)}
    return np.array([number.get(word, 0) for word in arpa.vocabulary])


def _histories(arpa: Arpa) -> _Histories:
    """Number the histories that some longer n-gram continues; ``<s>`` always, as G starts there."""
    state, count = [np.zeros(1, np.int64)], 1
    for order, grams in enumerate(arpa.grams[:-1], 1):
        continued = np.zeros(len(grams.words), bool)
        continued[arpa.find(arpa.grams[order].words[:, :-1])] = True
        if order == 1 and BEGIN in arpa.vocabulary:
            continued[arpa.vocabulary.index(BEGIN)] = True
        state.append(np.where(continued, count + np.cumsum(continued) - 1, -1))
        count += int(continued.sum())
    return _Histories(arpa, state, count)


def _backoff_arcs(histories: _Histories) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An epsilon arc from each history to the next shorter one that is a state."""
    source, cost, target = [], [], []
    for order, grams in enumerate(histories.arpa.grams[:-1], 1):
        keep = histories.state[order] >= 0
        state, paid = histories.resolve(grams.words[keep, 1:])
        source.append(histories.state[order][keep])
        cost.append(-math.log(10) * (grams.backoff[keep] + paid))
        target.append(state)
    if not source:
        return (np.zeros(0, np.int64),) * 4
    return (
        np.concatenate(source),
        np.zeros(sum(map(len, source)), np.int64),
        np.concatenate(cost),
        np.concatenate(target),
    )
