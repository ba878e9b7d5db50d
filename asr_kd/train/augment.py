"""What a network hears in place of the stored features, drawn anew for each example of each step."""

import math

import torch
from torch import Tensor

from asr_kd.train.config import TrainConfig

CURVES = 4  # cosines that a channel's bias is made of


def augment(features: Tensor, mean: Tensor, config: TrainConfig) -> Tensor:
    """``features [examples, frames, bins]`` spliced, through another channel, at another scale, with masks.

    A splice goes on, from a random frame, with what another example has there: speech in contexts that nobody said,
    which only a teacher that hears it can judge. The channel adds a smooth curve over the bins, of standard deviation
    ``config.channel`` (nats); the scale multiplies what is above ``mean [bins]`` by exp(normal) of deviation
    ``config.scale``; random stretches and bands are set to ``mean`` (SpecAugment, Park et al. 2019). Draws from torch's
    global generator.
    """
    examples, frames, bins = features.shape
    for _ in range(config.splices if examples > 1 else 0):
        cut = torch.randint(frames, (examples, 1, 1), device=features.device)
        other = features.roll(int(torch.randint(1, examples, ())), 0)
        features = torch.where(torch.arange(frames, device=features.device)[:, None] >= cut, other, features)
    if config.scale:
        factor = (config.scale * torch.randn(examples, 1, 1, device=features.device)).exp()
        features = torch.lerp(mean.expand_as(features), features, factor)
    if config.channel:
        features = features + config.channel * _curves(examples, bins, features.device)[:, None, :]
    for _ in range(config.frequency_masks):
        hidden = _stretches(examples, bins, config.frequency_width, features.device)
        features = torch.where(hidden[:, None, :], mean, features)
    for _ in range(config.time_masks):
        hidden = _stretches(examples, frames, config.time_width, features.device)
        features = torch.where(hidden[:, :, None], mean, features)
    return features


def changes(config: TrainConfig) -> list[str]:
    """The keys of ``config`` by which ``augment`` changes features."""
    return [key for key in ("splices", "channel", "scale", "frequency_masks", "time_masks") if getattr(config, key)]


def _curves(examples: int, bins: int, device: torch.device) -> Tensor:
    """Smooth random curves ``[examples, bins]`` whose values have the variance 1 in the mean over bins."""
    place = (torch.arange(bins, device=device) + 0.5) * (math.pi / bins)
    basis = torch.cos(torch.arange(CURVES, device=device)[:, None] * place)
    return torch.randn(examples, CURVES, device=device) @ basis / math.sqrt((CURVES + 1) / 2)


def _stretches(examples: int, length: int, widest: int, device: torch.device) -> Tensor:
    """One stretch of 0 to ``widest`` places for each example: bool ``[examples, length]``."""
    width = torch.randint(widest + 1, (examples, 1), device=device).clamp(max=length)
    first = (torch.rand(examples, 1, device=device) * (length - width + 1)).long()
    place = torch.arange(length, device=device)
    return (place >= first) & (place < first + width)
