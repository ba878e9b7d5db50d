"""The inner loops of the beam search: token passing over a decoding graph, compiled by numba.

A *token* is the best path so far to a graph state at a frame: its cost, and the token and arc before it. Tokens are in
one growable pool, in the order of their frames. So a token belongs to the current frame if its index is at least
``begin``, and ``slot`` (state -> index of its newest token) needs no clearing between frames. For a lattice, every arc
between surviving tokens is kept as a *link*. ``compact`` drops what no surviving path (within ``lattice_beam``) uses.
"""

from typing import NamedTuple

import numpy as np

from asr_kd.compiling import compiled

STATE = np.dtype([("final", "<f4"), ("first", "<i4"), ("arcs", "<i4"), ("silent", "<i4"), ("wordless", "<i4")])
ARC = np.dtype([("label", "<i4"), ("word", "<i4"), ("cost", "<f4"), ("next", "<i4")])
TOKEN = np.dtype([("cost", "<f8"), ("state", "<i4"), ("back", "<i4"), ("arc", "<i4"), ("_", "<i4")])
LINK = np.dtype([("cost", "<f8"), ("source", "<i4"), ("target", "<i4"), ("arc", "<i4"), ("silent", "<i4")])

# The fields of ``spans``: the tokens of this frame, all links, frames done, when to compact, whether ``close`` gave up.
BEGIN, END, LINKS, FRAMES, LIMIT, ENDLESS = range(6)


class Graph(NamedTuple):
    """A decoding graph as OpenFst's const format stores it, so that a file can be mapped; every cost is -log.

    ``states`` ``[states]`` of ``STATE``: the cost of ending there (infinite where no path ends), the first arc, how
    many arcs, how many of these, at the front, have no input, and how many have no word. ``arcs`` ``[arcs]`` of
    ``ARC``: tied state + 1 or 0 for no input, word id or 0, cost and next state. ``columns``: the highest label.
    """

    start: int
    states: np.ndarray
    arcs: np.ndarray
    columns: int


class Limits(NamedTuple):
    """Scale, penalty and pruning of the search; ``lattice_beam`` is negative if no lattice is kept."""

    acoustic_scale: float
    word_penalty: float
    beam: float
    max_active: int
    lattice_beam: float


WIDEN = 0.5  # Kaldi's beam_delta: how much wider than the max-active cutoff the next frame's beam is
BINS = 256  # of the histogram that finds the max-active cutoff
REVISIONS = 1000  # of a token in a frame, on average: what no real graph needs, but one made to block a decoder does


@compiled()
def grown(items, needed):  # type: ignore[no-untyped-def]
    """``items`` with room for ``needed`` elements, at least doubled if it had to grow."""
    if needed <= len(items):
        return items
    larger = np.empty(max(needed, 2 * len(items)), items.dtype)
    larger[: len(items)] = items
    return larger


@compiled()
def pruning(pool, begin, end, beam, max_active):  # type: ignore[no-untyped-def]
    """The best token of the frame, the cost above which tokens are dropped, and the beam for the next frame."""
    best, worst = begin, begin
    for index in range(begin + 1, end):
        if pool[index].cost < pool[best].cost:
            best = index
        if pool[index].cost > pool[worst].cost:
            worst = index
    lowest = pool[best].cost
    spread = min(beam, pool[worst].cost - lowest)
    if end - begin <= max_active or spread == 0:
        return best, lowest + beam, beam
    histogram = np.zeros(BINS, np.int32)
    for index in range(begin, end):
        place = (pool[index].cost - lowest) * BINS / spread
        if place < BINS:
            histogram[int(place)] += 1
    active = histogram[0]  # the first bin always stays, whatever max_active is
    place = 1
    while place < BINS and active + histogram[place] <= max_active:
        active += histogram[place]
        place += 1
    width = spread * place / BINS
    return best, lowest + width, min(beam, width + WIDEN)


@compiled()
def emit(graph, limits, slot, pool, links, spans, row):  # type: ignore[no-untyped-def]
    """Pass the tokens of a frame through the arcs that consume ``row``; returns pool, links and the new cutoff."""
    begin, end, count = spans[BEGIN], spans[END], spans[LINKS]
    scale, penalty, keep = limits.acoustic_scale, limits.word_penalty, limits.lattice_beam >= 0
    states, arcs = graph.states, graph.arcs
    best, cutoff, width = pruning(pool, begin, end, limits.beam, limits.max_active)
    new = end
    bound = np.inf  # of the next frame's costs: tightened from the best token's arcs before the others are tried
    node = states[pool[best].state]
    for place in range(node.first + node.silent, node.first + node.arcs):
        arc = arcs[place]
        cost = pool[best].cost + arc.cost - scale * row[arc.label - 1]
        if arc.word != 0:
            cost += penalty
        bound = min(bound, cost + width)
    for index in range(begin, end):
        source = pool[index].cost
        if source > cutoff:
            continue
        node = states[pool[index].state]
        low, high = node.first + node.silent, node.first + node.arcs
        if new + high - low > len(pool):
            pool = grown(pool, new + high - low)
        if keep and count + high - low > len(links):
            links = grown(links, count + high - low)
        for place in range(low, high):
            arc = arcs[place]
            cost = source + arc.cost - scale * row[arc.label - 1]
            if arc.word != 0:
                cost += penalty
            if not cost < bound:
                continue
            bound = min(bound, cost + width)
            target = slot[arc.next]
            if target < end:
                target = new
                new += 1
                slot[arc.next] = target
                pool[target].state = arc.next
                pool[target].cost = np.inf
            if cost < pool[target].cost:
                pool[target].cost = cost
                pool[target].back = index
                pool[target].arc = place
            if cost <= pool[target].cost + limits.lattice_beam:  # else no path over it is within the beam
                links[count].source = index
                links[count].target = target
                links[count].arc = place
                links[count].cost = cost - source
                links[count].silent = 0
                count += 1
    spans[BEGIN], spans[END], spans[LINKS] = end, new, count
    return pool, links, bound


@compiled()
def close(graph, penalty, slot, pool, stack, spans, bound):  # type: ignore[no-untyped-def]
    """Pass the tokens of a frame through the arcs without input until no cost improves; returns pool and stack.

    Costs improve in any order, so the work on a contrived graph is exponential: past ``REVISIONS`` it is given up.
    """
    begin, end = spans[BEGIN], spans[END]
    states, arcs = graph.states, graph.arcs
    depth, revised = 0, 0
    stack = grown(stack, end - begin)
    for index in range(begin, end):
        if states[pool[index].state].silent:
            stack[depth] = index
            depth += 1
    while depth > 0:
        depth -= 1
        revised += 1
        if revised > REVISIONS * (1000 + end - begin):
            spans[ENDLESS] = 1
            break
        index = stack[depth]
        source = pool[index].cost
        if source > bound:
            continue
        node = states[pool[index].state]
        low, high = node.first, node.first + node.silent
        if end + high - low > len(pool):
            pool = grown(pool, end + high - low)
        if depth + high - low > len(stack):
            stack = grown(stack, depth + high - low)
        for place in range(low, high):
            arc = arcs[place]
            cost = source + arc.cost
            if arc.word != 0:
                cost += penalty
            if not cost < bound:
                continue
            target = slot[arc.next]
            if target < begin:
                target = end
                end += 1
                slot[arc.next] = target
                pool[target].state = arc.next
                pool[target].cost = np.inf
            if cost < pool[target].cost:
                pool[target].cost = cost
                pool[target].back = index
                pool[target].arc = place
                if states[arc.next].silent:
                    stack[depth] = target
                    depth += 1
    spans[END] = end
    return pool, stack


@compiled()
def link_closure(graph, limits, slot, pool, links, spans, bound):  # type: ignore[no-untyped-def]
    """Record the arcs without input between the tokens of a frame, whose costs are final now."""
    begin, end, count = spans[BEGIN], spans[END], spans[LINKS]
    states, arcs = graph.states, graph.arcs
    for index in range(begin, end):
        source = pool[index].cost
        node = states[pool[index].state]
        low, high = node.first, node.first + node.silent
        if count + high - low > len(links):
            links = grown(links, count + high - low)
        for place in range(low, high):
            arc = arcs[place]
            cost = source + arc.cost
            if arc.word != 0:
                cost += limits.word_penalty
            target = slot[arc.next]
            if target >= begin and cost < bound and cost <= pool[target].cost + limits.lattice_beam:
                links[count].source = index
                links[count].target = target
                links[count].arc = place
                links[count].cost = cost - source
                links[count].silent = 1
                count += 1
    spans[LINKS] = count
    return links


@compiled()
def advance(graph, limits, slot, pool, links, stack, spans, scores):  # type: ignore[no-untyped-def]
    """Consume the frames of ``scores`` ``[frames, states]``, or stop when no token is left; returns grown arrays."""
    for frame in range(len(scores)):
        if max(spans[END], spans[LINKS]) > spans[LIMIT]:
            compact(pool, links, spans, np.zeros(0), limits.lattice_beam)
            slot[:] = -1
            spans[LIMIT] = max(spans[LIMIT], 2 * max(spans[END], spans[LINKS]))
        pool, links, bound = emit(graph, limits, slot, pool, links, spans, scores[frame])
        if spans[BEGIN] == spans[END]:
            break
        pool, stack = close(graph, limits.word_penalty, slot, pool, stack, spans, bound)
        if spans[ENDLESS]:
            break
        if limits.lattice_beam >= 0:
            links = link_closure(graph, limits, slot, pool, links, spans, bound)
        spans[FRAMES] += 1
    return pool, links, stack


@compiled()
def relax(pool, links, extra, first, last):  # type: ignore[no-untyped-def]
    """Lower ``extra`` of the sources of the links ``first..last``, from the last to the first; whether any changed."""
    changed = False
    for index in range(last, first - 1, -1):
        link = links[index]
        if extra[link.target] < np.inf:
            cost = pool[link.source].cost + link.cost - pool[link.target].cost + extra[link.target]
            if cost < extra[link.source]:
                extra[link.source] = cost
                changed = True
    return changed


@compiled()
def excess(pool, links, spans, final):  # type: ignore[no-untyped-def]
    """By how much the best path through each token is costlier than the best of all, ``[tokens]``.

    ``final`` is the excess of each token of the last frame. If it is empty, any of them may still win, so it is 0. The
    links are in the order of their frames, so one pass backwards suffices, with repetitions within a frame.
    """
    extra = np.full(spans[END], np.inf)
    extra[spans[BEGIN] :] = 0.0
    if len(final) > 0:
        extra[spans[BEGIN] :] = final
    index = spans[LINKS] - 1
    while index >= 0:
        last = index
        while index >= 0 and links[index].silent:
            index -= 1
        if index == last:
            relax(pool, links, extra, index, index)
            index -= 1
        else:  # the links within one frame, which may run against the order of its tokens
            while relax(pool, links, extra, index + 1, last):
                pass
    return extra


@compiled()
def compact(pool, links, spans, final, lattice_beam):  # type: ignore[no-untyped-def]
    """Keep the tokens (and links) on paths within ``lattice_beam`` of the best and on the best path to each of them."""
    begin, end = spans[BEGIN], spans[END]
    live = np.zeros(end, np.bool_)
    extra = np.zeros(0)
    if lattice_beam >= 0:
        extra = excess(pool, links, spans, final)
        live[:] = extra <= lattice_beam
    else:
        live[begin:] = True
    for index in range(end - 1, -1, -1):
        back = pool[index].back if live[index] else -1
        while back >= 0 and not live[back]:
            live[back] = True
            back = pool[back].back
    place = np.cumsum(live) - 1
    for index in range(end):
        if live[index]:
            pool[place[index]] = pool[index]
            if pool[index].back >= 0:
                pool[place[index]].back = place[pool[index].back]
    kept = 0
    for index in range(spans[LINKS]):
        link = links[index]
        source, target = link.source, link.target
        if live[source] and live[target]:
            cost = pool[place[source]].cost + link.cost - pool[place[target]].cost + extra[target]
            if cost <= lattice_beam:
                links[kept] = link
                links[kept].source = place[source]
                links[kept].target = place[target]
                kept += 1
    spans[BEGIN] = place[begin - 1] + 1 if begin > 0 else 0
    spans[END] = place[end - 1] + 1
    spans[LINKS] = kept


@compiled()
def trace(pool, index):  # type: ignore[no-untyped-def]
    """The arcs on the best path to token ``index``, first to last."""
    length = 0
    at = index
    while pool[at].back >= 0:
        length += 1
        at = pool[at].back
    path = np.empty(length, np.int32)
    while length > 0:
        length -= 1
        path[length] = pool[index].arc
        index = pool[index].back
    return path
