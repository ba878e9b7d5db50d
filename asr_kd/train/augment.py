"""SpecAugment: stretches of time and bands of frequency are hidden from the network (Park et al. 2019)."""

import torch
from torch import Tensor

from asr_kd.train.config import TrainConfig


def mask(features: Tensor, mean: Tensor, config: TrainConfig) -> Tensor:
    """``features [examples, frames, bins]`` with random stretches and bands of each example set to ``mean [bins]``.

    Draws from torch's global generator.
    """
    examples, frames, bins = features.shape
    for _ in range(config.frequency_masks):
        hidden = _stretches(examples, bins, config.frequency_width, features.device)
        features = torch.where(hidden[:, None, :], mean, features)
    for _ in range(config.time_masks):
        hidden = _stretches(examples, frames, config.time_width, features.device)
        features = torch.where(hidden[:, :, None], mean, features)
    return features


def _stretches(examples: int, length: int, widest: int, device: torch.device) -> Tensor:
    """One stretch of 0 to ``widest`` places for each example: bool ``[examples, length]``."""
    width = torch.randint(widest + 1, (examples, 1), device=device).clamp(max=length)
    first = (torch.rand(examples, 1, device=device) * (length - width + 1)).long()
    place = torch.arange(length, device=device)
    return (place >= first) & (place < first + width)
