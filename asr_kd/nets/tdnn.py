"""A factored time-delay network: dilated convolutions over the utterance (Povey et al. 2018, TDNN-F)."""

import torch
from torch import Tensor, nn

from asr_kd.nets import fused
from asr_kd.nets.config import INPUT_FRAMES, NetConfig
from asr_kd.nets.layers import dropout_mask, finish

SPLICE = INPUT_FRAMES // 2  # frames that the first layer sees on each side
BYPASS = 0.66  # weight of the residual connection, as in the paper's section 3.4


class FactoredLayer(nn.Module):
    """``[batch, frames, width]`` -> ``[batch, frames - 2 dilation, width]`` through a narrow linear factor."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.narrow = nn.Linear(config.width, 2 * config.bottleneck, bias=False)
        self.widen = nn.Linear(2 * config.bottleneck, config.width)
        self.finish = finish(config)

    def forward(self, x: Tensor, dilation: int) -> Tensor:
        if fused.applies(x, self.finish):
            return self._fused(x, dilation)
        # A kernel over (t, t + d) is one product for both taps; their narrow results are shifted and added.
        before, after = self.narrow(x).chunk(2, dim=-1)
        factor = before[:, :-dilation] + after[:, dilation:]  # [batch, frames - d, bottleneck]
        pairs = torch.cat([factor[:, :-dilation], factor[:, dilation:]], dim=-1)
        return BYPASS * x[:, dilation:-dilation] + self.finish(self.widen(pairs))

    def _fused(self, x: Tensor, dilation: int) -> Tensor:
        norm, mask = self.finish[1], dropout_mask(self.finish, x)
        out: Tensor = fused.FusedLayer.apply(
            x,
            self.narrow.weight,
            self.widen.weight,
            self.widen.bias,
            norm.weight,
            norm.bias,
            norm,
            mask,
            dilation,
            BYPASS,
        )
        return out


class Tdnn(nn.Module):
    """``[batch, frames, bins]`` -> logits ``[batch, frames - left - right, states]``."""

    chunk = 150  # trains on pieces of utterances, so that neighbouring outputs share the layers below

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.dilations = config.dilations
        self.left_context = self.right_context = SPLICE + sum(config.dilations)
        self.input = nn.Sequential(nn.Linear(INPUT_FRAMES * config.bins, config.width), finish(config))
        self.hidden = nn.ModuleList(FactoredLayer(config) for _ in config.dilations)
        self.output = nn.Linear(config.width, config.states)

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        layers = len(self.hidden)
        thin = next(i for i in range(layers + 1) if all(dilation % every == 0 for dilation in self.dilations[i:]))
        # Hidden layers from ``thin`` on use only every ``every``-th frame; the others are not computed.
        x = x.unfold(1, INPUT_FRAMES, 1)
        x = self._first((x[:, ::every] if thin == 0 else x).transpose(2, 3).flatten(2))
        for i, (layer, dilation) in enumerate(zip(self.hidden, self.dilations, strict=True)):
            x = x[:, ::every] if thin == i > 0 else x
            x = layer(x, dilation // every if thin <= i else dilation)
        return self.output(x[:, ::every] if thin == layers else x)

    def _first(self, x: Tensor) -> Tensor:
        product, after = self.input
        assert isinstance(after, nn.Sequential)
        z: Tensor = product(x)
        if not fused.applies(x, after):
            z = after(z)
            return z
        norm, mask = after[1], dropout_mask(after, z)
        out: Tensor = fused.FusedFinish.apply(z, norm.weight, norm.bias, norm, mask)
        return out
