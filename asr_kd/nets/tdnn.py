"""A factored time-delay network: dilated convolutions over the utterance (Povey et al. 2018, TDNN-F)."""

import torch
from torch import Tensor, nn

from asr_kd.nets.config import NetConfig
from asr_kd.nets.layers import finish

SPLICE = 2  # frames that the first layer sees on each side
BYPASS = 0.66  # weight of the residual connection, as in the paper's section 3.4


class FactoredLayer(nn.Module):
    """``[batch, frames, width]`` -> ``[batch, frames - 2 dilation, width]`` through a narrow linear factor."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.narrow = nn.Linear(config.width, 2 * config.bottleneck, bias=False)
        self.widen = nn.Linear(2 * config.bottleneck, config.width)
        self.finish = finish(config)

    def forward(self, x: Tensor, dilation: int) -> Tensor:
        # A kernel over (t, t + d) is one product for both taps, whose narrow results are shifted and added.
        before, after = self.narrow(x).chunk(2, dim=-1)
        factor = before[:, :-dilation] + after[:, dilation:]  # [batch, frames - d, bottleneck]
        pairs = torch.cat([factor[:, :-dilation], factor[:, dilation:]], dim=-1)
        return BYPASS * x[:, dilation:-dilation] + self.finish(self.widen(pairs))


class Tdnn(nn.Module):
    """``[batch, frames, bins]`` -> logits ``[batch, frames - left - right, states]``."""

    chunk = 150  # trains on pieces of utterances, so that neighbouring outputs share the layers below

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.dilations = config.dilations
        self.left_context = self.right_context = SPLICE + sum(config.dilations)
        self.input = nn.Sequential(nn.Linear((2 * SPLICE + 1) * config.bins, config.width), finish(config))
        self.hidden = nn.ModuleList(FactoredLayer(config) for _ in config.dilations)
        self.output = nn.Linear(config.width, config.states)

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        x = self.input(x.unfold(1, 2 * SPLICE + 1, 1).transpose(2, 3).flatten(2))
        stride = 1
        for i, layer in enumerate(self.hidden):
            if stride < every and all(dilation % every == 0 for dilation in self.dilations[i:]):
                x, stride = x[:, ::every], every  # the layers above look at no other frames
            x = layer(x, self.dilations[i] // stride)
        return self.output(x[:, :: every // stride])
