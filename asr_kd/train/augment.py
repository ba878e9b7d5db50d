"""Augmentation of the stored features, drawn at random for each example of each step."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from asr_kd.errors import UserError
from asr_kd.train.config import TrainConfig

CURVES = 4  # cosines that add up to the curve of a channel


def augment(features: Tensor, mean: Tensor, config: TrainConfig) -> Tensor:
    """``features [examples, frames, bins]`` with splices, shifts, another channel, another scale and masks.

    - A splice continues an example, from a random frame on, with the frames of another one: speech in contexts that
      nobody said, for which only a live teacher has targets.
    - Images are moved by up to ``config.jitter`` pixels.
    - The channel is a smooth curve over the bins, of standard deviation ``config.channel`` (nats), that is added.
    - The scale multiplies the difference to ``mean [bins]`` by exp(normal) of deviation ``config.scale``.
    - Masks set random stretches and bands to ``mean`` (SpecAugment, Park et al. 2019).

    Random numbers come from torch's global generator.
    """
    examples, frames, bins = features.shape
    for _ in range(config.splices if examples > 1 else 0):
        cut = torch.randint(frames, (examples, 1, 1), device=features.device)
        other = features.roll(int(torch.randint(1, examples, ())), 0)
        features = torch.where(torch.arange(frames, device=features.device)[:, None] >= cut, other, features)
    if config.jitter:
        features = _moved(features, config.jitter)
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
    keys = ("splices", "jitter", "channel", "scale", "frequency_masks", "time_masks")
    return [key for key in keys if getattr(config, key)]


def _moved(features: Tensor, most: int) -> Tensor:
    """Each example's frames, which are square images, moved by ``-most`` to ``most`` pixels; zeros move in."""
    examples, frames, bins = features.shape
    side = math.isqrt(bins)
    if side**2 != bins:
        raise UserError(f"jitter needs square images, but {bins} numbers per frame are not a square: set jitter=0")
    padded = functional.pad(features.view(examples, frames, side, side), (most, most, most, most))
    first = torch.randint(2 * most + 1, (2, examples, 1), device=features.device)
    rows, columns = first + torch.arange(side, device=features.device)  # [examples, side] each
    example = torch.arange(examples, device=features.device)[:, None, None]
    moved = padded.movedim(1, 3)[example, rows[:, :, None], columns[:, None, :]]  # [examples, side, side, frames]
    return moved.movedim(3, 1).reshape(examples, frames, bins)


def _curves(examples: int, bins: int, device: torch.device) -> Tensor:
    """Smooth random curves ``[examples, bins]`` with a mean variance of 1 over the bins."""
    place = (torch.arange(bins, device=device) + 0.5) * (math.pi / bins)
    basis = torch.cos(torch.arange(CURVES, device=device)[:, None] * place)
    return torch.randn(examples, CURVES, device=device) @ basis / math.sqrt((CURVES + 1) / 2)


def _stretches(examples: int, length: int, widest: int, device: torch.device) -> Tensor:
    """One stretch of 0 to ``widest`` places for each example: bool ``[examples, length]``."""
    width = torch.randint(widest + 1, (examples, 1), device=device).clamp(max=length)
    first = (torch.rand(examples, 1, device=device) * (length - width + 1)).long()
    place = torch.arange(length, device=device)
    return (place >= first) & (place < first + width)
