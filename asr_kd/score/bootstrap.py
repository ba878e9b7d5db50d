"""Confidence intervals and paired tests for error rates, with whole speakers as the unit of sampling.

The errors of one speaker's utterances are correlated, so whole speakers are resampled or exchanged (Liu et al.,
"Statistical testing on ASR performance via blockwise bootstrap", 2019; Bisani and Ney, "Bootstrap estimates for
confidence intervals in ASR performance evaluation", ICASSP 2004).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

DRAWS = 10_000
LEVEL = 0.95
_EXACT = 14  # up to this many clusters all 2^n exchanges are enumerated


@dataclasses.dataclass(frozen=True)
class Interval:
    """A confidence interval at ``LEVEL``, ``clusters`` units resampled ``DRAWS`` times."""

    low: float
    high: float
    clusters: int


def rate_interval(errors: np.ndarray, words: np.ndarray, clusters: Sequence[str], seed: int = 0) -> Interval:
    """Bootstrap interval of ``errors.sum() / words.sum()``; both ``[utterances]``, ``clusters`` names each one's unit.

    ``errors`` may be a difference of two systems' errors: the interval is then that of the paired difference.
    The percentiles are widened for few clusters (Hesterberg, "What teachers should know about the bootstrap", 2015,
    section 3.3: Student's t with n - 1 degrees of freedom, and the factor sqrt(n / (n - 1))); plain percentiles of 10
    speakers cover about 90 % instead of 95 %. With one cluster the interval is the rate itself.
    """
    from scipy.special import ndtr, stdtrit

    # Clusters with equal totals share a row, drawn as often as all of them: thousands of images have two distinct rows.
    totals, copies = np.unique(_sum_by_cluster(np.stack([errors, words], axis=1), clusters), axis=0, return_counts=True)
    number = int(copies.sum())
    drawn = np.random.default_rng(seed).multinomial(number, copies / number, DRAWS) @ totals
    rates = drawn[:, 0] / np.maximum(drawn[:, 1], 1)
    tail = (1 - LEVEL) / 2
    if number > 1:
        tail = float(ndtr(stdtrit(number - 1, tail) * np.sqrt(number / (number - 1))))
    low, high = np.quantile(rates, [tail, 1 - tail])
    return Interval(float(low), float(high), number)


def permutation_p(difference: np.ndarray, clusters: Sequence[str], seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that two systems are equally good; ``difference`` is of errors, by utterance.

    The paired permutation test: if the systems were equally good, exchanging them on any speaker would not matter. So
    the total difference is compared with that under all exchanges: all 2^n for up to 14 clusters, else ``DRAWS`` random
    ones and the observed one. It assumes no distribution. Few clusters bound p from below (``least_p``). The
    matched-pairs test of Gillick and Cox (ICASSP 1989) would treat segments of one speaker as independent.
    """
    totals = _sum_by_cluster(difference[:, None], clusters)[:, 0]
    number = len(totals)
    if number <= _EXACT:
        signs = 1 - 2 * (np.arange(2**number)[:, None] >> np.arange(number) & 1)
        return float((np.abs(signs @ totals) >= abs(totals.sum())).mean())
    sizes, copies = np.unique(np.abs(totals[totals != 0]), return_counts=True)
    drawn = (2 * np.random.default_rng(seed).binomial(copies, 0.5, (DRAWS, len(copies))) - copies) @ sizes
    return float((1 + (np.abs(drawn) >= abs(totals.sum())).sum()) / (1 + DRAWS))


def least_p(clusters: int) -> float:
    """The smallest value that ``permutation_p`` can return: that of a system that is better on every cluster."""
    return 2.0 ** (1 - clusters) if clusters <= _EXACT else 1 / (1 + DRAWS)


def _sum_by_cluster(values: np.ndarray, clusters: Sequence[str]) -> np.ndarray:
    """``values`` ``[utterances, columns]`` summed over each cluster, ``[clusters, columns]``."""
    names, index = np.unique(np.array(clusters), return_inverse=True)
    totals = np.zeros((len(names), values.shape[1]), np.int64)
    np.add.at(totals, index, values)
    return totals
