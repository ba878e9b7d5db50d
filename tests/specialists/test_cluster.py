"""The covariance of predictions against numpy's, and clusters of states that are confused by construction."""

from typing import Literal

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.specialists import Confusion, cluster_states
from asr_kd.specialists.cluster import ROWS

SCALES: tuple[Literal["none", "correlation"], ...] = ("none", "correlation")
GROUPS = ([0, 3, 6, 9, 12, 15], [1, 4, 7, 10, 13, 16], [2, 5, 8, 11, 14, 17])


def peaked(frames: int, states: int = 18, seed: int = 0) -> np.ndarray:
    """Predictions, float32, that confuse the states of each of ``GROUPS``."""
    random = np.random.default_rng(seed)
    states_said = random.integers(0, states, frames)
    logits = random.normal(size=(frames, states)) + 4 * (np.arange(states) % 3 == states_said[:, None] % 3)
    prob = np.exp(2 * logits)
    return (prob / prob.sum(1, keepdims=True)).astype(np.float32)


def confusion(*parts: np.ndarray) -> Confusion:
    """Of predictions that are added one part after another."""
    result = Confusion()
    for part in parts:
        result.add(part)
    return result


def as_lists(clusters: list[np.ndarray]) -> list[list[int]]:
    """Clusters, which can be compared."""
    return [own.tolist() for own in clusters]


@pytest.mark.parametrize("frames", [2, 100, ROWS, 2 * ROWS + 1])
def test_the_covariance_is_numpys(frames: int) -> None:
    prob = peaked(frames)
    counted = confusion(prob)
    assert counted.frames == frames
    expected = np.cov(prob.astype(np.float64).T)
    np.testing.assert_allclose(counted.covariance(), expected, rtol=0, atol=1e-13 * expected.max())
    np.testing.assert_allclose(counted.mean, prob.mean(0, dtype=np.float64), rtol=1e-13)


def test_the_way_frames_are_divided_and_looking_between_change_no_bit() -> None:
    prob = peaked(2 * ROWS + 100)
    whole, parts = confusion(prob), confusion(*np.array_split(prob[: ROWS + 7], 40))
    parts.covariance()
    for row in prob[ROWS + 7 :]:
        parts.add(row[None])
    parts.add(prob[:0])
    assert parts.frames == whole.frames
    assert parts.covariance().tobytes() == whole.covariance().tobytes()
    assert (whole.covariance() == whole.covariance().T).all()


def test_small_differences_of_smooth_predictions_are_not_lost() -> None:
    prob = 0.5 + 1e-4 * (np.random.default_rng(0).random((3000, 4)) - 0.5)  # variances of 1e-9
    np.testing.assert_allclose(confusion(prob).covariance(), np.cov(prob.T), rtol=0, atol=1e-14)


def test_wrong_predictions_are_named_and_not_counted() -> None:
    counted = confusion(peaked(50))
    expected = counted.covariance()
    with pytest.raises(UserError, match=r"shape \[5, 17\]; expected \[frames, 18\]"):
        counted.add(peaked(5)[:, 1:])
    with pytest.raises(UserError, match=r"shape \[18\]; expected \[frames, 18\]"):
        counted.add(peaked(1)[0])
    for value in (np.nan, np.inf, -np.inf):
        wrong = peaked(20)
        wrong[7, 3] = value
        with pytest.raises(UserError, match="predictions of frame 7 are not finite"):
            counted.add(wrong)
    assert counted.frames == 50
    assert (counted.covariance() == expected).all()


@pytest.mark.parametrize("frames", [0, 1])
def test_a_covariance_takes_two_frames(frames: int) -> None:
    with pytest.raises(UserError, match=f"predictions of {frames} frames were added; .* at least 2"):
        confusion(peaked(2)[:frames]).covariance()


@pytest.mark.parametrize("scale", SCALES)
def test_states_that_are_confused_come_together(scale: Literal["none", "correlation"]) -> None:
    clusters = cluster_states(confusion(peaked(3000)).covariance(), 3, 0, scale)
    assert as_lists(clusters) == list(GROUPS)
    assert {own.dtype for own in clusters} == {np.dtype(np.int64)}


def test_clusters_are_a_partition_that_depends_on_nothing_but_the_seed() -> None:
    covariance = np.cov(np.random.default_rng(1).dirichlet(np.ones(60), 500).T)
    first = cluster_states(covariance, 7, 5, "spectral")
    assert sorted(np.concatenate(first)) == list(range(60))
    assert [own[0] for own in first] == sorted(own[0] for own in first)
    assert all((np.diff(own) > 0).all() for own in first)
    assert as_lists(cluster_states(covariance, 7, 5, "spectral")) == as_lists(first)
    assert as_lists(cluster_states(covariance, 7, 6, "spectral")) != as_lists(first)


def test_correlation_looks_past_how_frequent_states_are() -> None:
    prob = peaked(3000).astype(np.float64)
    prob *= np.where(np.arange(18) == 4, 1, 1e-3)  # one state takes nearly all
    covariance = confusion(prob).covariance()
    assert as_lists(cluster_states(covariance, 3, 0, "correlation")) == list(GROUPS)
    with pytest.raises(UserError, match=r"cluster \d of 3 is state 4 alone; expected at least 2"):
        cluster_states(covariance, 3, 0)
    assert [len(own) for own in cluster_states(covariance, 3, 0, size=5)] == [
        5,
        5,
        5,
    ]  # which a single state gives way to


def test_states_that_are_never_predicted_have_a_cluster_all_the_same() -> None:
    prob = peaked(3000)
    prob[:, [5, 7]] = 0
    for scale in SCALES:
        clusters = cluster_states(confusion(prob).covariance(), 3, 0, scale)
        assert sorted(np.concatenate(clusters)) == list(range(18))


def test_clusters_of_one_size_overlap_and_take_the_most_confused_states() -> None:
    covariance = confusion(peaked(3000)).covariance()
    clusters = cluster_states(covariance, 3, 0, "spectral", size=4)
    assert [len(own) for own in clusters] == [4, 4, 4]
    assert all(set(own) <= set(group) for own, group in zip(as_lists(clusters), GROUPS, strict=True))
    wide = cluster_states(covariance, 3, 0, "spectral", size=9)
    assert all(set(group) < set(own) for own, group in zip(as_lists(wide), GROUPS, strict=True))
    for size in (1, 18):
        with pytest.raises(UserError, match=f"--size {size}: expected 2 to 17"):
            cluster_states(covariance, 3, 0, size=size)


def test_mistakes_are_named() -> None:
    covariance = confusion(peaked(100)).covariance()
    for k in (1, 19):
        with pytest.raises(UserError, match=f"--k {k}: expected 2 to 18"):
            cluster_states(covariance, k, 0)
    with pytest.raises(UserError, match=r"shape \[17, 18\]; expected \[states, states\]"):
        cluster_states(covariance[1:], 2, 0)
    covariance[3, 2] = np.nan
    with pytest.raises(UserError, match="covariance of state 3 is not finite"):
        cluster_states(covariance, 2, 0)
    with pytest.raises(UserError, match="3 clusters were requested, but only 2 were found"):
        cluster_states(np.diag([0.0, 0, 0, 1, 1]) @ np.ones((5, 5)), 3, 0)
