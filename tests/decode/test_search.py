"""The beam search against an exhaustive Viterbi and against Kaldi's FasterDecoder."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from asr_kd.decode import search
from asr_kd.decode.graph import map_graph, search_graph, write_graph
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.errors import UserError
from asr_kd.graph.compile import compile_graph
from asr_kd.graph.fst import Fst, to_kaldifst
from tests.graph.reference import random_space
from tests.graph.test_compile import LEXICON, TRIGRAM

STATES = 8
WIDE = SearchOptions(acoustic_scale=0.7, word_penalty=0.3, beam=1e4, max_active=10**6, lattice_beam=5.0)


def random_graph(seed: int, states: int = 30, arcs: int = 110) -> Fst:
    """A graph with emitting cycles, arcs without input (which only go up: no cycle), words on some of either."""
    rng = np.random.default_rng(seed)
    source, target = rng.integers(0, states, arcs), rng.integers(0, states, arcs)
    label = np.where((rng.random(arcs) < 0.3) & (target > source), 0, rng.integers(1, STATES + 1, arcs))
    word = np.where(rng.random(arcs) < 0.4, rng.integers(1, 6, arcs), 0)
    final = np.where(rng.random(states) < 0.3, rng.random(states), np.inf).astype(np.float32)
    final[states - 1] = 0.2
    graph = Fst.from_arcs(0, final, source, label, word, rng.random(arcs) * 2, target).connect()
    return graph if graph.num_states > 10 else random_graph(seed + 1000, states, arcs)


def random_scores(seed: int, frames: int = 15) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, STATES)).astype(np.float32) * 2


def viterbi(fst: Fst, scores: np.ndarray, options: SearchOptions) -> tuple[float, tuple[int, ...]] | None:
    """The best complete path in double precision, over every state and arc; None if there is none."""
    arcs = list(zip(fst.source, fst.ilabel, fst.olabel, fst.weight.astype(float), fst.nextstate, strict=True))

    def step(tokens: dict, row: np.ndarray | None) -> dict:
        best = {} if row is not None else dict(tokens)
        for source, label, word, weight, target in arcs:
            if source in tokens and (label > 0) == (row is not None):
                cost, words = tokens[source]
                cost += weight + (options.word_penalty if word else 0)
                cost -= options.acoustic_scale * float(row[label - 1]) if row is not None else 0
                if target not in best or cost < best[target][0]:
                    best[target] = cost, (*words, int(word)) if word else words
        return best

    def closure(tokens: dict) -> dict:
        while (after := step(tokens, None)) != tokens:
            tokens = after
        return tokens

    tokens = closure({fst.start: (0.0, ())})
    for row in scores:
        tokens = closure(step(tokens, row))
    ends = [(cost + float(fst.final[s]), words) for s, (cost, words) in tokens.items() if np.isfinite(fst.final[s])]
    return min(ends) if ends else None


@pytest.mark.parametrize("seed", range(20))
def test_a_wide_search_finds_the_best_path(seed: int) -> None:
    fst, scores = random_graph(seed), random_scores(seed)
    expected = viterbi(fst, scores, WIDE)
    path = Decoder(search_graph(fst), WIDE).decode(scores)
    assert expected is not None
    assert path.complete
    assert path.cost == pytest.approx(expected[0], abs=1e-4)
    assert path.words == expected[1]
    assert len(path.states) == len(scores)


@pytest.mark.parametrize("beam", [1e3, 8.0])
def test_words_are_those_of_kaldis_decoder(beam: float) -> None:
    import kaldi_decoder
    import kaldifst

    options = SearchOptions(acoustic_scale=1.0, beam=beam, max_active=10**6)
    same, total = 0, 0
    for seed in range(10):
        fst = random_graph(seed, states=60, arcs=240)
        theirs, ours = to_kaldifst(fst), Decoder(search_graph(fst), options)
        for scores in (random_scores(100 * seed + number, frames=40) for number in range(10)):
            decoder = kaldi_decoder.FasterDecoder(theirs, kaldi_decoder.FasterDecoderOptions(beam=beam, min_active=0))
            decoder.decode(kaldi_decoder.DecodableCtc(scores))
            found, best = decoder.get_best_path()
            words = kaldifst.get_linear_symbol_sequence(best)[2] if found else None
            same += tuple(words or ()) == ours.decode(scores).words
            total += 1
    assert total == 100
    assert same >= (total if beam > 100 else total - 2)  # the order of tokens in Kaldi's hash decides a few prunings


@pytest.mark.parametrize(("beam", "max_active"), [(1e3, 10**6), (13.0, 7000)])
def test_words_on_a_compiled_graph_are_those_of_the_bare_kaldi_decoder(
    tmp_path: Path, beam: float, max_active: int
) -> None:
    import kaldi_decoder
    import kaldifst

    (tmp_path / "a.arpa").write_text(TRIGRAM)
    space = random_space("Sabc", 3, (2, 2, 2, 2), 3)
    compile_graph(space, LEXICON, tmp_path / "a.arpa", tmp_path / "graph")
    fst = Fst.read(tmp_path / "graph" / "HCLG.fst")
    ours = Decoder(search_graph(fst), SearchOptions(acoustic_scale=1.0, beam=beam, max_active=max_active))
    theirs = to_kaldifst(fst)
    options = kaldi_decoder.FasterDecoderOptions(beam=beam, max_active=max_active, min_active=0)
    said: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scores = rng.normal(scale=2, size=(int(rng.integers(20, 80)), space.num_states)).astype(np.float32)
        decoder = kaldi_decoder.FasterDecoder(theirs, options)
        decoder.decode(kaldi_decoder.DecodableCtc(scores))
        found, best = decoder.get_best_path()
        assert found
        said.append((tuple(kaldifst.get_linear_symbol_sequence(best)[2]), ours.decode(scores).words))
    assert sum(len(words) for words, _ in said) > 500
    different = [seed for seed, (kaldi, own) in enumerate(said) if kaldi != own]
    assert different == []


def test_frames_may_come_in_blocks_and_memory_be_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    fst, scores = random_graph(3, 60, 240), random_scores(3, frames=300)
    whole = Decoder(search_graph(fst), WIDE, lattice=True)
    path = whole.decode(scores)
    lattice = whole.lattice()
    monkeypatch.setattr(search, "COMPACT_AT", 500)
    for keeps in (False, True):
        small = Decoder(search_graph(fst), WIDE, lattice=keeps)
        small.start()
        for start in range(0, 300, 7):
            small.advance(scores[start : start + 7])
        assert (small.path().words, small.path().cost) == (path.words, pytest.approx(path.cost))
        assert len(small._pool) < len(whole._pool)
    assert small.lattice().nbest(20) == [(words, pytest.approx(cost)) for words, cost in lattice.nbest(20)]


def test_max_active_bounds_the_tokens() -> None:
    fst, scores = random_graph(5, 400, 1600), random_scores(5, 60)
    narrow = dataclasses.replace(WIDE, beam=15.0, max_active=20)
    decoder = Decoder(search_graph(fst), narrow)
    cost = decoder.decode(scores).cost
    assert decoder._spans[search.END] < 60 * 20 * 8  # those expanded, times the arcs of a state
    assert cost >= Decoder(search_graph(fst), WIDE).decode(scores).cost


def test_without_a_final_state_the_best_partial_path_is_flagged() -> None:
    arcs = [np.array(column) for column in ([0, 1], [1, 1], [4, 0], [0.1, 0.1], [1, 2])]
    fst = Fst.from_arcs(0, np.array([np.inf, np.inf, 0], np.float32), *arcs)
    decoder = Decoder(search_graph(fst), WIDE)
    assert not decoder.decode(np.zeros((1, 1), np.float32)).complete
    assert decoder.decode(np.zeros((1, 1), np.float32)).words == (4,)
    assert decoder.decode(np.zeros((2, 1), np.float32)).complete
    with pytest.raises(UserError, match="at frame 2"):
        decoder.decode(np.zeros((3, 1), np.float32))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((5, STATES - 1), np.float32), "the graph needs"),
        (np.zeros(5, np.float32), "the graph needs"),
        (np.zeros((0, STATES), np.float32), "no frames"),
        (np.full((5, STATES), np.nan, np.float32), "NaN"),
        (np.full((5, STATES), np.inf, np.float32), "NaN or"),
        (np.full((5, STATES), -np.inf, np.float32), "at frame 0"),
    ],
)
def test_bad_scores_are_refused(scores: np.ndarray, message: str) -> None:
    fst = random_graph(1)
    assert fst.ilabel.max() == STATES
    with pytest.raises(UserError, match=message):
        Decoder(search_graph(fst), WIDE).decode(scores)


def test_a_graph_that_would_crash_a_decoder_is_refused() -> None:
    fst = random_graph(1)
    bad_target = fst.nextstate.copy()
    bad_target[3] = fst.num_states
    with pytest.raises(UserError, match="missing"):
        search_graph(dataclasses.replace(fst, nextstate=bad_target))
    empty = np.zeros(0, np.int32)
    nothing = Fst(-1, np.zeros(0, np.float32), np.zeros(1, np.int64), empty, empty, np.zeros(0, np.float32), empty)
    with pytest.raises(UserError, match="empty"):
        search_graph(nothing)
    loop = [np.array(column) for column in ([0, 1, 1], [0, 0, 1], [0, 0, 0], [0.1, 0.1, 0.1], [1, 0, 0])]
    with pytest.raises(UserError, match="cycle"):
        search_graph(Fst.from_arcs(0, np.zeros(2, np.float32), *loop))


def test_a_written_graph_is_mapped_back_and_read_by_openfst(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import kaldifst

    fst, scores = random_graph(2), random_scores(2)
    graph = search_graph(fst)
    write_graph(graph, tmp_path / "HCLG.fst")
    mapped, emitted = map_graph(tmp_path / "HCLG.fst", 6)
    assert np.array_equal(np.flatnonzero(emitted), np.unique(fst.olabel))
    assert Decoder(mapped, WIDE).decode(scores).cost == Decoder(graph, WIDE).decode(scores).cost
    theirs = kaldifst.StdConstFst.read(str(tmp_path / "HCLG.fst"))
    assert theirs.num_states == fst.num_states
    again = Fst.read(tmp_path / "HCLG.fst")
    assert all(np.array_equal(getattr(again, f.name), getattr(fst, f.name)) for f in dataclasses.fields(Fst))
    content = (tmp_path / "HCLG.fst").read_bytes()
    for name, damaged in (("cut", content[:-5]), ("foreign", b"x" * 100), ("empty", b"")):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            map_graph(tmp_path / name)


def test_options_out_of_range_are_refused() -> None:
    for name, value in itertools.product(("acoustic_scale", "beam", "max_active"), (0, -1)):
        with pytest.raises(UserError, match=name):
            SearchOptions(**{name: value})
