"""Mean normalisation against plain loops."""

import dataclasses

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.normalise import normalise, online_mean, speaker_means

ONLINE = FeatureConfig(bins=3, cepstra=3, normalise="online", global_mean=(5.0, -3.0, 0.5))


def random_features(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(2, 3, (frames, 3)).astype(np.float32)


def online_by_loop(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Kaldi's OnlineCmvn: window 600, 200 frames of global statistics, none of the speaker."""
    rows = []
    for t in range(len(features)):
        window = features[max(0, t - 599) : t + 1].astype(np.float64)
        added = min(600 - len(window), 200)
        total = window.sum(axis=0) + added * np.array(config.global_mean)
        rows.append(total / (len(window) + added))
    return np.array(rows)


@pytest.mark.parametrize("frames", [1, 5, 399, 401, 600, 601, 1500])
def test_online_mean_equals_the_loop(frames: int) -> None:
    features = random_features(frames)
    np.testing.assert_allclose(online_mean(features, ONLINE), online_by_loop(features, ONLINE), atol=1e-5)


def test_online_normalisation_never_looks_ahead() -> None:
    features = random_features(900)
    whole = normalise(features, ONLINE)
    np.testing.assert_array_equal(normalise(features[:700], ONLINE), whole[:700])


def test_online_without_a_global_mean_is_refused() -> None:
    with pytest.raises(UserError, match="global_mean"):
        normalise(random_features(5), dataclasses.replace(ONLINE, global_mean=()))


def test_utterance_and_speaker_means_become_zero() -> None:
    parts = [random_features(n, n) for n in (10, 33, 7)]
    config = FeatureConfig(bins=3, cepstra=3, normalise="utterance")
    for part in parts:
        np.testing.assert_allclose(normalise(part, config).mean(axis=0), 0, atol=1e-6)
    means = speaker_means([("a", parts[0]), ("b", parts[1]), ("a", parts[2])])
    np.testing.assert_allclose(means["a"], np.concatenate([parts[0], parts[2]]).mean(axis=0), rtol=1e-6)
    by_speaker = dataclasses.replace(config, normalise="speaker")
    joined = np.concatenate([normalise(parts[0], by_speaker, means["a"]), normalise(parts[2], by_speaker, means["a"])])
    np.testing.assert_allclose(joined.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_array_equal(normalise(parts[0], by_speaker), normalise(parts[0], config))


def test_none_changes_nothing() -> None:
    features = random_features(4)
    assert normalise(features, FeatureConfig(bins=3, cepstra=3, normalise="none")) is features
