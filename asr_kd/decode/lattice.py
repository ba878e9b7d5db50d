"""Lattices: the n best distinct word sequences, and how probable each word is."""

import dataclasses
import heapq

import numpy as np

from asr_kd.compiling import compiled


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
        order = np.argsort(source, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=len(final)))])
        nodes = _topological(offsets, target[order])
        number = np.empty(len(nodes), np.int32)
        number[nodes] = np.arange(len(nodes), dtype=np.int32)
        order = np.argsort(number[source], kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(number[source], minlength=len(final)))])
        target, emits = number[target[order]], emits[order]
        frame = _frames(offsets, target, emits)
        return cls(
            offsets, target, word[order], np.array(cost[order], np.float64), acoustic[order], emits, final[nodes], frame
        )

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

        Exact: A* over word prefixes, where a prefix is the set of nodes that it can reach with the cost of each (a
        determinisation that is done only where the search goes), and the cost to go is exact, so that every prefix
        tried belongs to one of the results. ``beam`` leaves out what is that much costlier than the best.
        """
        rest = _best_rest(self.offsets, self.target, self.cost, self.final)
        scratch = (
            np.full(len(self.final), np.inf),
            np.empty((len(self.target), 2), np.int32),
            np.empty(len(self.target)),
        )
        start = (np.zeros(1, np.int32), np.zeros(1))
        queue: list[tuple[float, int, tuple[int, ...], tuple[np.ndarray, np.ndarray] | None]] = [
            (rest[0], 0, (), start)
        ]
        results: list[tuple[tuple[int, ...], float]] = []
        pushed = 0  # breaks ties by age
        while queue and len(results) < count:
            cost, _, words, reached = heapq.heappop(queue)
            if cost > rest[0] + beam:
                break
            if reached is None:
                results.append((words, cost))
                continue
            ended, crossed = _expand(self.offsets, self.target, self.word, self.cost, self.final, *scratch, *reached)
            children = _by_word(scratch[1][:crossed], scratch[2][:crossed])
            futures: list[tuple[float, tuple[int, ...], tuple[np.ndarray, np.ndarray] | None]]
            futures = [(ended, words, None)] if ended < np.inf else []
            futures += [(float((costs + rest[at]).min()), (*words, word), (at, costs)) for word, at, costs in children]
            for total, prefix, seeds in futures:
                pushed += 1
                heapq.heappush(queue, (total, pushed, prefix, seeds))
        return results

    def posteriors(self) -> np.ndarray:
        """The probability of each arc given the utterance, ``[arcs]`` (forward-backward over the lattice's paths).

        The arcs that consume the same frame sum to 1.
        """
        return _posteriors(self.offsets, self.target, self.cost, self.final)

    def confidences(self, words: tuple[int, ...], frames: tuple[int, ...]) -> list[float]:
        """The posterior of each of the best path's ``words``, given the frame at which each is emitted.

        That of the same word on any path, emitted nearer to this word's frame than to its neighbours'.
        """
        at = np.flatnonzero(self.word)
        posterior, word, frame = self.posteriors()[at], self.word[at], self.frame[self.source[at]]
        middles = (np.array(frames[1:], float) + np.array(frames[:-1], float)) / 2
        slot = np.searchsorted(middles, frame, side="right")
        return [min(1.0, float(posterior[(word == w) & (slot == i)].sum())) for i, w in enumerate(words)]


def _by_word(crossed: np.ndarray, costs: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Group the (word, node) pairs of ``_expand`` by word: (word, nodes, costs)."""
    order = np.argsort(crossed[:, 0], kind="stable")
    words, starts = np.unique(crossed[order, 0], return_index=True)
    nodes, totals = np.split(crossed[order, 1], starts[1:]), np.split(costs[order], starts[1:])
    return list(zip(words.tolist(), nodes, totals, strict=False))


@compiled()
def _topological(offsets, target):  # type: ignore[no-untyped-def]
    """The nodes in topological order, the start (which no arc enters) first."""
    entering = np.zeros(len(offsets) - 1, np.int64)
    for node in target:
        entering[node] += 1
    order = np.empty(len(entering), np.int64)
    done, found = 0, 0
    for node in range(len(entering)):
        if entering[node] == 0:
            order[found] = node
            found += 1
    while done < found:
        node = order[done]
        done += 1
        for arc in range(offsets[node], offsets[node + 1]):
            entering[target[arc]] -= 1
            if entering[target[arc]] == 0:
                order[found] = target[arc]
                found += 1
    assert found == len(order), "a lattice has no cycles: the graph has none without input"
    return order


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
def _posteriors(offsets, target, cost, final):  # type: ignore[no-untyped-def]
    forward = np.full(len(final), -np.inf)
    backward = -final
    forward[0] = 0.0
    for node in range(len(final)):
        for arc in range(offsets[node], offsets[node + 1]):
            forward[target[arc]] = np.logaddexp(forward[target[arc]], forward[node] - cost[arc])
    for node in range(len(final) - 1, -1, -1):
        for arc in range(offsets[node], offsets[node + 1]):
            backward[node] = np.logaddexp(backward[node], backward[target[arc]] - cost[arc])
    posterior = np.empty(len(cost))
    for node in range(len(final)):
        for arc in range(offsets[node], offsets[node + 1]):
            posterior[arc] = np.exp(forward[node] - cost[arc] + backward[target[arc]] - backward[0])
    return posterior
