"""Reverberation and noise for synthetic speech: ``[samples]`` in, ``[samples]`` out, all from one random generator."""

import numpy as np

REVERBERATION_TIME = (0.1, 0.4)  # seconds until the echo has decayed by 60 dB (RT60)
DIRECT_TO_REVERBERANT = (3.0, 15.0)  # decibels
SIGNAL_TO_NOISE = (12.0, 30.0)  # decibels
NOISES = ("white", "pink", "babble")


def reverberate(speech: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """``speech`` in a room: the direct sound plus an exponentially decaying tail of noise (Polack's model)."""
    seconds = rng.uniform(*REVERBERATION_TIME)
    time = np.arange(1, int(seconds * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail *= 10 ** (-rng.uniform(*DIRECT_TO_REVERBERANT) / 20) / np.linalg.norm(tail)
    response = np.concatenate([[1.0], tail])
    size = 1 << (len(speech) + len(response)).bit_length()  # long enough that the convolution does not wrap around
    return np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(response, size))[: len(speech)]


def add_noise(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``speech`` plus noise of a random kind at a random signal-to-noise ratio (of mean powers)."""
    noise = _noise(NOISES[int(rng.integers(len(NOISES)))], speech, rng)
    ratio = 10 ** (rng.uniform(*SIGNAL_TO_NOISE) / 10)
    return speech + noise * np.sqrt(np.mean(speech**2) / (ratio * np.mean(noise**2)))


def _noise(kind: str, speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if kind == "babble":
        # Reversed speech keeps its spectrum and rhythm but has no words; several shifted copies sound like a crowd.
        shifts = rng.integers(len(speech), size=6)
        return np.sum([np.roll(speech[::-1], shift) for shift in shifts], axis=0)
    white = rng.standard_normal(len(speech))
    if kind == "white":
        return white
    spectrum = np.fft.rfft(white)
    return np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(white))
