"""Viterbi alignment against a slow search over every way to say the words."""

import itertools

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.hmm.align import Aligner, align, align_all
from asr_kd.hmm.graphs import build_graphs
from asr_kd.hmm.lexicon import Lexicon, SilenceProbabilities, Weights
from asr_kd.hmm.states import StateSpace
from tests.graph.reference import spoken_cost

LEXICON = Lexicon(
    {
        "a": (("A",),),
        "ab": (("A", "B"),),
        "abc": (("A", "B", "C"), ("C",)),
        "ca": (("C", "A"), ("C", "B", "A")),
    }
)
PHONES = ("SIL", "A", "B", "C")
LENGTHS = np.array([2, 1, 2, 1], np.int32)


def triphone_space(rng: np.random.Generator, states: int = 40) -> StateSpace:
    """Tied at random, so that every context matters, silence included."""
    table = rng.integers(0, states, (4, 4, 4, 2)).astype(np.int32)
    table[:, LENGTHS == 1, :, 1] = -1
    return StateSpace(PHONES, ("SIL",), LENGTHS, table, np.log(rng.uniform(0.2, 0.9, states)).astype(np.float32))


def sequences(words: list[str]) -> set[tuple[str, ...]]:
    """Every phone sequence of ``words``, with and without each silence."""
    choices: list[tuple[tuple[str, ...], ...]] = [((), ("SIL",))]
    for word in words:
        choices += [LEXICON.entries[word], ((), ("SIL",))]
    return {tuple(itertools.chain(*parts)) for parts in itertools.product(*choices)}


def chain_score(space: StateSpace, phones: tuple[str, ...], frames: np.ndarray) -> float:
    """The best path through the states of one phone sequence; double precision."""
    around = ("SIL", *phones, "SIL")
    states = [s for i in range(len(phones)) for s in space.chain(around[i + 1], around[i], around[i + 2])]
    loop = space.log_loop.astype(np.float64)
    leave = np.log1p(-np.exp(loop))
    score = np.full(len(states), -np.inf)
    if states:
        score[0] = frames[0, states[0]]
    for frame in frames[1:].astype(np.float64):
        moved = np.append(-np.inf, score[:-1] + leave[states[:-1]])
        score = np.maximum(score + loop[states], moved) + frame[states]
    return float(score[-1] + leave[states[-1]]) if states else -np.inf


@pytest.mark.parametrize("words", [["a"], ["ab", "abc"], ["abc", "a", "ca"], ["ca", "ca", "abc", "ab"], []])
@pytest.mark.parametrize("beam", [np.inf, 3.0])
def test_best_path_is_that_of_the_best_phone_sequence(words: list[str], beam: float) -> None:
    rng = np.random.default_rng(len(words))
    for _ in range(5):
        space = triphone_space(rng)
        frames = rng.normal(0, 5 if beam == np.inf else 0.1, (int(rng.integers(12, 30)), 40)).astype(np.float32)
        expected = max(chain_score(space, phones, frames) for phones in sequences(words))
        found = align(space, LEXICON, words, frames, beam)
        assert found.log_likelihood <= expected + 1e-3
        if beam == np.inf:
            assert found.log_likelihood == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("silences", [None, SilenceProbabilities(0.2, 0.2), SilenceProbabilities(0.3, 0.9, 1.8, 0.4)])
def test_best_path_counts_the_probabilities_of_the_lexicon(seed: int, silences: SilenceProbabilities | None) -> None:
    rng = np.random.default_rng(seed)
    by_word = silences is not None and silences.end_after_word != 1

    def weights() -> Weights:
        probability = float(rng.uniform(1e-4, 1))
        return Weights(probability, *rng.uniform(0.01, 0.99, 3).tolist()) if by_word else Weights(probability)

    lexicon = Lexicon(LEXICON.entries, {w: tuple(weights() for _ in p) for w, p in LEXICON.entries.items()}, silences)
    space, words = triphone_space(rng), ("ca", "abc", "a")
    frames = rng.normal(0, 0.5, (20, 40)).astype(np.float32)
    expected = -np.inf
    for variants in itertools.product(*(range(len(lexicon.entries[word])) for word in words)):
        prons = [lexicon.entries[word][number] for word, number in zip(words, variants, strict=True)]
        for quiet in itertools.product((False, True), repeat=4):
            parts = [
                ["SIL"] * quiet[0],
                *([*pron, *["SIL"] * after] for pron, after in zip(prons, quiet[1:], strict=True)),
            ]
            score = chain_score(space, tuple(itertools.chain(*parts)), frames)
            expected = max(expected, score - spoken_cost(words, variants, quiet, lexicon))
    assert align(space, lexicon, words, frames).log_likelihood == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_consistent_with_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space, words = triphone_space(rng), ["abc", "a", "ca", "ca"]
    frames = rng.normal(0, 5, (30, 40)).astype(np.float32)
    found = align(space, LEXICON, words, frames)
    phones = tuple(segment.label for segment in found.phones)
    assert phones in sequences(words)
    assert chain_score(space, phones, frames) == pytest.approx(found.log_likelihood, abs=1e-3)
    assert [segment.label for segment in found.words] == words
    assert [(p.start, q.start) for p, q in itertools.pairwise(found.phones)] == [
        (p.start, p.end) for p in found.phones[:-1]
    ]
    assert (found.phones[0].start, found.phones[-1].end) == (0, 30)
    spoken = [t for word in found.words for t in range(word.start, word.end)]
    assert spoken == [t for p in found.phones if p.label != "SIL" for t in range(p.start, p.end)]
    around = ["SIL", *phones, "SIL"]
    for left, segment, right in zip(around, found.phones, around[2:], strict=False):
        chain = space.chain(segment.label, left, right)
        runs = [state for state, _ in itertools.groupby(found.states[segment.start : segment.end].tolist())]
        assert runs == [state for state, _ in itertools.groupby(chain)]


def test_a_narrow_beam_that_loses_every_path_is_widened() -> None:
    space = triphone_space(np.random.default_rng(0))
    frames = np.zeros((8, 40), np.float32)
    final = space.chain("SIL", "A", "SIL")
    frames[:, :] = -500.0
    frames[:5, space.chain("SIL", "SIL", "A")[0]] = 0  # staying looks best until it is too late
    frames[5:, final[-1]] = 0
    assert align(space, LEXICON, ["a"], frames, beam=1e-6).log_likelihood == pytest.approx(
        max(chain_score(space, phones, frames) for phones in sequences(["a"])), abs=1e-2
    )


def test_batches_give_the_same_paths_for_any_number_of_jobs() -> None:
    rng = np.random.default_rng(3)
    space = triphone_space(rng)
    words = [["ab", "ca"], ["a"], [], ["abc", "abc", "abc"]]
    frames = [rng.normal(0, 3, (20, 40)).astype(np.float32) for _ in words]
    aligner = Aligner(space, build_graphs(space, LEXICON, words))
    runs = [list(align_all(aligner, lambda u, states: frames[u][:, states], jobs=jobs)) for jobs in (1, 3)]
    for utterance, ((path, score), (other, _)) in enumerate(zip(*runs, strict=True)):
        assert (path == other).all()
        single = align(space, LEXICON, words[utterance], frames[utterance])
        assert (aligner.node_states[path] == single.states).all()
        assert score == pytest.approx(single.log_likelihood)


def test_fewest_frames_count_the_shortest_pronunciations_without_silence() -> None:
    space = triphone_space(np.random.default_rng(0))
    graphs = build_graphs(space, LEXICON, [["ab"], ["abc", "ca"], []])
    assert graphs.shortest().tolist() == [3, 1 + 2, 2]


def test_errors_name_what_is_wrong() -> None:
    space = triphone_space(np.random.default_rng(0))
    frames = np.zeros((10, 40), np.float32)
    with pytest.raises(UserError, match=r"2 frames for 1 word, which need 3: the audio is too short"):
        align(space, LEXICON, ["ab"], frames[:2])
    with pytest.raises(UserError, match="not in the lexicon: zebra"):
        align(space, LEXICON, ["ab", "zebra"], frames)
    with pytest.raises(UserError, match="10 x 39; expected frames x 40 states"):
        align(space, LEXICON, ["ab"], frames[:, 1:])
    with pytest.raises(UserError, match="NaN"):
        align(space, LEXICON, ["ab"], np.full((10, 40), np.nan, np.float32))
    with pytest.raises(UserError, match="phone 'Q' is not one of"):
        align(space, Lexicon({"q": (("Q",),)}), ["q"], frames)
