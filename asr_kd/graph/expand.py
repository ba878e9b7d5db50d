"""Replace each arc of a transducer by a chain of arcs: words by their phones, phones by their HMM states.

It replaces composition with L or H, determinisation and minimisation of the standard recipe (Mohri, Pereira
and Riley, "Speech recognition with weighted finite-state transducers", 2008). Since a chain replaces an arc, what
those operations would share is between the two ends of the arc: equal beginnings of the chains that leave a state (a
prefix tree for each state), and equal remainders of those that enter one. Both are found by sorting. Disambiguation
symbols are not needed: homophones, and a chain that begins another one, share all but their last arc.
"""

import dataclasses

import numpy as np

from asr_kd.graph.fst import NOT_FINAL, Fst, distinct


@dataclasses.dataclass(frozen=True)
class Chains:
    """Label sequences: ``labels`` ``[chains, longest]`` int32 padded with -1, ``lengths`` ``[chains]``, each over 0."""

    labels: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_lists(cls, chains: list[tuple[int, ...]]) -> "Chains":
        """Pad ``chains`` to the longest."""
        lengths = np.array([len(chain) for chain in chains])
        labels = np.full((len(chains), lengths.max()), -1, np.int32)
        labels[np.arange(labels.shape[1]) < lengths[:, None]] = [label for chain in chains for label in chain]
        return cls(labels, lengths)


def expand(fst: Fst, chains: Chains) -> Fst:
    """Replace each arc, whose input label is a row of ``chains``, by the arcs of that chain.

    States keep their numbers; new ones follow. Output labels and costs move towards the start as far as they can
    without changing another path (a cost by the minimum over the paths that share its arc), so a decoder prunes early.
    """
    suffixes = _Suffixes(chains, fst.num_states)
    layers: list[tuple[np.ndarray, ...]] = []  # columns of arcs; a target is a state, a tail or -1 - n: a shared node
    nodes = 0
    node, row, word, cost, target = fst.source.astype(np.int64), fst.ilabel, fst.olabel, fst.weight, fst.nextstate
    for position in range(chains.labels.shape[1]):
        label, left = chains.labels[row, position], chains.lengths[row] - position - 1
        _, group, size = np.unique(node * 2**32 + label, return_inverse=True, return_counts=True)
        alone = (left == 0) | (size[group] == 1)
        tail = suffixes.tail(row[alone], left[alone], target[alone])
        layers.append((node[alone], label[alone], word[alone], cost[alone], tail))
        node, label, row, word, cost, target, group = (
            column[~alone] for column in (node, label, row, word, cost, target, group)
        )
        _, first, member = np.unique(group, return_index=True, return_inverse=True)
        if not len(first):
            break
        shared_cost, shared_word = _by_group(np.minimum, member, cost), _by_group(np.minimum, member, word)
        shared_word[shared_word != _by_group(np.maximum, member, word)] = 0
        layers.append((node[first], label[first], shared_word, shared_cost, -1 - nodes - np.arange(len(first))))
        node, cost = -1 - nodes - member, cost - shared_cost[member]
        word = np.where(shared_word[member] > 0, 0, word)
        nodes += len(first)
    return _number(fst, suffixes, layers, nodes)


class _Suffixes:
    """Suffixes of chains, numbered so that equal label sequences have equal numbers; 0 is the empty one.

    A tail is a suffix that leads to a state: ``suffix * states + state``; with the empty suffix, the state itself.
    """

    def __init__(self, chains: Chains, states: int) -> None:
        count, longest = chains.labels.shape
        self.states = states
        self.numbers = np.zeros((count, longest + 1), np.int64)  # by how many labels are left
        heads: list[np.ndarray] = [np.zeros(1, np.int64)]
        for left in range(1, longest + 1):
            rows = np.flatnonzero(chains.lengths >= left)
            head = chains.labels[rows, chains.lengths[rows] - left].astype(np.int64)
            pairs, inverse = np.unique(self.numbers[rows, left - 1] * 2**32 + head, return_inverse=True)
            self.numbers[rows, left] = sum(map(len, heads)) + inverse
            heads.append(pairs)
        rest, self.label = np.divmod(np.concatenate(heads), 2**32)  # of each suffix: the one after its first label
        self.rest = rest

    def tail(self, row: np.ndarray, left: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The tail of the last ``left`` labels of chain ``row`` before ``state``."""
        return self.numbers[row, left] * self.states + state

    def arcs(self, tails: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sources, labels and targets of the arcs of ``tails`` and of all tails that they lead to."""
        found = []
        frontier = distinct(tails[tails >= self.states])
        while len(frontier):
            found.append(frontier)
            ahead = self.rest[frontier // self.states] * self.states + frontier % self.states
            frontier = distinct(ahead[ahead >= self.states])
        source = distinct(np.concatenate(found)) if found else np.zeros(0, np.int64)
        suffix, state = np.divmod(source, self.states)
        return source, self.label[suffix], self.rest[suffix] * self.states + state


def _number(fst: Fst, suffixes: _Suffixes, layers: list[tuple[np.ndarray, ...]], nodes: int) -> Fst:
    """The transducer of ``layers`` and the tails they lead to: states of ``fst``, then shared nodes, then tails."""
    source, label, word, cost, target = (np.concatenate(column) for column in zip(*layers, strict=True))
    tails, tail_label, tail_target = suffixes.arcs(target)

    def number(place: np.ndarray) -> np.ndarray:
        tail = fst.num_states + nodes + np.searchsorted(tails, place)
        return np.where(place < 0, fst.num_states - 1 - place, np.where(place < fst.num_states, place, tail))

    final = np.full(fst.num_states + nodes + len(tails), NOT_FINAL)
    final[: fst.num_states] = fst.final
    nothing = np.zeros(len(tails))
    return Fst.from_arcs(
        fst.start,
        final,
        number(np.concatenate([source, tails])),
        np.concatenate([label, tail_label]),
        np.concatenate([word, nothing]),
        np.concatenate([cost, nothing]),
        number(np.concatenate([target, tail_target])),
    )


def _by_group(reduce: np.ufunc, group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``reduce`` over the values of each group ``0..n - 1``."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return reduce.reduceat(values[order], starts)
