"""The paper's network: fully connected layers over a window of frames (Hinton et al. 2015, section 4)."""

import itertools

from torch import Tensor, nn

from asr_kd.nets.config import NetConfig
from asr_kd.nets.layers import Linear, finish


class Dnn(nn.Module):
    """``[batch, frames, bins]`` -> logits ``[batch, frames - left - right, states]``, each from its own window."""

    chunk = 1  # trains on single frames drawn at random

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.left_context, self.right_context = config.left_context, config.right_context
        self.window = config.left_context + 1 + config.right_context
        widths = [self.window * config.bins] + [config.width] * config.layers
        self.hidden = nn.Sequential(
            *(nn.Sequential(Linear(inputs, outputs), finish(config)) for inputs, outputs in itertools.pairwise(widths))
        )
        self.output = Linear(config.width, config.states)

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        windows = x.unfold(1, self.window, every).transpose(2, 3)  # [batch, outputs, window, bins], a view
        batch, outputs = windows.shape[:2]
        rows = windows.reshape(batch * outputs, self.window * x.shape[2])  # copies only where windows overlap
        return self.output(self.hidden(rows)).unflatten(0, (batch, outputs))
