"""Mean normalisation against plain loops."""

import dataclasses

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import compute_features
from asr_kd.features.normalise import BACKGROUND, normalise, online_mean, speaker_means

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


FBANK = FeatureConfig(normalise="utterance")
KINDS = [
    FBANK,
    FeatureConfig(kind="mfcc", normalise="utterance"),
    FeatureConfig(kind="mfcc", energy=True, normalise="utterance"),
]


def level(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """The mean log energy of each frame, relative to the mean that was subtracted."""
    if config.kind == "fbank":
        return features.mean(axis=1)
    return features[:, 0] / (1 if config.energy else np.sqrt(config.bins))


def syllables(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness changes four times a second, as speech does."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    loudness = 10 ** (-2 + 1.5 * np.sin(2 * np.pi * 4 * time))
    return (0.1 * loudness * rng.standard_normal(len(time))).astype(np.float32)


TIME = np.arange(160_000) / 16000
STEADY: dict[str, np.ndarray] = {
    "digital silence": np.zeros(160_000),
    "silence with an offset": np.full(160_000, 0.3),
    "a tone": 0.3 * np.sin(2 * np.pi * 443.7 * TIME),
    "a hum": np.sum([0.1 / k * np.sin(2 * np.pi * 50 * k * TIME) for k in range(1, 12)], axis=0),
    "white noise": 0.1 * np.random.default_rng(0).standard_normal(160_000),
    "dither": np.rint(np.random.default_rng(0).uniform(-1, 1, 160_000)) / 32768,
}


@pytest.mark.parametrize("config", KINDS, ids=lambda config: f"{config.kind}-{config.energy}")
@pytest.mark.parametrize("sound", STEADY)
def test_input_that_is_the_same_throughout_becomes_background(sound: str, config: FeatureConfig) -> None:
    features = compute_features(STEADY[sound].astype(np.float32), config)
    assert np.median(level(normalise(features, config), config)) == pytest.approx(-BACKGROUND, abs=0.5)
    online = dataclasses.replace(config, normalise="online", global_mean=tuple([10.0] * config.dimension))
    settled = level(normalise(features, online), online)[700:]
    assert np.median(settled) < -BACKGROUND + 0.5


@pytest.mark.parametrize("config", KINDS, ids=lambda config: f"{config.kind}-{config.energy}")
@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_digital_silence_around_speech_neither_moves_it_nor_resembles_it(config: FeatureConfig, offset: float) -> None:
    speech, silence = syllables(2.0), np.zeros(128_000, np.float32)
    alone = normalise(compute_features(speech, config), config)
    parts = np.concatenate([silence, speech, silence, speech, silence]) + np.float32(offset)
    features = normalise(compute_features(parts, config), config)
    assert features[805:993] == pytest.approx(alone[5:193], abs=0.5)
    assert level(features[10:790], config) == pytest.approx(np.full(780, -BACKGROUND), abs=1e-4)


def test_other_input_is_normalised_as_before() -> None:
    gaps = np.concatenate([syllables(1.0), np.zeros(8000, np.float32), syllables(1.0, 1)])  # 20 % of digital silence
    for samples in (syllables(2.0), gaps, syllables(0.05), syllables(3.0) + 0.01 * STEADY["white noise"][:48000]):
        features = compute_features(samples.astype(np.float32), FBANK)
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        np.testing.assert_array_equal(normalise(features, FBANK), features - mean)


def test_a_silent_utterance_does_not_move_the_mean_of_its_speaker() -> None:
    speech = compute_features(syllables(2.0), FBANK)
    silence = compute_features(np.zeros(160_000, np.float32), FBANK)
    means = speaker_means([("s", silence), ("s", speech), ("s", silence)], FBANK)
    np.testing.assert_allclose(means["s"], speech.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_array_equal(normalise(silence, FBANK, means["s"]), np.full_like(silence, -BACKGROUND))


def test_online_normalisation_of_silence_and_steady_sounds_never_looks_ahead() -> None:
    online = dataclasses.replace(FBANK, normalise="online", global_mean=tuple([10.0] * 40))
    samples = np.concatenate([syllables(3.0), STEADY["a hum"], np.zeros(32_000), syllables(3.0)]).astype(np.float32)
    features = compute_features(samples, online)
    whole = normalise(features, online)
    for end in (400, 1000, 1400, 1600):
        np.testing.assert_array_equal(normalise(features[:end], online), whole[:end])


def test_half_a_second_of_digital_silence_before_a_short_utterance_changes_nothing() -> None:
    """As in LibriSpeech, whose released recordings have such gaps."""
    rng = np.random.default_rng(1)
    samples = np.concatenate([np.zeros(8000), rng.normal(0, 0.1, 22000)]).astype(np.float32)
    config = FeatureConfig(normalise="utterance")
    features = compute_features(samples, config)
    assert (normalise(features, config) == features - features.mean(axis=0, dtype=np.float64).astype(np.float32)).all()
