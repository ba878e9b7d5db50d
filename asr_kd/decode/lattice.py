"""Lattices: the n best distinct word sequences, and how probable each word is."""

import collections
import dataclasses
import heapq

import numpy as np

from asr_kd.compiling import compiled

CLOSE = 3  # frames: no word is shorter, so labels that are closer have been moved along the graph


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Every good path of an utterance as an acyclic graph; nodes are numbered in topological order from 0, the start.

    - ``offsets`` ``[nodes + 1]``: the arcs that leave node ``n`` are ``offsets[n]:offsets[n + 1]``.
    - ``target``, ``word`` (id, 0 for none) ``[arcs]`` int32; ``emits`` ``[arcs]``: whether the arc consumes a frame.
    - ``cost`` ``[arcs]`` float64, negative natural log: graph, scaled acoustic and word penalty together;
      ``acoustic`` ``[arcs]``: the log-likelihood in it, before the scale.
    - ``final`` ``[nodes]``: the cost of ending there; ``frame`` ``[nodes]``: frames consumed on the way there.
    """

    offsets: np.ndarray
    target: np.ndarray
    word: np.ndarray
    cost: np.ndarray
    acoustic: np.ndarray
    emits: np.ndarray
    final: np.ndarray
    frame: np.ndarray

    @classmethod
    def build(
        cls,
        source: np.ndarray,
        target: np.ndarray,
        cost: np.ndarray,
        acoustic: np.ndarray,
        word: np.ndarray,
        emits: np.ndarray,
        final: np.ndarray,
    ) -> "Lattice":
        """From arcs in any order between nodes ``0..len(final)``; node 0 is the start."""
        offsets, nodes, order = _sorted(source, target, len(final))
        number = np.empty(len(nodes), np.int32)
        number[nodes] = np.arange(len(nodes), dtype=np.int32)
        target, emits = number[target[order]], emits[order]
        frame = _frames(offsets, target, emits)
        return cls(offsets, target, word[order], cost[order], acoustic[order], emits, final[nodes], frame)

    @property
    def source(self) -> np.ndarray:
        """The node that each arc leaves, ``[arcs]`` int32."""
        return np.repeat(np.arange(len(self.final), dtype=np.int32), np.diff(self.offsets))

    def rescored(self, scale: float, penalty: float) -> "Lattice":
        """The same paths with ``scale`` more of the acoustic scale and ``penalty`` more for each word."""
        return dataclasses.replace(self, cost=self.cost - scale * self.acoustic + penalty * (self.word > 0))

    def best(self) -> tuple[int, ...]:
        """The words of the cheapest path."""
        rest = _best_rest(self.offsets, self.target, self.cost, self.final)
        return tuple(_best_words(self.offsets, self.target, self.word, self.cost, self.final, rest).tolist())

    def nbest(self, count: int, beam: float = np.inf) -> list[tuple[tuple[int, ...], float]]:
        """Up to ``count`` distinct word sequences with the cost of the best path of each, cheapest first.

        Exact: A* over word prefixes. A prefix is the set of nodes that it can reach with the cost of each, which is a
        determinisation of the part of the lattice that the search visits. The cost to go is exact, so every prefix that
        is expanded belongs to a result. ``beam`` leaves out what is that much costlier than the best.
        """
        rest = _best_rest(self.offsets, self.target, self.cost, self.final)
        scratch = (
            np.full(len(self.final), np.inf),
            np.empty((len(self.target), 2), np.int32),
            np.empty(len(self.target)),
        )
        prefixes: list[tuple[int, int]] = [(-1, 0)]  # the shorter prefix and the word after it
        start = (np.zeros(1, np.int32), np.zeros(1))
        queue: list[tuple[float, int, int, tuple[np.ndarray, np.ndarray] | None]] = [(rest[0], 0, 0, start)]
        results: list[tuple[tuple[int, ...], float]] = []
        pushed = 0  # breaks ties by age
        while queue and len(results) < count:
            cost, _, prefix, reached = heapq.heappop(queue)
            if cost > rest[0] + beam:
                break
            if reached is None:
                results.append((_words_of(prefixes, prefix), cost))
                continue
            ended, crossed = _expand(self.offsets, self.target, self.word, self.cost, self.final, *scratch, *reached)
            if ended < np.inf:
                pushed += 1
                heapq.heappush(queue, (ended, pushed, prefix, None))
            for word, at, costs in _by_word(scratch[1][:crossed], scratch[2][:crossed]):
                pushed += 1
                prefixes.append((prefix, word))
                heapq.heappush(queue, (float((costs + rest[at]).min()), pushed, len(prefixes) - 1, (at, costs)))
        return results

    def posteriors(self) -> np.ndarray:
        """The probability of each arc given the utterance, ``[arcs]`` (forward-backward over the lattice's paths).

        The arcs that consume the same frame sum to 1.
        """
        sums = _forward_backward(self.offsets, self.target, self.cost, self.final)
        return _posteriors(self.offsets, self.target, self.cost, *sums)

    def confidences(self, words: tuple[int, ...], frames: tuple[int, ...]) -> list[float]:
        """The posterior of each of the best path's ``words``, given the frame at which the graph emits each.

        A word's window reaches half-way to the words before and after it. Its confidence is the posterior of its
        emission in the window, on any path. Words that are emitted less than ``CLOSE`` frames apart share a window;
        if a word occurs there n times, its nth occurrence has the probability of a path with n of them.
        """
        if not words:
            return []
        forward, backward = _forward_backward(self.offsets, self.target, self.cost, self.final)
        groups = _grouped(frames)
        firsts, lasts = (np.array([frames[group[end]] for group in groups], np.int64) for end in (0, -1))
        edges = np.concatenate([[0], (lasts[:-1] + firsts[1:] + 1) // 2, [self.frame.max() + 1]])  # of the windows
        sums = self._posterior_by_window(edges, _posteriors(self.offsets, self.target, self.cost, forward, backward))
        by_frame = np.argsort(self.frame, kind="stable")  # the nodes of each frame stay in topological order
        begins = np.searchsorted(self.frame[by_frame], [edges - 1, edges])  # of the frame before a window, the window
        arrays = self.offsets, self.target, self.word, self.cost, self.final, forward, backward
        place = np.full(len(self.final), -1, np.int32)
        sure: list[float] = []
        for number, group in enumerate(groups):
            here = [words[index] for index in group]
            before, begin, end = begins[0, number], begins[1, number], begins[1, number + 1]
            nodes = by_frame[before:begin], by_frame[begin:end]
            several = {
                word: _occurrences(*arrays, *nodes, word, count, place).tolist()
                for word, count in collections.Counter(here).items()
                if count > 1
            }
            for word in here:
                sure.append(several[word].pop(0) if word in several else sums.get((number, word), 0.0))
        return [min(1.0, probability) for probability in sure]

    def _posterior_by_window(self, edges: np.ndarray, posterior: np.ndarray) -> dict[tuple[int, int], float]:
        """How often each word is expected in each window of frames, as far as it occurs there: (window, word)."""
        arcs = np.flatnonzero(self.word)
        window = np.searchsorted(edges[1:-1], self.frame[self.source[arcs]], side="right")
        pairs, place = np.unique(np.stack([window, self.word[arcs]]), axis=1, return_inverse=True)
        sums = np.bincount(place.ravel(), posterior[arcs])
        return dict(zip(zip(*pairs.tolist(), strict=True), sums.tolist(), strict=True))


def _grouped(frames: tuple[int, ...]) -> list[list[int]]:
    """The indices of ``frames``, consecutive ones together where less than ``CLOSE`` frames lie between them."""
    groups: list[list[int]] = []
    for index, frame in enumerate(frames):
        if groups and frame - frames[index - 1] < CLOSE:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _words_of(prefixes: list[tuple[int, int]], prefix: int) -> tuple[int, ...]:
    words = []
    while prefix > 0:
        prefix, word = prefixes[prefix]
        words.append(word)
    return tuple(words[::-1])


def _by_word(crossed: np.ndarray, costs: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Group the (word, node) pairs of ``_expand`` by word: (word, nodes, costs)."""
    order = np.argsort(crossed[:, 0], kind="stable")
    words, starts = np.unique(crossed[order, 0], return_index=True)
    nodes, totals = np.split(crossed[order, 1], starts[1:]), np.split(costs[order], starts[1:])
    return list(zip(words.tolist(), nodes, totals, strict=False))


@compiled()
def _sorted(source, target, count):  # type: ignore[no-untyped-def]
    """The ``count`` nodes in topological order and the arcs in the order of their sources.

    Returns the offsets of each node's arcs, the nodes, the start (which no arc enters) first, and the arcs.
    """
    begins, entering = np.zeros(count + 1, np.int64), np.zeros(count, np.int32)
    for arc in range(len(source)):
        begins[source[arc] + 1] += 1
        entering[target[arc]] += 1
    begins = np.cumsum(begins)
    by_source, filled = np.empty(len(source), np.int32), begins[:-1].copy()
    for arc in range(len(source)):
        by_source[filled[source[arc]]] = arc
        filled[source[arc]] += 1
    nodes, offsets, order = np.empty(count, np.int32), np.zeros(count + 1, np.int64), np.empty(len(source), np.int32)
    found = 0
    for node in range(count):
        if entering[node] == 0:
            nodes[found] = node
            found += 1
    done, placed = 0, 0
    while done < found:
        node = nodes[done]
        done += 1
        for index in range(begins[node], begins[node + 1]):
            arc = by_source[index]
            order[placed] = arc
            placed += 1
            entering[target[arc]] -= 1
            if entering[target[arc]] == 0:
                nodes[found] = target[arc]
                found += 1
        offsets[done] = placed
    assert found == count, "a lattice has no cycles: the graph has none without input"
    return offsets, nodes, order


@compiled()
def _frames(offsets, target, emits):  # type: ignore[no-untyped-def]
    frame = np.zeros(len(offsets) - 1, np.int32)
    for node in range(len(frame)):
        for arc in range(offsets[node], offsets[node + 1]):
            frame[target[arc]] = frame[node] + emits[arc]
    return frame


@compiled()
def _best_rest(offsets, target, cost, final):  # type: ignore[no-untyped-def]
    """The cost of the best way from each node to an end, ``[nodes]``."""
    rest = final.copy()
    for node in range(len(rest) - 1, -1, -1):
        for arc in range(offsets[node], offsets[node + 1]):
            rest[node] = min(rest[node], cost[arc] + rest[target[arc]])
    return rest


@compiled()
def _best_words(offsets, target, word, cost, final, rest):  # type: ignore[no-untyped-def]
    words = np.empty(len(final), np.int32)
    node, count = 0, 0
    while rest[node] < final[node]:
        best = offsets[node]
        for arc in range(offsets[node], offsets[node + 1]):
            if cost[arc] + rest[target[arc]] < cost[best] + rest[target[best]]:
                best = arc
        if word[best] > 0:
            words[count] = word[best]
            count += 1
        node = target[best]
    return words[:count]


@compiled()
def _expand(offsets, target, word, cost, final, reach, crossed, totals, nodes, costs):  # type: ignore[no-untyped-def]
    """From ``nodes`` at ``costs``, the cost of ending without a word, and every arc with a word that can be next.

    These go into ``crossed`` (word, node) and ``totals``; returns the cost and their number. ``reach`` is all infinite
    before and after.
    """
    lowest, highest = len(reach), -1
    for index in range(len(nodes)):
        node = nodes[index]
        reach[node] = min(reach[node], costs[index])
        lowest, highest = min(lowest, node), max(highest, node)
    ended, count, node = np.inf, 0, lowest
    while node <= highest:
        here, reach[node] = reach[node], np.inf
        if here < np.inf:
            ended = min(ended, here + final[node])
            for arc in range(offsets[node], offsets[node + 1]):
                if word[arc] == 0:
                    reach[target[arc]] = min(reach[target[arc]], here + cost[arc])
                    highest = max(highest, target[arc])
                else:
                    crossed[count, 0], crossed[count, 1] = word[arc], target[arc]
                    totals[count] = here + cost[arc]
                    count += 1
        node += 1
    return ended, count


@compiled()
def _forward_backward(offsets, target, cost, final):  # type: ignore[no-untyped-def]
    """The log of the sum over all paths to each node, and from each node to an end; natural log."""
    forward = np.full(len(final), -np.inf)
    backward = -final
    forward[0] = 0.0
    for node in range(len(final)):
        for arc in range(offsets[node], offsets[node + 1]):
            forward[target[arc]] = np.logaddexp(forward[target[arc]], forward[node] - cost[arc])
    for node in range(len(final) - 1, -1, -1):
        for arc in range(offsets[node], offsets[node + 1]):
            backward[node] = np.logaddexp(backward[node], backward[target[arc]] - cost[arc])
    return forward, backward


@compiled()
def _posteriors(offsets, target, cost, forward, backward):  # type: ignore[no-untyped-def]
    posterior = np.empty(len(cost))
    for node in range(len(forward)):
        for arc in range(offsets[node], offsets[node + 1]):
            posterior[arc] = np.exp(forward[node] - cost[arc] + backward[target[arc]] - backward[0])
    return posterior


@compiled()
def _occurrences(offsets, target, word, cost, final, forward, backward, before, nodes, wanted, most, place):  # type: ignore[no-untyped-def]
    """The probability that a path has at least 1, 2, ... ``most`` of the word ``wanted`` on arcs that leave ``nodes``.

    ``nodes``, in topological order, are those of consecutive frames, ``before`` those of the frame before. ``place`` is
    all -1 before and after.
    """
    for index in range(len(nodes)):
        place[nodes[index]] = index
    reached = np.full((len(nodes), most + 1), -np.inf)  # the log of the sum over paths with 0, 1, ... of the word
    ended = np.full(most + 1, -np.inf)
    if place[0] >= 0:
        reached[place[0], 0] = 0.0
    for node in before:
        for arc in range(offsets[node], offsets[node + 1]):
            if place[target[arc]] >= 0:
                at = place[target[arc]]
                reached[at, 0] = np.logaddexp(reached[at, 0], forward[node] - cost[arc])
    for index in range(len(nodes)):
        node = nodes[index]
        for count in range(most + 1):
            ended[count] = np.logaddexp(ended[count], reached[index, count] - final[node])
            for arc in range(offsets[node], offsets[node + 1]):
                after = min(most, count + (word[arc] == wanted))
                at, sum_ = place[target[arc]], reached[index, count] - cost[arc]
                if at >= 0:
                    reached[at, after] = np.logaddexp(reached[at, after], sum_)
                else:
                    ended[after] = np.logaddexp(ended[after], sum_ + backward[target[arc]])
    for node in nodes:
        place[node] = -1
    probability = np.exp(ended - backward[0])
    for count in range(most - 1, 0, -1):
        probability[count] += probability[count + 1]
    return probability[1:]
