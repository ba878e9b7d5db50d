"""The phonetic decision tree against brute force."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from asr_kd.hmm.lexicon import Lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.topology import monophone_space
from asr_kd.hmm.tree import ContextStatistics, build_tree, cluster_questions, context_statistics, log_likelihood

SPACE = monophone_space(Lexicon({"w": (("A", "B", "T0", "T1"),)}), phone_positions=2, silence_positions=2)
A, B, T0, T1 = (SPACE.phones.index(phone) for phone in ("A", "B", "T0", "T1"))
FLOOR = np.full(2, 1e-4)


def sample(seed: int, frames: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose mean depends on the phone, the position and, for phone A, on whether B is on its left."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 5, (frames, 4))
    keys[:, 3] %= 2
    after_b = (keys[:, 1] == A) & (keys[:, 0] == B)
    means = np.stack([2.0 * keys[:, 1] + 5.0 * after_b, 3.0 * keys[:, 3]], 1)
    return (means + rng.normal(0, 1, (frames, 2))).astype(np.float32), keys


def test_likelihood_of_sums_is_that_of_the_frames() -> None:
    frames, keys = sample(0, 300)
    statistics = context_statistics(frames, keys * 0)
    expected = norm.logpdf(frames.astype(float), frames.mean(0), frames.std(0)).sum()
    assert statistics.keys.tolist() == [[0, 0, 0, 0]]
    assert log_likelihood(statistics.sums, FLOOR)[0] == pytest.approx(expected, rel=1e-5)


def test_statistics_of_contexts_are_sums_over_their_frames() -> None:
    frames, keys = sample(1)
    statistics = context_statistics(frames, keys)
    assert len(statistics.keys) == len({tuple(key) for key in keys.tolist()})
    for key, sums in list(zip(statistics.keys, statistics.sums, strict=True))[::17]:
        own = frames[(keys == key).all(1)].astype(float)
        np.testing.assert_allclose(sums, [len(own), *own.sum(0), *(own**2).sum(0)], rtol=1e-6)


def brute_force_first_split(frames: np.ndarray, keys: np.ndarray, questions: np.ndarray) -> tuple[float, set[int]]:
    """The greatest gain of any question about any root, computed from the frames."""

    def fit(part: np.ndarray) -> float:
        return float(norm.logpdf(part, part.mean(0), part.std(0)).sum()) if len(part) else 0.0

    best: tuple[float, set[int]] = (0.0, set())
    for group, position in itertools.product(((A,), (B,), (T0, T1)), (0, 1)):
        here = np.isin(keys[:, 1], group) & (keys[:, 3] == position)
        for axis, question in itertools.product(range(3), questions):
            yes = question[keys[:, axis]] & here
            if min(yes.sum(), (here & ~yes).sum()) < 20:
                continue
            gain = fit(frames[yes]) + fit(frames[here & ~yes]) - fit(frames[here])
            best = max(best, (gain, set(group)), key=lambda item: item[0])
    return best


def test_the_first_split_is_the_best_of_all() -> None:
    frames, keys = sample(2)
    statistics = context_statistics(frames, keys)
    questions = cluster_questions(statistics, 5, 2, FLOOR)
    gain, group = brute_force_first_split(frames.astype(float), keys, questions)
    roots = 2 * 4  # SIL, A, B, T at two positions
    unsplit, tied = (build_tree(SPACE, statistics, leaves, 20, FLOOR) for leaves in (roots, roots + 1))
    assert (unsplit.num_states, tied.num_states) == (roots, roots + 1)

    def total(space: StateSpace) -> float:
        states = space.table[tuple(keys.T)]
        parts = [frames[states == state].astype(float) for state in range(space.num_states)]
        return sum(float(norm.logpdf(part, part.mean(0), part.std(0)).sum()) for part in parts)

    assert group == {A}  # whose mean depends on its left neighbour
    assert total(tied) - total(unsplit) == pytest.approx(gain, rel=1e-4)


def test_a_context_that_matters_is_found_and_one_that_does_not_is_not() -> None:
    frames, keys = sample(3)
    space = build_tree(SPACE, context_statistics(frames, keys), 12, 20, FLOOR)
    assert space.chain("A", "B", "T0") == space.chain("A", "B", "B")
    assert set(space.chain("A", "B", "T0")).isdisjoint(space.chain("A", "A", "T0"))
    assert space.chain("A", "A", "B") == space.chain("A", "T1", "B")


def test_variants_share_a_root_and_silence_is_never_split() -> None:
    frames, keys = sample(4)
    frames[keys[:, 1] == T1, 0] = frames[keys[:, 1] == T0, 0].mean() + np.random.default_rng(0).normal(
        0, 1, (keys[:, 1] == T1).sum()
    )
    statistics = context_statistics(frames, keys)
    space = build_tree(SPACE, statistics, 10, 20, FLOOR)
    assert space.chain("T0", "A", "B") == space.chain("T1", "A", "B")
    many = build_tree(SPACE, statistics, 200, 20, FLOOR)
    assert len(np.unique(many.table[:, 0])) == 2
    assert many.num_states > 30


def test_every_context_has_a_state_and_every_state_enough_frames() -> None:
    frames, keys = sample(5)
    space = build_tree(SPACE, context_statistics(frames, keys), 60, 50, FLOOR)
    assert (space.table >= 0).all()
    assert sorted(np.unique(space.table)) == list(range(space.num_states))
    assert np.bincount(space.table[tuple(keys.T)]).min() >= 50


def test_questions_join_phones_that_sound_alike() -> None:
    centres = np.array([0.0, 10, 10.1, 20, 20.1])
    sums = np.stack([np.full(5, 100.0), 100 * centres, 100 * (centres**2 + 1)], 1)
    statistics = ContextStatistics(
        np.stack([np.zeros(5, int), np.arange(5), np.zeros(5, int), np.zeros(5, int)], 1), sums
    )
    found = {tuple(np.flatnonzero(question).tolist()) for question in cluster_questions(statistics, 5, 1, FLOOR[:1])}
    assert {(1, 2), (3, 4)} <= found
    assert found <= {(0,), (1,), (2,), (3,), (4,), (1, 2), (3, 4), (0, 1, 2), (1, 2, 3, 4)}
