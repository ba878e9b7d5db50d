"""Mean normalisation; the variance is left to the network's input layer.

The mean is the level of the speech only if there is speech. A recogniser would take two kinds of input for words,
because normalisation turns them into average frames or into frames like no others:

* Digital silence (all samples equal) that lasts a second, or fills more than half of an utterance. The mean excludes
  it.
* Input that is the same throughout: a hum, a tone, steady noise. There is no speech to compare it with.

Both are placed where pauses lie in recordings of speech, ``BACKGROUND`` below the mean. These rules leave all other
input, speech in noise included, exactly as it is.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import cepstra_to_log_mel

# In log energy. In the training parts of AN4 and LibriSpeech, the quietest 5 % of an utterance's frames lie 2.7 to 6.7
# below its mean (5th to 95th percentile over utterances), the median is 4.4 and 4.8.
BACKGROUND = 4.0
_WINDOW = 600  # frames of the past whose mean ``online`` subtracts, the current one included
_GLOBAL_FRAMES = 200  # how many frames the global mean counts for until the window is full
_DIGITAL_SILENCE = -12.0  # mean log energy; zeros give -15.9, one bit of dither +4.5
_SILENT_SHARE = 0.5  # of an utterance. Neither training part has a silent frame; short silences are left as they are
_SILENT_FRAMES = 100  # in a row: a second
_BLOCK = 10  # frames: hum and noise vary from frame to frame, but not over 100 ms
_STEADY = (
    0.3  # standard deviation of blocks: noise at most 0.25, speech in noise at 12 dB at least 0.6, clean speech 1.85
)
_STEADY_FRAMES = 100  # a second; fewer cannot tell noise from speech


def normalise(features: np.ndarray, config: FeatureConfig, speaker_mean: np.ndarray | None = None) -> np.ndarray:
    """Features ``[frames, dimension]`` less the mean that ``config.normalise`` names, float32.

    ``speaker_mean`` ``[dimension]`` comes from ``speaker_means``; without it the utterance is its speaker's only one.
    """
    if config.normalise == "none":
        return features
    if config.normalise == "online":
        mean, silent = online_mean(features, config), _is_silent(features, config)
    else:
        if config.normalise == "utterance" or speaker_mean is None:
            speaker_mean = speaker_means([("", features)], config)[""]
        mean, silent = speaker_mean.astype(np.float32), _is_long_silence(features, config)
    normalised: np.ndarray = features - mean
    if silent.any():
        normalised[silent] = -_background(config).astype(np.float32)
    return normalised


_FBANK = FeatureConfig()


def speaker_means(
    utterances: Iterable[tuple[str, np.ndarray]], config: FeatureConfig = _FBANK
) -> dict[str, np.ndarray]:
    """The vector float64 ``[dimension]`` to subtract from each speaker's frames, the mean of their speech.

    ``utterances`` are ``(speaker, features [frames, dimension])``, of the kind that ``config`` describes.
    """
    speakers: dict[str, _SpeakerFrames] = {}
    for speaker, features in utterances:
        speakers.setdefault(speaker, _SpeakerFrames()).add(features, config)
    return {speaker: frames.mean(config) for speaker, frames in speakers.items()}


def online_mean(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """For each frame the mean of the last 600 up to itself, float32 ``[frames, dimension]``.

    Until there are 600 the global mean counts for the missing ones, up to 200 (Kaldi's online-feature.cc,
    ``OnlineCmvn::SmoothOnlineCmvnStats``). Digital silence does not count, and a window that is the same throughout
    becomes background. Raises ``UserError`` without a global mean.
    """
    if not config.global_mean:
        raise UserError("normalise: online needs global_mean, the mean of the training data")
    silent = _is_silent(features, config)
    sums, count = _in_window(np.where(silent[:, None], np.float32(0), features) if silent.any() else features)
    if silent.any():
        count = count - _in_window(silent[:, None])[0][:, 0].astype(int)
    smoothing = np.minimum(_WINDOW - count, _GLOBAL_FRAMES)
    total = sums + smoothing[:, None] * np.array(config.global_mean)
    mean = total / (count + smoothing)[:, None]
    return (mean + _steady_windows(features, config)[:, None] * _background(config)).astype(np.float32)


@dataclasses.dataclass
class _SpeakerFrames:
    """Sums over a speaker's frames without long digital silence, and over blocks of them."""

    total: np.ndarray | float = 0.0
    count: int = 0
    blocks: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    block_count: int = 0

    def add(self, features: np.ndarray, config: FeatureConfig) -> None:
        """Count ``features`` ``[frames, dimension]``."""
        silent = _is_long_silence(features, config)
        if silent.any():
            features = features[~silent]
        self.total, self.count = self.total + features.sum(axis=0, dtype=np.float64), self.count + len(features)
        whole = features[: len(features) // _BLOCK * _BLOCK]
        blocks = _log_mel(whole.reshape(-1, _BLOCK, features.shape[1]).mean(axis=1), config)
        self.blocks, self.squares = self.blocks + blocks.sum(axis=0), self.squares + np.square(blocks).sum(axis=0)
        self.block_count += len(blocks)

    def mean(self, config: FeatureConfig) -> np.ndarray:
        """The vector to subtract."""
        mean = np.asarray(self.total / max(1, self.count))
        return mean + _background(config) if self._is_steady() else mean

    def _is_steady(self) -> bool:
        if self.block_count < _STEADY_FRAMES // _BLOCK:
            return False
        variance = self.squares / self.block_count - np.square(self.blocks / self.block_count)
        return float(np.sqrt(np.maximum(variance, 0)).mean()) < _STEADY


def _in_window(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each frame the sum over its window, float64 ``[frames, dimension]``, and the window's frames."""
    sums = np.zeros((len(features) + 1, features.shape[1]))
    np.cumsum(features, axis=0, dtype=np.float64, out=sums[1:])
    end = np.arange(1, len(features) + 1)
    start = np.maximum(end - _WINDOW, 0)
    return sums[end] - sums[start], end - start


def _steady_windows(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Whether each frame's window is full and the same throughout, ``[frames]``."""
    if len(features) < _WINDOW:
        return np.zeros(len(features), bool)
    sums = np.zeros((len(features) + 1, features.shape[1]))
    np.cumsum(features, axis=0, dtype=np.float64, out=sums[1:])
    blocks = _log_mel((sums[_BLOCK:] - sums[:-_BLOCK]) / _BLOCK, config)  # row i: the frames i to i + _BLOCK - 1
    moments = np.zeros((len(blocks) + 1, 2 * blocks.shape[1]))
    np.cumsum(np.hstack([blocks, np.square(blocks)]), axis=0, out=moments[1:])
    inside = _WINDOW - _BLOCK + 1  # blocks in a window
    mean, square = np.hsplit((moments[inside:] - moments[:-inside]) / inside, 2)
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0)).mean(axis=1)
    return np.concatenate([np.zeros(_WINDOW - 1, bool), deviation < _STEADY])


def _is_silent(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Which frames are digital silence, ``[frames]``: their mean log energy is near the floor."""
    if config.kind == "fbank":
        level = features.mean(axis=1)
    else:
        level = features[:, 0] if config.energy else features[:, 0] / np.float32(np.sqrt(config.bins))
    return np.asarray(level < _DIGITAL_SILENCE + (_RESIDUE if config.energy else 0))


_RESIDUE = 8.0  # by which rounding raises the energy of a constant, which log-mel filters see less of


def _is_long_silence(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Which frames are digital silence that is to be left out, ``[frames]``."""
    silent = _is_silent(features, config)
    if not silent.any() or silent.mean() > _SILENT_SHARE:
        return silent
    edges = np.flatnonzero(np.diff(silent, prepend=False, append=False))
    for begin, end in edges.reshape(-1, 2):
        if end - begin < _SILENT_FRAMES:
            silent[begin:end] = False
    return silent


def _log_mel(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """Log-mel energies float64 ``[frames, bins]``, of cepstra as far as they tell."""
    features = features.astype(np.float64)
    if config.kind == "fbank":
        return features
    if config.energy:
        features[:, 0] *= np.sqrt(config.bins)
    return features @ cepstra_to_log_mel(config)


@functools.cache
def _background(config: FeatureConfig) -> np.ndarray:
    """What ``BACKGROUND`` in log energy is in features, ``[dimension]``."""
    if config.kind == "fbank":
        return np.full(config.dimension, BACKGROUND)
    level = np.zeros(config.dimension)
    level[0] = BACKGROUND * (1 if config.energy else np.sqrt(config.bins))
    return level
