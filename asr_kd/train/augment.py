"""What a network hears in place of the stored features, drawn anew for each example of each step."""

import math

import torch
from torch import Tensor

from asr_kd.train.config import TrainConfig

CURVES = 4  # cosines that a channel's bias is made of


def augment(features: Tensor, mean: Tensor, config: TrainConfig) -> Tensor:
    """``features [examples, frames, bins]`` of another voice, over another channel, at another scale, with masks.

    A share ``config.mix`` of the examples is blended with another example of the batch, in equal parts on average
    (mixup, Zhang et al. 2018; for teachers that label the blend, Beyer et al. 2022). The voice warps the bins by
    exp(normal) of deviation ``config.warp``, as another length of the vocal tract would. The channel adds a smooth
    curve over the bins, of standard deviation ``config.channel`` (nats); the scale multiplies what is above ``mean
    [bins]`` by exp(normal) of deviation ``config.scale``; random stretches and bands are set to ``mean`` (SpecAugment,
    Park et al. 2019). Draws from torch's global generator.
    """
    examples, frames, bins = features.shape
    if config.mix:
        features = _blended(features, config.mix)
    if config.warp:
        features = _warped(features, (config.warp * torch.randn(examples, device=features.device)).exp())
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
    keys = ("mix", "warp", "channel", "scale", "frequency_masks", "time_masks")
    return [key for key in keys if getattr(config, key)]


def _blended(features: Tensor, share: float) -> Tensor:
    """The examples, a ``share`` of them blended with another by a part that is uniform in [0, 1]."""
    examples, device = len(features), features.device
    part = torch.rand(examples, 1, 1, device=device) * (torch.rand(examples, 1, 1, device=device) < share)
    return torch.lerp(features, features[torch.randperm(examples, device=device)], part)


def _warped(features: Tensor, factor: Tensor) -> Tensor:
    """Bin b is read at the place ``factor [examples]`` times b, between its neighbours; the edges are repeated."""
    bins = features.shape[2]
    place = (torch.arange(bins, device=features.device) * factor[:, None]).clamp(max=bins - 1)
    below = place.floor().long().clamp(max=bins - 2)
    between = (place - below)[:, None, :]
    index = below[:, None, :].expand_as(features)
    return torch.lerp(features.gather(2, index), features.gather(2, index + 1), between.to(features.dtype))


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
