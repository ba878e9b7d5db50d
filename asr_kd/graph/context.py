"""CLG: phones replaced by phones in context, each the chain of tied states that the state space gives it.

As in the standard recipe, a phone is expanded one arc late, when the phone after it is known. So a word's last phone
comes after the back-off arc, and all words that back off with the same last phones share it. The recipe then
determinises, which merges right contexts with the same chain of tied states; here they are never separated. The
states of CLG are of two kinds, both found breadth first:

- pending: a state of LG, the phone before, and the phone that has been read and not yet expanded;
- choosing: a state of LG, the phone before, and the set of the phones that may come next.

A pending state has an arc for each chain of its phone, to the choosing state with the right contexts of this chain,
and the epsilon arcs of LG. A choosing state reads a phone and then behaves as the pending state that this leads to.
"""

import dataclasses

import numpy as np

from asr_kd.graph.columns import Columns
from asr_kd.graph.expand import Chains
from asr_kd.graph.fst import EPSILON, NOT_FINAL, Fst, distinct, ranges
from asr_kd.graph.rights import RightContexts
from asr_kd.graph.sets import MOST_SETS, PhoneSets
from asr_kd.hmm.states import StateSpace

_HALF, _CHOOSING, _SETS = 2**32, 2**31, MOST_SETS  # of the keys of states, see _Composer; enough for 511 phones
_HUB = 2  # a state of LG that more arcs enter is reached by an epsilon arc, not copied to where it is reached from


def add_context(fst: Fst, space: StateSpace) -> tuple[Fst, Chains]:
    """Compose LG (input label: phone + 1) with context; returns CLG, whose input labels are rows of the chains.

    The chains' labels are tied states + 1; row 0 is epsilon alone. The ends of the utterance are contexts like the
    silence phone, as in ``StateSpace.chain``.
    """
    composer = _Composer(fst, space)
    frontier = keys = composer.start
    layers = []
    while len(frontier):
        layers.append(composer.leave(frontier))
        reached = distinct(layers[-1].target)
        place = np.searchsorted(keys, reached)
        new = keys[np.minimum(place, len(keys) - 1)] != reached
        frontier, keys = reached[new], np.insert(keys, place[new], reached[new])
    arcs = _Arcs.concatenate(layers)
    source, target = np.searchsorted(keys, arcs.source), np.searchsorted(keys, arcs.target)
    start = int(np.searchsorted(keys, composer.start)[0])
    clg = Fst.from_arcs(start, composer.final(keys), source, arcs.row, arcs.word, arcs.cost, target)
    return clg, composer.rights.chains


@dataclasses.dataclass(frozen=True)
class _Arcs(Columns):
    """Arcs of CLG: keys of source and target, row of the chain, output label and cost."""

    source: np.ndarray
    row: np.ndarray
    word: np.ndarray
    cost: np.ndarray
    target: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Pending(Columns):
    """Phones to lay out: the source of the arcs, the pending state, and what the arcs carry from reading the phone."""

    source: np.ndarray
    state: np.ndarray
    left: np.ndarray
    phone: np.ndarray
    word: np.ndarray
    cost: np.ndarray


class _Composer:
    """The arcs of CLG, many states at a time.

    A state's key is its state of LG * 2^32, plus left * phones + phone for a pending state, plus
    2^31 + left * 2^22 + number of the set for a choosing one.
    """

    def __init__(self, fst: Fst, space: StateSpace) -> None:
        self.fst, self.phones = fst, len(space.phones)
        self.sets = PhoneSets(self.phones + 1)  # the last member is the end of the utterance
        self.rights = RightContexts(space, self.sets)
        self.following = self._following()
        self.arc_keys = fst.source.astype(np.int64) * _HALF + fst.ilabel  # sorted, as the arcs are
        self.hub = np.bincount(fst.nextstate, minlength=fst.num_states) > _HUB
        self.anything = int(self.sets.add(np.full((1, self.sets.words), 2**64 - 1, np.uint64))[0])
        edge = space.index(space.silence[0])
        self.start = self._choosing_key(np.array([fst.start]), np.array([edge]), np.array([self.anything]))

    def leave(self, keys: np.ndarray) -> _Arcs:
        """All arcs that leave the states ``keys``."""
        state, code = np.divmod(keys, _HALF)
        choosing = code >= _CHOOSING
        read, inlined = self._read(keys[choosing], state[choosing], *np.divmod(code[choosing] - _CHOOSING, _SETS))
        none = np.zeros(len(keys) - choosing.sum(), np.int32)
        rest = _Pending(
            keys[~choosing], state[~choosing], *np.divmod(code[~choosing], self.phones), none, none.astype(np.float32)
        )
        return _Arcs.concatenate([read, *self._lay_out(_Pending.concatenate([inlined, rest]))])

    def final(self, keys: np.ndarray) -> np.ndarray:
        """The final costs of states: that of LG where a choosing state allows the end of the utterance."""
        state, code = np.divmod(keys, _HALF)
        may_end = code >= _CHOOSING
        chosen = code[may_end] % _SETS
        may_end[may_end] = self.sets.has(chosen, np.full(len(chosen), self.phones))
        return np.where(may_end, self.fst.final[state], NOT_FINAL)

    def _read(
        self, keys: np.ndarray, state: np.ndarray, left: np.ndarray, allowed: np.ndarray
    ) -> tuple[_Arcs, _Pending]:
        """From choosing states, over each phone allowed: epsilon arcs to hubs, and what else is pending."""
        fst = self.fst
        item, arc = ranges(fst.offsets[state], np.diff(fst.offsets)[state])
        epsilon = fst.ilabel[arc] == EPSILON
        on = epsilon & (allowed[item] == self.anything)  # at the start nothing is pending: LG's epsilon arcs as such
        passing, passed = item[on], arc[on]
        onward = self._choosing_key(fst.nextstate[passed], left[passing], allowed[passing])

        item, arc = item[~epsilon], arc[~epsilon]
        phone = fst.ilabel[arc].astype(np.int64) - 1
        fits = self.sets.has(allowed[item], phone)
        item, arc, phone = item[fits], arc[fits], phone[fits]
        lefts, target = self.rights.left[left[item], phone], fst.nextstate[arc].astype(np.int64)
        pending = _Pending(keys[item], target, lefts, phone, fst.olabel[arc], fst.weight[arc])
        hub = self.hub[target]
        to_hub = pending.take(hub)
        silent = np.zeros(len(passed) + len(to_hub.state), np.int64)
        arcs = _Arcs(
            np.concatenate([keys[passing], to_hub.source]),
            silent,
            np.concatenate([fst.olabel[passed], to_hub.word]),
            np.concatenate([fst.weight[passed], to_hub.cost]),
            np.concatenate([onward, self._pending_key(to_hub.state, to_hub.left, to_hub.phone)]),
        )
        return arcs, pending.take(~hub)

    def _lay_out(self, pending: _Pending) -> list[_Arcs]:
        """The arcs over the chains of pending phones, and LG's epsilon arcs, over which phones stay pending."""
        fst, state = self.fst, pending.state
        item, row, contexts = self.rights.outcomes(pending.left, pending.phone, self.following[state])
        target, word, cost = self._choose(state[item], pending.phone[item], contexts, pending.word[item])
        chains = _Arcs(pending.source[item], row, word, pending.cost[item] + cost, target)
        first = fst.offsets[state]
        epsilons = np.searchsorted(self.arc_keys, state * _HALF, "right") - first
        item, arc = ranges(first, epsilons)
        target = self._pending_key(fst.nextstate[arc].astype(np.int64), pending.left[item], pending.phone[item])
        word, cost = pending.word[item] + fst.olabel[arc], pending.cost[item] + fst.weight[arc]
        return [chains, _Arcs(pending.source[item], np.zeros(len(arc), np.int64), word, cost, target)]

    def _choose(
        self, state: np.ndarray, left: np.ndarray, contexts: np.ndarray, word: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choosing states, with the output label and cost of going there; ``word`` is the label so far.

        If there is a single arc to read, that is done on the way, and the state is the pending one it leads to.
        """
        target = self._choosing_key(state, left, contexts)
        word, cost = word.copy(), np.zeros(len(target), np.float32)
        phone = self.sets.only_member(contexts)
        lone = np.flatnonzero((phone >= 0) & (phone < self.phones))
        key = state[lone] * _HALF + phone[lone] + 1
        arc = np.searchsorted(self.arc_keys, key)
        single = np.searchsorted(self.arc_keys, key, "right") == arc + 1
        free = (word[lone] == 0) | (self.fst.olabel[arc] == 0)  # an arc has one output label
        lone, arc = lone[single & free], arc[single & free]
        lefts = self.rights.left[left[lone], phone[lone]]
        target[lone] = self._pending_key(self.fst.nextstate[arc].astype(np.int64), lefts, phone[lone])
        word[lone] += self.fst.olabel[arc]
        cost[lone] = self.fst.weight[arc]
        return target, word, cost

    def _following(self) -> np.ndarray:
        """The set of phones that each state of LG reads next, with the end of the utterance where it may end."""
        fst = self.fst
        bits = np.zeros((fst.num_states, self.sets.words), np.uint64)
        ends, phones = np.flatnonzero(np.isfinite(fst.final)), fst.ilabel != EPSILON
        bits[ends] = self.sets.singles(np.full(len(ends), self.phones))
        np.bitwise_or.at(bits, fst.source[phones], self.sets.singles(fst.ilabel[phones] - 1))
        return self.sets.add(bits)

    def _pending_key(self, state: np.ndarray, left: np.ndarray, phone: np.ndarray) -> np.ndarray:
        return state * _HALF + left * self.phones + phone

    def _choosing_key(self, state: np.ndarray, left: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        return state.astype(np.int64) * _HALF + _CHOOSING + left * _SETS + allowed
