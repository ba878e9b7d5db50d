"""Phonetic decision tree: which phones in context share a state, found from the data (Young et al. 1994).

The criterion is the log-likelihood of single Gaussians with diagonal covariance. It is a function of three sums over
frames, ``[1 + 2 * dim]`` float64 (count, sum, sum of squares), and these add up over any set of contexts.
"""

import dataclasses
import heapq

import numpy as np

from asr_kd.hmm.em import class_sums
from asr_kd.hmm.states import StateSpace


@dataclasses.dataclass(frozen=True)
class ContextStatistics:
    """Sums of the frames of each phone in context that occurs.

    ``keys`` ``[contexts, 4]``: left, phone, right, position. ``sums`` ``[contexts, 1 + 2 * dim]``.
    """

    keys: np.ndarray
    sums: np.ndarray


def context_statistics(frames: np.ndarray, keys: np.ndarray) -> ContextStatistics:
    """Statistics of ``frames`` ``[frames, dim]`` whose phones in context are ``keys`` ``[frames, 4]``."""
    size = keys.max(0).astype(np.int64) + 1
    codes, labels = np.unique(np.ravel_multi_index(tuple(keys.T), tuple(size)), return_inverse=True)
    count, first, second = class_sums(frames, labels, len(codes))
    distinct = np.stack(np.unravel_index(codes, tuple(size)), 1)
    return ContextStatistics(distinct, np.concatenate([count[:, None], first, second], 1))


def log_likelihood(sums: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Log-likelihood of frames under their own Gaussian: ``[..., 1 + 2 * dim]`` -> ``[...]``, variances floored."""
    dim = len(floor)
    count = np.maximum(sums[..., :1], 1e-10)
    mean = sums[..., 1 : 1 + dim] / count
    variance = np.maximum(sums[..., 1 + dim :] / count - mean**2, floor)
    return -0.5 * sums[..., 0] * (np.log(2 * np.pi * variance).sum(-1) + dim)


def cluster_questions(statistics: ContextStatistics, phones: int, positions: int, floor: np.ndarray) -> np.ndarray:
    """Sets of phones that sound alike, ``[questions, phones]`` bool: the questions that the tree may ask.

    At each HMM position phones are merged bottom up, the pair that costs the least likelihood first; every set that
    this makes is a question.
    """
    questions = np.concatenate(
        [_cluster(_by_phone(statistics, phones, position), floor) for position in range(positions)]
    )
    proper = questions.any(1) & ~questions.all(1)
    return np.unique(questions[proper], axis=0)


def _by_phone(statistics: ContextStatistics, phones: int, position: int) -> np.ndarray:
    at = statistics.keys[:, 3] == position
    sums = np.zeros((phones, statistics.sums.shape[1]))
    np.add.at(sums, statistics.keys[at, 1], statistics.sums[at])
    return sums


def _cluster(sums: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """All sets of an agglomerative clustering, ``[2 * items - 1, items]`` bool."""
    sums = sums.copy()
    members = np.eye(len(sums), dtype=bool)
    found = [members.copy()]
    while len(sums) > 1:
        own = log_likelihood(sums, floor)
        cost = own[:, None] + own[None, :] - log_likelihood(sums[:, None] + sums[None, :], floor)
        cost[np.tril_indices(len(sums))] = np.inf
        one, other = np.unravel_index(np.argmin(cost), cost.shape)
        sums[one] += sums[other]
        members[one] |= members[other]
        found.append(members[one : one + 1].copy())
        sums, members = np.delete(sums, other, 0), np.delete(members, other, 0)
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """Contexts that share a state: the product of three sets of phones, ``masks`` ``[3, phones]``, at one position."""

    position: int
    masks: np.ndarray
    keys: np.ndarray  # [contexts, 3]: left, phone, right
    sums: np.ndarray

    def part(self, axis: int, question: np.ndarray) -> "_Leaf":
        """The contexts whose phone on ``axis`` (0 left, 1 centre, 2 right) is in ``question``."""
        masks = self.masks.copy()
        masks[axis] &= question
        inside = question[self.keys[:, axis]]
        return _Leaf(self.position, masks, self.keys[inside], self.sums[inside])


def build_tree(
    space: StateSpace, statistics: ContextStatistics, leaves: int, min_count: float, floor: np.ndarray
) -> StateSpace:
    """Tie the states of phones in context: split greedily where it gains the most likelihood, up to ``leaves`` states.

    One tree for each phone and position; variants of a phone that differ in a final digit (stress) share one, and
    a question may separate them. Silence is never split. A leaf keeps at least ``min_count`` frames.
    """
    questions = cluster_questions(statistics, len(space.phones), int(space.lengths.max()), floor)
    nodes: list[_Leaf | None] = []
    queue: list[tuple[float, int, _Leaf, _Leaf]] = []

    def plant(leaf: _Leaf, splittable: bool = True) -> None:
        nodes.append(leaf)
        best = _best_split(leaf, questions, min_count, floor) if splittable else None
        if best is not None:
            heapq.heappush(queue, (-best[0], len(nodes) - 1, best[1], best[2]))

    roots = _roots(space, statistics)
    for leaf, splittable in roots:
        plant(leaf, splittable)
    size = len(roots)
    while queue and size < leaves:
        _, parent, yes, no = heapq.heappop(queue)
        nodes[parent] = None
        plant(yes)
        plant(no)
        size += 1
    table = np.full_like(space.table, -1)
    for state, leaf in enumerate(sorted((leaf for leaf in nodes if leaf is not None), key=_order)):
        left, centre, right = (np.flatnonzero(mask) for mask in leaf.masks)
        table[..., leaf.position][np.ix_(left, centre, right)] = state
    return dataclasses.replace(space, table=table, log_loop=np.full(size, np.log(0.75), np.float32))


def _roots(space: StateSpace, statistics: ContextStatistics) -> list[tuple[_Leaf, bool]]:
    """One leaf for each position of each phone (stress aside), and whether it may be split."""
    groups: dict[str, list[int]] = {}
    for number, phone in enumerate(space.phones):
        groups.setdefault(phone if phone in space.silence else phone.rstrip("0123456789") or phone, []).append(number)
    roots = []
    for members in groups.values():
        for position in range(int(space.lengths[members[0]])):
            masks = np.ones((3, len(space.phones)), bool)
            masks[1] = np.isin(np.arange(len(space.phones)), members)
            here = masks[1, statistics.keys[:, 1]] & (statistics.keys[:, 3] == position)
            leaf = _Leaf(position, masks, statistics.keys[here, :3], statistics.sums[here])
            roots.append((leaf, space.phones[members[0]] not in space.silence))
    return roots


def _best_split(
    leaf: _Leaf, questions: np.ndarray, min_count: float, floor: np.ndarray
) -> tuple[float, _Leaf, _Leaf] | None:
    """The question that gains the most, its gain and both parts; none if a part would have too few frames."""
    total = leaf.sums.sum(0)
    best = (0.0, 0, 0)
    for axis in range(3):
        by_phone = np.zeros((questions.shape[1], len(total)))
        np.add.at(by_phone, leaf.keys[:, axis], leaf.sums)
        yes = questions @ by_phone
        no = total - yes
        gains = log_likelihood(yes, floor) + log_likelihood(no, floor) - log_likelihood(total, floor)
        gains[(yes[:, 0] < min_count) | (no[:, 0] < min_count)] = 0
        question = int(np.argmax(gains))
        if gains[question] > best[0]:
            best = (float(gains[question]), axis, question)
    gain, axis, question = best
    if gain <= 0:
        return None
    return gain, leaf.part(axis, questions[question]), leaf.part(axis, ~questions[question])


def _order(leaf: _Leaf) -> tuple[int, int, list[bool], list[bool]]:
    """States are numbered by phone, then position, then context."""
    return int(np.argmax(leaf.masks[1])), leaf.position, leaf.masks[0].tolist(), leaf.masks[2].tolist()
