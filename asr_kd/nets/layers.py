"""The pieces that every kind of network is built from."""

import torch
from torch import Tensor, nn

from asr_kd.nets.config import NetConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of ``[..., width]`` over everything but the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)


class ByteDropout(nn.Dropout):
    """``nn.Dropout`` to the nearest 1/256, from one random byte for each element.

    On a CPU ``nn.Dropout`` draws a 64-bit number for each: a quarter of the time of a training step.
    """

    def forward(self, x: Tensor) -> Tensor:
        dropped = min(round(256 * self.p), 255)
        if not self.training or not dropped:
            return x
        if x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
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
