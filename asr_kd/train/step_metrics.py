"""The numbers of training steps: loss, gradient norm and correct predictions, kept on the device until they are read.

Reading a number from a GPU waits until the GPU has caught up, and leaves it idle while the next step is prepared. So on
a GPU the numbers of ``READ_STEPS`` steps are read at once. Training reads them before every checkpoint and evaluation,
so that weights which are not finite are never written.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.train.checkpoint import Position
from asr_kd.train.group import Group
from asr_kd.train.reader import Batch, Layout

READ_STEPS = 50
COUNTED = 8  # the running accuracy looks at one in this many outputs, since argmax is slow


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step that was taken. Its batch is known by the examples' places only: the features of many would fill a GPU."""

    number: int
    epoch: int
    frames: int
    layout: Layout
    starts: np.ndarray
    values: Tensor  # float64: loss, gradient norm, correct predictions, and how many were counted


class StepMetrics:
    """Adds the numbers of steps on ``device`` to a ``Position``: on a CPU at once, on a GPU every ``READ_STEPS``."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self._group = group
        self._most = 1 if device.type == "cpu" else READ_STEPS
        self._steps: list[_Step] = []

    def add(self, position: Position, batch: Batch, loss: Tensor, norm: Tensor, logits: Tensor) -> None:
        """Take the numbers of the step at ``position``. Raises ``UserError`` as ``read`` does."""
        values = torch.cat([torch.stack([loss.detach(), norm]).double(), predictions(logits.detach(), batch)])
        step = _Step(position.step, position.epoch, batch.part.frames, batch.layout, batch.starts, values)
        self._steps.append(step)
        if len(self._steps) >= self._most:
            self.read(position)

    def read(self, position: Position) -> None:
        """Move all numbers that were added into ``position``.

        Every rank must read at the same steps. Raises ``UserError`` at the first loss or gradient that is not finite.
        """
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        values = torch.stack([step.values for step in steps]).tolist()  # waits for the GPU, once
        summed = iter(self._group.sum(*(number for loss, _, *counts in values for number in (loss, *counts))))
        for step, (_, norm, *_) in zip(steps, values, strict=True):
            mean = next(summed) / self._group.world
            correct, counted = next(summed), next(summed)
            if not math.isfinite(mean + norm):
                raise UserError(
                    f"the loss or its gradient is not finite (loss {mean}, norm {norm}) at step {step.number}, epoch"
                    f" {step.epoch + 1}, in a batch from {', '.join(step.layout.utterances_at(step.starts)[:5])}, ...;"
                    " the last checkpoint is intact: check the features of these utterances, or lower learning_rate"
                )
            position.loss_sum += mean * step.frames
            position.correct += int(correct)
            position.counted += int(counted)


def predictions(logits: Tensor, batch: Batch) -> Tensor:
    """Correct predictions and how many were counted, float64 ``[2]``: each ``COUNTED``-th output of the whole batch
    that is here."""
    first = -batch.part.begin * batch.labels.shape[1] % COUNTED
    logits, labels = logits[first::COUNTED].float(), batch.labels.flatten()[first::COUNTED]  # bf16's argmax is slower
    return torch.stack([(logits.argmax(-1) == labels).sum(), (labels >= 0).sum()]).double()
