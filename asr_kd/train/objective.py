"""What training minimises: logits ``[n, states]`` and the batch they belong to -> one number.

The mean of this number over the ranks of a group is that of the whole batch: each rank weights its own mean by its part
of the frames that count.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from asr_kd.nets import StateModel, autocast, outputs_within
from asr_kd.targets import Dense, SoftTargets, TargetStore
from asr_kd.train.config import TrainConfig
from asr_kd.train.distillation import cross_entropy, distillation_loss, logit_matching_loss
from asr_kd.train.reader import Batch

Objective = Callable[[Tensor, Batch], Tensor]


@dataclasses.dataclass(frozen=True)
class HardTargets:
    """Cross-entropy (nats) with the labels, mean over the labelled frames."""

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """``logits [examples x outputs, states]`` in the order of ``batch.labels``."""
        labels = batch.labels.flatten()
        if not len(labels):
            return logits.float().sum()  # 0, with a gradient; the mean would be NaN
        return batch.part.labelled * cross_entropy(logits, labels, self.label_smoothing)


@dataclasses.dataclass(frozen=True)
class StoredTargets:
    """The distillation objective with the soft targets that a store has for the batch's frames."""

    targets: TargetStore
    config: TrainConfig

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """As ``HardTargets``."""
        return _mixed(logits, self.targets.soft(batch.targets, self.config.temperature), batch, self.config)


@dataclasses.dataclass(frozen=True)
class LiveTeacher:
    """The distillation objective with what ``teacher`` computes from the same augmented frames as the student.

    The batch's features have ``left`` frames before the first output and ``right`` after the last.
    """

    teacher: StateModel
    left: int
    right: int
    config: TrainConfig

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """As ``HardTargets``."""
        with torch.no_grad(), autocast(batch.features.device, self.config.precision):
            scores = outputs_within(self.teacher, batch.features, self.left, self.right, self.config.every)
        return _mixed(logits, Dense(scores.flatten(0, 1)), batch, self.config)


def _mixed(logits: Tensor, soft: SoftTargets, batch: Batch, config: TrainConfig) -> Tensor:
    assert config.hard_weight is not None  # settled when the training was planned
    weights = config.soft_weight * batch.part.valid, config.hard_weight * batch.part.labelled
    labels, frames = batch.labels.flatten(), batch.valid.flatten()
    if config.match == "logits":
        assert isinstance(soft, Dense)  # checked when the training was planned
        return logit_matching_loss(logits, soft, labels, *weights, frames)
    return distillation_loss(logits, soft, labels, config.temperature, *weights, frames)
