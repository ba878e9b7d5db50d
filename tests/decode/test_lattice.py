"""Lattices against the enumeration of all their paths."""

import collections
import math
import time
import tracemalloc

import numpy as np
import pytest

from asr_kd.decode import search, search_kernels
from asr_kd.decode.graph import search_graph
from asr_kd.decode.lattice import Lattice
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.graph.fst import Fst
from tests.decode.test_search import random_graph, random_scores

OPTIONS = SearchOptions(acoustic_scale=0.8, word_penalty=-0.2, beam=1e4, max_active=10**6, lattice_beam=1e4)


def small_graph(seed: int) -> Fst:
    rng = np.random.default_rng(seed)
    source, target = np.repeat(np.arange(5), 3), rng.integers(0, 5, 15)
    label = np.where((target > source) & (rng.random(15) < 0.3), 0, rng.integers(1, 4, 15))
    word = np.where(rng.random(15) < 0.5, rng.integers(1, 4, 15), 0)
    final = np.array([np.inf, 0.3, np.inf, 0.1, 0.7], np.float32)
    return Fst.from_arcs(0, final, source, label, word, rng.random(15), target).connect()


def every_path(fst: Fst, scores: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """The words and the cost of each complete path through the graph, straight from the definition."""
    paths: list[tuple[tuple[int, ...], float]] = []

    def walk(state: int, frame: int, words: tuple[int, ...], cost: float) -> None:
        if frame == len(scores) and np.isfinite(fst.final[state]):
            paths.append((words, cost + float(fst.final[state])))
        for arc in range(fst.offsets[state], fst.offsets[state + 1]):
            label, word = int(fst.ilabel[arc]), int(fst.olabel[arc])
            further = cost + float(fst.weight[arc]) + (OPTIONS.word_penalty if word else 0)
            here = (*words, word) if word else words
            if label == 0:
                walk(int(fst.nextstate[arc]), frame, here, further)
            elif frame < len(scores):
                likelihood = OPTIONS.acoustic_scale * float(scores[frame, label - 1])
                walk(int(fst.nextstate[arc]), frame + 1, here, further - likelihood)

    walk(fst.start, 0, (), 0.0)
    return paths


def decoded(seed: int, frames: int = 6) -> tuple[Decoder, Fst, np.ndarray]:
    fst = small_graph(seed)
    scores = np.random.default_rng(seed).normal(size=(frames, 3)).astype(np.float32)
    decoder = Decoder(search_graph(fst), OPTIONS, lattice=True)
    decoder.start()
    decoder.advance(scores)
    return decoder, fst, scores


SEEDS = [seed for seed in range(40) if small_graph(seed).num_states >= 4][:12]


@pytest.mark.parametrize("seed", SEEDS)
def test_nbest_is_that_of_all_paths_enumerated(seed: int) -> None:
    decoder, fst, scores = decoded(seed)
    path = decoder.path()
    best: dict[tuple[int, ...], float] = {}
    for words, cost in every_path(fst, scores):
        best[words] = min(cost, best.get(words, math.inf))
    expected = sorted(best.values())
    found = decoder.lattice().nbest(30)
    assert found[0][0] == path.words
    assert found[0][1] == pytest.approx(path.cost, abs=1e-6)
    assert len({words for words, _ in found}) == len(found) == min(30, len(expected))
    assert [cost for _, cost in found] == pytest.approx(expected[: len(found)], abs=1e-4)
    assert all(cost == pytest.approx(best[words], abs=1e-4) for words, cost in found)


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_posteriors_are_those_of_all_paths_enumerated(seed: int) -> None:
    decoder, fst, scores = decoded(seed)
    decoder.path()
    lattice = decoder.lattice()
    weights: dict[int, float] = collections.defaultdict(float)
    total = 0.0
    for words, cost in every_path(fst, scores):
        total += math.exp(-cost)
        for word, count in collections.Counter(words).items():
            weights[word] += count * math.exp(-cost)
    posterior = lattice.posteriors()
    for word in (1, 2, 3):  # the expected number of times that each word is said
        assert posterior[lattice.word == word].sum() == pytest.approx(weights[word] / total, abs=1e-5)
    emitting = lattice.emits
    by_frame = np.bincount(lattice.frame[lattice.source[emitting]], posterior[emitting])
    assert by_frame == pytest.approx(np.ones(len(scores)))


def test_a_lattice_beam_keeps_exactly_the_paths_within_it() -> None:
    decoder, fst, scores = decoded(SEEDS[0])
    path = decoder.path()
    narrow = Decoder(decoder.graph, SearchOptions(**{**vars(OPTIONS), "lattice_beam": 1.5}), lattice=True)
    narrow.decode(scores)
    costs: dict[tuple[int, ...], float] = {}
    for words, cost in every_path(fst, scores):
        costs[words] = min(cost, costs.get(words, math.inf))
    within = {words for words, cost in costs.items() if cost < path.cost + 1.5 - 1e-4}
    found = narrow.lattice().nbest(1000, beam=1.5)
    assert {words for words, _ in found} == within


def test_rescoring_is_decoding_with_the_other_scale_and_penalty() -> None:
    for seed in SEEDS:
        decoder, _, scores = decoded(seed)
        decoder.path()
        lattice = decoder.lattice().rescored(0.5, 0.6)
        other = SearchOptions(**{**vars(OPTIONS), "acoustic_scale": 1.3, "word_penalty": 0.4})
        path = Decoder(decoder.graph, other).decode(scores)
        assert lattice.best() == path.words
        assert lattice.nbest(1)[0][1] == pytest.approx(path.cost, abs=1e-4)


def test_a_word_that_every_path_has_is_certain_and_two_alike_share_the_rest() -> None:
    # 0 -1-> 1 -(2 or 3, equally cheap)-> 2
    arcs = [np.array(column) for column in ([0, 1, 1], [1, 2, 3], [1, 2, 3], [0.1, 0.2, 0.2], [1, 2, 2])]
    fst = Fst.from_arcs(0, np.array([np.inf, np.inf, 0], np.float32), *arcs)
    decoder = Decoder(search_graph(fst), OPTIONS, lattice=True)
    path = decoder.decode(np.zeros((2, 3), np.float32))
    lattice: Lattice = decoder.lattice()
    assert lattice.confidences(path.words, path.frames) == pytest.approx([1.0, 0.5])
    assert {words for words, _ in lattice.nbest(5)} == {(1, 2), (1, 3)}


def excess_of_all_links(pool: np.ndarray, links: np.ndarray, begin: int) -> np.ndarray:
    """By definition: every link again and again, until the cost over the best path of no token improves."""
    extra = np.where(np.arange(len(pool)) >= begin, 0.0, np.inf)
    while True:
        before = extra.copy()
        for link in links:
            source, target = link["source"], link["target"]
            over = pool[source]["cost"] + link["cost"] - pool[target]["cost"] + extra[target]
            extra[source] = min(extra[source], over)
        if np.array_equal(extra, before):
            return extra


@pytest.mark.parametrize("seed", range(8))
def test_pruning_frame_by_frame_is_pruning_over_all_links(seed: int) -> None:
    fst, scores = random_graph(seed, 40, 200), random_scores(seed, 25)
    decoder = Decoder(search_graph(fst), SearchOptions(**{**vars(OPTIONS), "beam": 12.0}), lattice=True)
    decoder.start()
    decoder.advance(scores)
    begin, end, count = (int(decoder._spans[index]) for index in (search.BEGIN, search.END, search.LINKS))
    expected = excess_of_all_links(decoder._pool[:end], decoder._links[:count], begin)
    found = search_kernels.excess(decoder._pool, decoder._links, decoder._spans, np.zeros(0))
    assert np.array_equal(found, expected)


def test_the_time_of_a_lattice_grows_with_the_length_of_the_audio() -> None:
    fst = random_graph(4, 60, 300)
    decoder = Decoder(search_graph(fst), SearchOptions(acoustic_scale=1.0, beam=8.0, lattice_beam=4.0), lattice=True)

    def seconds(frames: int) -> float:
        scores, taken = random_scores(4, frames), []
        for _ in range(3):
            began = time.process_time()
            path = decoder.decode(scores)
            decoder.lattice().confidences(path.words, path.frames)
            taken.append(time.process_time() - began)
        return min(taken)

    seconds(10)  # compiles
    assert seconds(16_000) < 20 * seconds(2_000)  # 8 times the frames; passes over all links took 57 times as long


def chain(*columns: list[tuple[int, int, int, float, int]]) -> Fst:
    """A graph from 0 to its last state; an arc is source, label, word, cost, target."""
    arcs = [arc for column in columns for arc in column]
    final = np.full(max(arc[4] for arc in arcs) + 1, np.inf, np.float32)
    final[-1] = 0
    return Fst.from_arcs(0, final, *(np.array(column) for column in zip(*arcs, strict=True)))


def confidences(fst: Fst, frames: int) -> tuple[tuple[int, ...], list[float]]:
    decoder = Decoder(search_graph(fst), SearchOptions(**{**vars(OPTIONS), "word_penalty": 0.0}), lattice=True)
    path = decoder.decode(np.zeros((frames, 4), np.float32))
    return path.words, decoder.lattice().confidences(path.words, path.frames)


def test_a_sure_word_that_comes_twice_at_one_frame_is_sure_twice() -> None:
    # word 1 on an arc without input, and again on the arc with input after it: both belong to frame 1
    fst = chain([(0, 1, 0, 0.5, 1)], [(1, 0, 1, 0.5, 2)], [(2, 2, 1, 0.5, 3)])
    assert confidences(fst, 2) == ((1, 1), pytest.approx([1.0, 1.0]))


def test_different_words_at_one_frame_are_sure_each() -> None:
    fst = chain([(0, 1, 0, 0.5, 1)], [(1, 0, 1, 0.5, 2)], [(2, 2, 2, 0.5, 3)])
    assert confidences(fst, 2) == ((1, 2), pytest.approx([1.0, 1.0]))


def test_a_repeated_word_has_the_probability_of_its_repetition() -> None:
    # 1 1 (probability 0.6), 1 (0.3), 2 (0.1)
    twice = [(0, 1, 1, -math.log(0.6), 1), (1, 2, 1, 0.0, 4)]
    once = [(0, 1, 0, -math.log(0.3), 2), (2, 2, 1, 0.0, 4)]
    other = [(0, 1, 0, -math.log(0.1), 3), (3, 2, 2, 0.0, 4)]
    assert confidences(chain(twice, once, other), 2) == ((1, 1), pytest.approx([0.9, 0.6]))


def test_a_word_whose_frame_varies_between_paths_is_still_sure() -> None:
    # both words of every path, one frame later on the second path, whose first word is at the first path's second frame
    early = [(0, 1, 1, 0.1, 1), (1, 1, 2, 0.0, 2), (2, 1, 0, 0.0, 9)]
    late = [(0, 1, 0, 0.2, 3), (3, 1, 1, 0.0, 4), (4, 1, 2, 0.0, 9)]
    assert confidences(chain(early, late), 3) == ((1, 2), pytest.approx([1.0, 1.0]))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_confidence_of_repeated_words_is_that_of_all_paths_enumerated(seed: int) -> None:
    decoder, fst, scores = decoded(seed)
    path = decoder.path()
    lattice = decoder.lattice()
    weights: dict[int, float] = collections.defaultdict(float)  # by the number of occurrences of word 1
    for words, cost in every_path(fst, scores):
        weights[words.count(1)] += math.exp(-cost)
    total = sum(weights.values())
    one_window = (path.frames[0],) * 3 if path.frames else (0, 0, 0)  # all frames: there are no other words
    expected = [sum(w for count, w in weights.items() if count >= least) / total for least in (1, 2, 3)]
    assert lattice.confidences((1, 1, 1), one_window) == pytest.approx(expected, abs=1e-5)


def test_the_best_sequences_of_a_long_lattice_take_little_memory() -> None:
    two = [(0, 1, 1, 0.1, 0), (0, 1, 2, 0.2, 0)]
    fst = Fst.from_arcs(0, np.zeros(1, np.float32), *(np.array(column) for column in zip(*two, strict=True)))
    decoder = Decoder(search_graph(fst), SearchOptions(**{**vars(OPTIONS), "lattice_beam": 5.0}), lattice=True)
    decoder.decode(np.zeros((5000, 1), np.float32))
    lattice = decoder.lattice()
    tracemalloc.start()
    best = lattice.nbest(2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(words) for words, _ in best] == [5000, 5000]
    assert peak < 20e6  # with a tuple of words for each prefix it is 200 MB
