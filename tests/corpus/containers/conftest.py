"""Whole audio files as bytes, and what the project makes of bytes."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.corpus.audio import audio_info, read_audio

Encode = Callable[..., bytes]
Decode = Callable[[bytes], np.ndarray]


def noise(seconds: float, rate: int = 16000, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Int16 ``[samples, channels]`` that no codec compresses much."""
    samples = np.random.default_rng(seed).integers(-9000, 9000, (round(seconds * rate), channels))
    return samples.astype(np.int16)


@pytest.fixture
def encode() -> Encode:
    """``encode(samples, format, subtype, rate)``: the bytes that libsndfile writes."""

    def make(samples: np.ndarray, form: str, subtype: str | None = None, rate: int = 16000, **how: object) -> bytes:
        stream = io.BytesIO()
        soundfile.write(stream, samples, rate, format=form, subtype=subtype, **how)
        return stream.getvalue()

    return make


@pytest.fixture
def decode(tmp_path: Path) -> Decode:
    """``decode(content)``: the samples float32 of a file with these bytes; its header must agree with them."""

    def read(content: bytes) -> np.ndarray:
        path = tmp_path / "audio"
        path.write_bytes(content)
        info = audio_info(path)
        samples = read_audio(path, info.sample_rate)
        assert len(samples) == info.samples
        return samples

    return read
