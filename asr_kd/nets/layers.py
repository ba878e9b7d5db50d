"""The pieces that every kind of network is built from."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr_kd.nets.config import NetConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of ``[..., width]`` over everything but the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)


class ByteDropout(nn.Dropout):
    """Dropout to the nearest 1/256; of ``[examples, frames, width]`` all frames of an example lose the same units.

    Neighbouring frames would tell the network what a mask of their own hides from one of them (Povey et al. 2018,
    section 3.3). On a CPU ``nn.Dropout`` draws a 64-bit number for each element, a quarter of the time of a training
    step; here it is a random byte.
    """

    def forward(self, x: Tensor) -> Tensor:
        dropped = min(round(256 * self.p), 255)
        if not self.training or not dropped:
            return x
        shape = (x.shape[0], 1, x.shape[2]) if x.ndim == 3 else x.shape
        if x.device.type != "cpu":
            return x * functional.dropout(torch.ones(shape, dtype=x.dtype, device=x.device), self.p)
        number = math.prod(shape)
        words = torch.empty(-(-number // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[:number].view(shape) >= dropped
        return x * (keep.to(x.dtype) * (256 / (256 - dropped)))


def finish(config: NetConfig) -> nn.Sequential:
    """What follows the linear part of a hidden layer: activation, normalisation, dropout; ``[..., width]``."""
    modules: list[nn.Module] = [ACTIVATIONS[config.activation]()]
    if config.norm == "batch":
        modules.append(FrameBatchNorm(config.width))
    elif config.norm == "layer":
        modules.append(nn.LayerNorm(config.width))
    if config.dropout:
        modules.append(ByteDropout(config.dropout))
    return nn.Sequential(*modules)
