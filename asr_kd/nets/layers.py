"""The pieces that every kind of network is built from."""

from torch import Tensor, nn

from asr_kd.nets.config import NetConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of ``[..., width]`` over everything but the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view_as(x)


def finish(config: NetConfig) -> nn.Sequential:
    """What follows the linear part of a hidden layer: activation, normalisation, dropout; ``[..., width]``."""
    modules: list[nn.Module] = [ACTIVATIONS[config.activation]()]
    if config.norm == "batch":
        modules.append(FrameBatchNorm(config.width))
    elif config.norm == "layer":
        modules.append(nn.LayerNorm(config.width))
    if config.dropout:
        modules.append(nn.Dropout(config.dropout))
    return nn.Sequential(*modules)
