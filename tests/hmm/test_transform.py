"""LDA and MLLT against their definitions."""

import numpy as np
import pytest

from asr_kd.hmm.em import mllt_statistics
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.transform import WindowTransform, lda_transform, mllt, splice


def test_windows_repeat_the_first_and_last_frame() -> None:
    windows = splice(np.arange(4, dtype=np.float32)[:, None], 5)
    assert windows.tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]


def test_transforms_compose() -> None:
    rng = np.random.default_rng(0)
    transform = WindowTransform(rng.normal(0, 1, (4, 3, 2)).astype(np.float32))
    matrix, features = rng.normal(0, 1, (4, 4)), rng.normal(0, 1, (9, 2)).astype(np.float32)
    np.testing.assert_allclose(transform.then(matrix)(features), transform(features) @ matrix.T, atol=1e-4)


def test_lda_whitens_within_classes_and_finds_what_separates_them() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 6000)
    mixing = rng.normal(0, 1, (4, 4))
    centres = np.zeros((3, 4))
    centres[:, 1], centres[:, 3] = (0, 6, 12), (0, 4, 0)
    windows = (centres[labels] + rng.normal(0, 1, (6000, 4))) @ mixing.T
    first = np.stack([windows[labels == label].sum(0) for label in range(3)])
    transform = lda_transform(np.bincount(labels), first, windows.T @ windows, 2, 2)
    assert transform.projection.shape == (2, 2, 2)
    projected = windows @ transform.projection.reshape(2, 4).T
    within = np.concatenate([projected[labels == label] - projected[labels == label].mean(0) for label in range(3)])
    np.testing.assert_allclose(within.T @ within / 6000, np.eye(2), atol=1e-3)
    separation = np.linalg.inv(mixing)[[1, 3]]  # the directions along which the centres differ
    combined = np.concatenate([separation, transform.projection.reshape(2, 4)])
    assert np.linalg.svd(combined / np.linalg.norm(combined, axis=1, keepdims=True))[1][2] < 0.1


def rotated_data(seed: int) -> tuple[Gmm, np.ndarray, np.ndarray, np.ndarray]:
    """Frames that are independent Gaussians in a rotated basis, and a model with the best variances in this one."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(0, 1, (3, 3))
    states = rng.integers(0, 2, 8000)
    spreads = np.array([[0.2, 1, 3], [2, 0.3, 1]])
    frames = ((rng.normal(0, 1, (8000, 3)) * spreads[states]) @ mixing.T).astype(np.float32)
    means = np.stack([frames[states == state].mean(0) for state in (0, 1)])
    variances = np.stack([frames[states == state].var(0) for state in (0, 1)])
    identity = WindowTransform(np.eye(3, dtype=np.float32)[:, None])
    return Gmm(identity, np.ones(2, np.float32), means, variances, np.arange(3, dtype=np.int32)), frames, states, mixing


def test_mllt_statistics_are_the_weighted_scatters() -> None:
    gmm, frames, states, _ = rotated_data(2)
    statistics, count = mllt_statistics(gmm, frames, states)
    expected = np.zeros((3, 3, 3))
    for state in (0, 1):
        gaps = (frames[states == state] - gmm.means[state]).astype(float)
        expected += np.einsum("i,td,te->ide", 1 / gmm.variances[state].astype(float), gaps, gaps)
    assert count == pytest.approx(8000)
    np.testing.assert_allclose(statistics, expected, rtol=1e-3, atol=1)


def test_mllt_raises_the_likelihood_by_what_it_says() -> None:
    gmm, frames, states, _ = rotated_data(3)
    matrix, gain = mllt(*mllt_statistics(gmm, frames, states))

    def likelihood(matrix: np.ndarray, variances: np.ndarray) -> float:
        gaps = ((frames - gmm.means[states]) @ matrix.T).astype(float)
        quadratic = (gaps**2 / variances[states] + np.log(2 * np.pi * variances[states])).sum(1)
        return float(np.linalg.slogdet(matrix)[1] - 0.5 * quadratic.mean())

    assert gain > 0
    assert likelihood(matrix, gmm.variances) - likelihood(np.eye(3), gmm.variances) == pytest.approx(gain, rel=1e-3)


def test_repeated_mllt_finds_the_basis_in_which_the_data_are_independent() -> None:
    gmm, frames, states, mixing = rotated_data(4)
    total = np.eye(3)
    for _ in range(20):
        matrix, _ = mllt(*mllt_statistics(gmm, frames, states))
        total, frames = matrix @ total, (frames @ matrix.T).astype(np.float32)
        means = np.stack([frames[states == state].mean(0) for state in (0, 1)])
        variances = np.stack([frames[states == state].var(0) for state in (0, 1)])
        gmm = Gmm(gmm.transform, gmm.weights, means, variances, gmm.bounds)
    product = np.abs(total @ mixing)
    np.testing.assert_allclose(np.sort(product / product.max(1, keepdims=True), axis=1)[:, :2], 0, atol=0.15)
