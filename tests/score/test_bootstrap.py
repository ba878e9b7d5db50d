import itertools

import numpy as np
import pytest
from scipy import stats

from asr_kd.score.bootstrap import least_p, permutation_p, rate_interval


def _names(number: int) -> list[str]:
    return [f"s{n}" for n in range(number)]


def test_the_interval_of_equal_clusters_is_student_s() -> None:
    """With the same number of words everywhere the rate is a mean, whose interval has a closed form."""
    errors = np.random.default_rng(1).poisson(8, 40)
    words = np.full(40, 100)
    interval = rate_interval(errors, words, _names(40))
    half = stats.t.ppf(0.975, 39) * errors.std(ddof=1) / np.sqrt(40) / 100
    rate = errors.sum() / words.sum()
    assert interval.low == pytest.approx(rate - half, abs=0.05 * half + 1e-3)
    assert interval.high == pytest.approx(rate + half, abs=0.05 * half + 1e-3)


def test_utterances_that_repeat_their_speaker_add_no_certainty() -> None:
    errors, words, names = np.array([1, 5, 2, 9]), np.full(4, 20), _names(4)
    once = rate_interval(errors, words, names)
    assert rate_interval(np.tile(errors, 50), np.tile(words, 50), names * 50) == once
    assert once.clusters == 4
    apart = rate_interval(np.tile(errors, 50), np.tile(words, 50), _names(200))
    assert apart.high - apart.low < 0.3 * (once.high - once.low)


def test_the_same_counts_give_the_same_interval_in_any_order() -> None:
    errors, words = np.array([1, 5, 2, 9]), np.array([20, 30, 40, 50])
    assert rate_interval(errors[::-1], words[::-1], _names(4)[::-1]) == rate_interval(errors, words, _names(4))


def test_the_interval_covers_the_truth_with_ten_speakers() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        words = generator.poisson(75, 10)
        errors = generator.binomial(words, generator.gamma(6, 0.01, 10))
        interval = rate_interval(errors, words, _names(10))
        covered += interval.low <= 0.06 <= interval.high
    assert covered >= 178  # 95 % of 200, less four standard errors


def test_one_cluster_gives_the_rate_itself() -> None:
    interval = rate_interval(np.array([1, 2]), np.array([10, 20]), ["s", "s"])
    assert (interval.low, interval.high, interval.clusters) == (0.1, 0.1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_the_permutation_test_counts_all_exchanges(seed: int) -> None:
    difference = np.random.default_rng(seed).integers(-4, 6, 12)
    speakers = [f"s{n % 6}" for n in range(12)]
    totals = [difference[n::6].sum() for n in range(6)]
    sums = [
        abs(sum(s * t for s, t in zip(signs, totals, strict=True))) for signs in itertools.product((1, -1), repeat=6)
    ]
    expected = np.mean([value >= abs(sum(totals)) for value in sums])
    assert permutation_p(difference, speakers) == expected
    assert permutation_p(-difference, speakers) == expected


def test_many_clusters_are_sampled_close_to_the_normal_limit() -> None:
    difference = np.random.default_rng(3).integers(-3, 4, 400) + np.array([0, 1] * 200)
    z = abs(difference.sum()) / np.sqrt((difference.astype(float) ** 2).sum())
    assert permutation_p(difference, _names(400)) == pytest.approx(2 * stats.norm.sf(z), abs=0.01)


def test_equal_systems_have_p_of_one_and_a_consistent_gain_the_least() -> None:
    assert permutation_p(np.zeros(8, int), _names(8)) == 1
    assert permutation_p(np.full(8, -2), _names(8)) == least_p(8) == 2 / 2**8
    assert permutation_p(np.full(60, -2), _names(60)) == least_p(60) == 1 / 10_001


def test_under_the_null_p_is_below_five_percent_no_more_often_than_that() -> None:
    generator = np.random.default_rng(5)
    draws = [permutation_p(generator.poisson(3, 10) - generator.poisson(3, 10), _names(10)) for _ in range(500)]
    assert np.mean(np.array(draws) <= 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 500)
