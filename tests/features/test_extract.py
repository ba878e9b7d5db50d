"""Features equal Kaldi's: against its own code, torchaudio's, and a slow double-precision reference."""

from collections.abc import Callable

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import compute_features
from tests.features.conftest import speech

CONFIGS = [
    FeatureConfig(),
    FeatureConfig(sample_rate=8000, bins=23, high_hz=-200),
    FeatureConfig(bins=80, low_hz=60, high_hz=7600),
    FeatureConfig(kind="mfcc", bins=23),
    FeatureConfig(kind="mfcc", bins=40, cepstra=40),
    FeatureConfig(kind="mfcc", bins=23, energy=True),
]


def by_kaldi(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    native = pytest.importorskip("kaldi_native_fbank")
    options = native.FbankOptions() if config.kind == "fbank" else native.MfccOptions()
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = config.bins
    options.mel_opts.low_freq = config.low_hz
    options.mel_opts.high_freq = config.high_hz
    options.use_energy = config.energy
    if config.kind == "mfcc":
        options.num_ceps = config.cepstra
    computer = native.OnlineFbank(options) if config.kind == "fbank" else native.OnlineMfcc(options)
    computer.accept_waveform(config.sample_rate, (samples * 32768).tolist())
    computer.input_finished()
    return np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def by_torchaudio(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    torch = pytest.importorskip("torch")
    options = {
        "sample_frequency": config.sample_rate,
        "num_mel_bins": config.bins,
        "low_freq": config.low_hz,
        "high_freq": config.high_hz,
        "dither": 0.0,
        "use_energy": config.energy,
    }
    waveform = torch.from_numpy(samples * 32768)[None]
    if config.kind == "fbank":
        return kaldi.fbank(waveform, **options).numpy()
    return kaldi.mfcc(waveform, num_ceps=config.cepstra, **options).numpy()


def by_definition(samples: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Log-mel in double precision, frame by frame, with a DFT as a matrix."""
    size = 512 if config.sample_rate == 16000 else 256
    n = np.arange(size)
    dft = np.exp(-2j * np.pi * np.outer(n[: size // 2], n) / size)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / (config.window - 1))
    low, high = (1127 * np.log(1 + hertz / 700) for hertz in (config.low_hz, config.top_hz))
    edges = np.linspace(low, high, config.bins + 2)
    rows = []
    for start in range(0, len(samples) - config.window + 1, config.shift):
        frame = samples[start : start + config.window].astype(np.float64) * 32768
        frame -= frame.mean()
        frame = np.array([x - 0.97 * before for x, before in zip(frame, [frame[0], *frame[:-1]], strict=True)])
        power = np.abs(dft @ np.pad(frame * hann**0.85, (0, size - config.window))) ** 2
        row = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            mel = 1127 * np.log(1 + n[: size // 2] * config.sample_rate / size / 700)
            rise, fall = (mel - left) / (centre - left), (right - mel) / (right - centre)
            row.append(np.log(max(np.sum(power * np.clip(np.minimum(rise, fall), 0, None)), 2.0**-23)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("oracle", [by_kaldi, by_torchaudio])
@pytest.mark.parametrize("config", CONFIGS)
def test_features_equal_the_oracle(config: FeatureConfig, oracle: Callable[..., np.ndarray]) -> None:
    samples = speech(3.2, config.sample_rate, 1)
    found = compute_features(samples, config)
    assert found.dtype == np.float32
    assert found.shape == (config.num_frames(len(samples)), config.dimension)
    np.testing.assert_allclose(found, oracle(samples, config), atol=1e-3)


@pytest.mark.parametrize("config", CONFIGS[:2])
def test_log_mel_equals_its_definition(config: FeatureConfig) -> None:
    samples = speech(0.4, config.sample_rate, 2)
    np.testing.assert_allclose(compute_features(samples, config), by_definition(samples, config), atol=5e-4)


def test_blocks_leave_no_seam() -> None:
    samples = speech(8, 16000, 3)
    whole = compute_features(samples, FeatureConfig())
    for start in (0, 100, 255, 256, 511):
        part = compute_features(samples[start * 160 :][:4000], FeatureConfig())
        np.testing.assert_allclose(part, whole[start : start + len(part)], atol=1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (16000, 98)])
def test_frames_are_those_that_fit_whole(samples: int, frames: int) -> None:
    assert compute_features(np.zeros(samples, np.float32), FeatureConfig()).shape == (frames, 40)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_audio_shorter_than_a_frame_is_refused(samples: int) -> None:
    with pytest.raises(UserError, match=rf"too short: {samples} samples? .* less than one frame \(400 samples\)"):
        compute_features(np.zeros(samples, np.float32), FeatureConfig())


@pytest.mark.parametrize("kind", ["fbank", "mfcc"])
def test_silence_gives_finite_floor_values(kind: str) -> None:
    for energy in {False, kind == "mfcc"}:
        found = compute_features(np.zeros(1600, np.float32), FeatureConfig(kind=kind, energy=energy))  # type: ignore[arg-type]
        assert np.isfinite(found).all()
        if kind == "fbank":
            np.testing.assert_allclose(found, np.log(2.0**-23), rtol=1e-6)


def test_clipped_and_constant_audio_give_finite_values() -> None:
    for samples in (np.ones(1600), np.sign(np.sin(np.arange(1600))), np.full(1600, -8.0)):
        assert np.isfinite(compute_features(samples.astype(np.float32), FeatureConfig())).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_hz": 8000.0}, "expected a range within 0 to 8000 Hz"),
        ({"high_hz": 9000.0}, "expected a range within 0 to 8000 Hz"),
        ({"kind": "mfcc", "cepstra": 41}, "cepstra is 41; expected 1 to 40, the number of bins"),
        ({"energy": True}, "requires kind: mfcc"),
        ({"global_mean": (1.0,)}, "has 1 value, expected 40"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FeatureConfig(**options)  # type: ignore[arg-type]


def test_more_bins_than_the_spectrum_can_fill_are_refused() -> None:
    with pytest.raises(UserError, match="too many"):
        compute_features(np.zeros(400, np.float32), FeatureConfig(bins=200))


@pytest.mark.parametrize("values", [{"bins": 0}, {"bins": 2_000_000_000}, {"sample_rate": 1}, {"sample_rate": 10**12}])
def test_sizes_that_no_recogniser_has_are_refused_before_memory_is_taken(values: dict[str, int]) -> None:
    (name,) = values
    with pytest.raises(UserError, match=f"{name} is .*expected"):
        FeatureConfig(**values)  # type: ignore[arg-type]
