"""Gaussian mixtures against scipy in double precision, and re-estimation against its definition."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from asr_kd.errors import UserError
from asr_kd.hmm.em import accumulate, single_gaussians, split, update
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.transform import WindowTransform, delta_transform
from asr_kd.parallel import share

DIM = 5
IDENTITY = WindowTransform(np.eye(DIM, dtype=np.float32)[:, None])


def random_gmm(rng: np.random.Generator, sizes: tuple[int, ...] = (1, 4, 2)) -> Gmm:
    count = sum(sizes)
    weights = np.concatenate([rng.dirichlet(np.ones(size)) for size in sizes]).astype(np.float32)
    means = rng.normal(3, 2, (count, DIM)).astype(np.float32)
    variances = rng.uniform(0.05, 2, (count, DIM)).astype(np.float32)
    return Gmm(IDENTITY, weights, means, variances, np.cumsum([0, *sizes]).astype(np.int32))


def joint(gmm: Gmm, frames: np.ndarray) -> np.ndarray:
    """Log of weight times density of each Gaussian, ``[frames, gaussians]``, by scipy."""
    parts = zip(gmm.weights.astype(float), gmm.means.astype(float), gmm.variances.astype(float), strict=True)
    return np.stack([np.log(w) + multivariate_normal.logpdf(frames, m, np.diag(v)) for w, m, v in parts], 1)


def slow_log_likelihoods(gmm: Gmm, frames: np.ndarray) -> np.ndarray:
    scores = joint(gmm, frames.astype(float))
    return np.stack([logsumexp(scores[:, a:b], 1) for a, b in zip(gmm.bounds, gmm.bounds[1:], strict=False)], 1)


def test_log_likelihoods_are_those_of_scipy_near_and_far() -> None:
    rng = np.random.default_rng(0)
    gmm = random_gmm(rng)
    frames = rng.normal(3, 10, (700, DIM)).astype(np.float32)  # more than one block
    found = gmm.log_likelihoods(frames)
    np.testing.assert_allclose(found, slow_log_likelihoods(gmm, frames), rtol=2e-5, atol=2e-3)
    np.testing.assert_allclose(gmm.log_likelihoods(frames, np.array([2, 0])), found[:, [2, 0]], rtol=1e-6)


def test_features_of_another_dimension_are_refused() -> None:
    with pytest.raises(UserError, match="3 x 4; this model expects frames x 5"):
        random_gmm(np.random.default_rng(0)).log_likelihoods(np.zeros((3, 4), np.float32))


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    gmm = random_gmm(np.random.default_rng(1))
    gmm.save(tmp_path)
    loaded = Gmm.load(tmp_path)
    frames = np.random.default_rng(2).normal(0, 1, (9, DIM)).astype(np.float32)
    np.testing.assert_array_equal(loaded.log_likelihoods(frames), gmm.log_likelihoods(frames))
    (tmp_path / "gmm.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="not a Gaussian mixture model"):
        Gmm.load(tmp_path)
    with pytest.raises(UserError, match="no such folder; expected an HMM folder with Gaussian mixtures"):
        Gmm.load(tmp_path / "elsewhere")


def test_a_damaged_model_is_refused_or_of_the_same_shape(tmp_path: Path) -> None:
    good = random_gmm(np.random.default_rng(1))
    good.save(tmp_path)
    content = bytearray((tmp_path / "gmm.safetensors").read_bytes())
    for place in range(len(content)):
        content[place] ^= 0x80
        (tmp_path / "gmm.safetensors").write_bytes(content)
        content[place] ^= 0x80
        with contextlib.suppress(UserError):
            gmm = Gmm.load(tmp_path)
            assert np.array_equal(gmm.bounds, good.bounds)
            assert np.isfinite(gmm.constants).all()


def test_statistics_are_the_posterior_weighted_sums() -> None:
    rng = np.random.default_rng(3)
    gmm = random_gmm(rng)
    frames = rng.normal(3, 2, (400, DIM)).astype(np.float32)
    states = rng.integers(0, 3, 400)
    found = accumulate(gmm, share(frames), states)
    scores = joint(gmm, frames)
    own = (np.arange(7) >= gmm.bounds[states][:, None]) & (np.arange(7) < gmm.bounds[states + 1][:, None])
    scores[~own] = -np.inf
    posteriors = np.exp(scores - logsumexp(scores, 1, keepdims=True))
    gaps = frames[:, None] - gmm.means
    assert found.log_likelihood == pytest.approx(logsumexp(scores, 1).sum(), rel=1e-5)
    np.testing.assert_allclose(found.occupancy, posteriors.sum(0), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.first, np.einsum("tg,tgd->gd", posteriors, gaps), rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(found.second, np.einsum("tg,tgd->gd", posteriors, gaps**2), rtol=1e-3, atol=0.05)


def test_statistics_do_not_depend_on_the_number_of_jobs() -> None:
    rng = np.random.default_rng(4)
    gmm, frames, states = random_gmm(rng), rng.normal(3, 2, (900, DIM)).astype(np.float32), rng.integers(0, 3, 900)
    one, three = (accumulate(gmm, share(frames), states, jobs) for jobs in (1, 3))
    assert one.log_likelihood == three.log_likelihood
    np.testing.assert_array_equal(one.second, three.second)


def test_likelihood_rises_with_every_iteration() -> None:
    rng = np.random.default_rng(5)
    centres = rng.normal(0, 4, (6, DIM))
    frames = (centres[rng.integers(0, 6, 3000)] + rng.normal(0, 1, (3000, DIM))).astype(np.float32)
    states = (frames[:, 0] > 0).astype(np.int64)
    floor = 1e-3 * np.ones(DIM)
    gmm = single_gaussians(frames, states, 2, IDENTITY, floor)
    gmm = split(gmm, np.bincount(states), 6, 0.25, rng)
    values = []
    for _ in range(12):
        sums = accumulate(gmm, share(frames), states)
        values.append(sums.log_likelihood)
        gmm = update(gmm, sums, floor)
    assert (np.diff(values) > -0.05).all()
    assert values[-1] > values[0] + 100


def test_a_single_gaussian_is_the_sample_mean_and_variance() -> None:
    frames = np.random.default_rng(6).normal(2, 3, (500, DIM)).astype(np.float32)
    gmm = single_gaussians(frames, np.zeros(500, np.int64), 2, IDENTITY, np.zeros(DIM))
    np.testing.assert_allclose(gmm.means[0], frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(gmm.variances[0], frames.var(0), rtol=1e-4)
    np.testing.assert_allclose(gmm.means[1], frames.mean(0), rtol=1e-5)  # without frames of its own


def test_splitting_favours_states_by_the_power_of_their_frames() -> None:
    rng = np.random.default_rng(7)
    gmm = random_gmm(rng, (1, 1, 1, 1))
    grown = split(gmm, np.array([16e4, 1e4, 1e4, 30.0]), 18, 0.5, rng)
    assert np.diff(grown.bounds).tolist() == [11, 3, 3, 1]  # 4 : 1 : 1, and 30 frames are too few for two
    assert grown.num_gaussians == 18
    np.testing.assert_allclose(np.add.reduceat(grown.weights, grown.bounds[:-1]), 1, rtol=1e-6)


def test_gaussians_that_explain_nothing_are_dropped_but_never_a_states_last() -> None:
    rng = np.random.default_rng(8)
    frames = rng.normal(0, 1, (200, DIM)).astype(np.float32)
    means = np.concatenate([np.zeros((1, DIM)), np.full((2, DIM), 50.0)]).astype(np.float32)
    gmm = Gmm(IDENTITY, np.array([0.5, 0.5, 1], np.float32), means, np.ones_like(means), np.array([0, 2, 3], np.int32))
    left = update(gmm, accumulate(gmm, share(frames), np.zeros(200, np.int64)), np.full(DIM, 1e-3))
    assert left.bounds.tolist() == [0, 1, 2]
    assert left.weights.tolist() == [1, 1]
    np.testing.assert_array_equal(left.means[1], means[2])


def test_variances_keep_above_the_floor() -> None:
    frames = np.repeat(np.random.default_rng(9).normal(0, 1, (2, DIM)), 50, 0).astype(np.float32)
    floor = np.full(DIM, 0.25)
    gmm = single_gaussians(frames, np.repeat([0, 1], 50), 2, IDENTITY, floor)
    gmm = update(gmm, accumulate(gmm, share(frames), np.repeat([0, 1], 50)), floor)
    np.testing.assert_allclose(gmm.variances, 0.25)


def test_deltas_are_kaldis_regressions() -> None:
    features = np.random.default_rng(10).normal(0, 1, (30, 3)).astype(np.float32)
    found = delta_transform(3)(features)
    padded = np.pad(features.astype(float), ((4, 4), (0, 0)), mode="edge")

    def regression(values: np.ndarray) -> np.ndarray:
        return sum(k * (values[2 + k : len(values) - 2 + k] - values[2 - k : len(values) - 2 - k]) for k in (1, 2)) / 10

    first = regression(padded)
    np.testing.assert_allclose(found[:, :3], features, rtol=1e-6)
    np.testing.assert_allclose(found[:, 3:6], first[2:-2], atol=1e-5)
    np.testing.assert_allclose(found[:, 6:], regression(first), atol=1e-5)
