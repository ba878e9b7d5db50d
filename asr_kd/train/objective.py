"""What training minimises: logits ``[n, states]`` and the batch they belong to -> one number."""

import dataclasses
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from asr_kd.train.reader import Batch

Objective = Callable[[Tensor, Batch], Tensor]


@dataclasses.dataclass(frozen=True)
class HardTargets:
    """Cross-entropy (nats) with the labels, mean over the labelled frames."""

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """``logits [examples x outputs, states]`` in the order of ``batch.labels``."""
        labels = batch.labels.flatten()
        return functional.cross_entropy(logits.float(), labels, ignore_index=-1, label_smoothing=self.label_smoothing)
