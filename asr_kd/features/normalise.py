"""Mean normalisation; the variance is left to the network's input layer."""

from collections.abc import Iterable

import numpy as np

from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig

_WINDOW = 600  # frames of the past whose mean ``online`` subtracts, the current one included
_GLOBAL_FRAMES = 200  # how many frames the global mean counts for until the window is full


def normalise(features: np.ndarray, config: FeatureConfig, speaker_mean: np.ndarray | None = None) -> np.ndarray:
    """Features ``[frames, dimension]`` less the mean that ``config.normalise`` names, float32.

    ``speaker_mean`` ``[dimension]`` comes from ``speaker_means``; without it the utterance is its speaker's only one.
    """
    if config.normalise == "none":
        return features
    if config.normalise == "online":
        return features - online_mean(features, config)
    if config.normalise == "utterance" or speaker_mean is None:
        speaker_mean = features.mean(axis=0, dtype=np.float64)
    return features - speaker_mean.astype(np.float32)


def speaker_means(utterances: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean float64 ``[dimension]`` of each speaker's frames from ``(speaker, features [frames, dimension])``."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for speaker, features in utterances:
        sums[speaker] = sums.get(speaker, 0) + features.sum(axis=0, dtype=np.float64)
        counts[speaker] = counts.get(speaker, 0) + len(features)
    return {speaker: total / counts[speaker] for speaker, total in sums.items()}


def online_mean(features: np.ndarray, config: FeatureConfig) -> np.ndarray:
    """For each frame the mean of the last 600 up to itself, float32 ``[frames, dimension]``.

    Until there are 600 the global mean counts for the missing ones, up to 200 (Kaldi's online-feature.cc,
    ``OnlineCmvn::SmoothOnlineCmvnStats``). Raises ``UserError`` without a global mean.
    """
    if not config.global_mean:
        raise UserError("normalise: online needs global_mean, the mean of the training data")
    sums = np.zeros((len(features) + 1, features.shape[1]))
    np.cumsum(features, axis=0, dtype=np.float64, out=sums[1:])
    end = np.arange(1, len(features) + 1)
    start = np.maximum(end - _WINDOW, 0)
    count = end - start
    smoothing = np.minimum(_WINDOW - count, _GLOBAL_FRAMES)
    total = sums[end] - sums[start] + smoothing[:, None] * np.array(config.global_mean)
    return (total / (count + smoothing)[:, None]).astype(np.float32)
