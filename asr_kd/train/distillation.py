"""The distillation objective: soft targets at a temperature, mixed with labels (Hinton et al. 2015, section 2).

``w_soft T^2 KL(p_T || q_T) + w_hard CE(label, q_1)``, each a mean over its frames, in nats. ``q_T = softmax(z / T)`` is
the student's distribution and ``p_T`` the teachers'. Soft targets come in three forms:

- ``Dense``: the log-probability of every state.
- ``TopK``: those of k states. The others are one class, whose mass at the temperature is part of the target. By the
  data-processing inequality the KL divergence of these k + 1 classes is at most that of all states.
- ``Sampled``: states drawn from ``p_T``, with weights. The loss is a cross-entropy, without the teachers' entropy,
  which is unknown and has no gradient; its gradient is on average that of ``Dense``.

The gradient is computed together with the loss, by the implementation for the logits' device and type, and is the only
further tensor of the size of the logits: ``asr_kd.train.rows`` on a CPU, ``asr_kd.train.gpu_rows`` on a GPU. Both are
tested against ``asr_kd.train.reference``, which serves logits in double precision.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asr_kd.targets.forms import Dense, Sampled, SoftTargets
from asr_kd.train import gpu_rows, reference, rows

Compute = Callable[..., tuple[Tensor, Tensor]]  # logits -> loss and gradient


def distillation_loss(
    logits: Tensor,
    targets: SoftTargets,
    labels: Tensor,
    temperature: float,
    soft_weight: float,
    hard_weight: float,
    frames: Tensor | None = None,
) -> Tensor:
    """The objective above for ``logits`` ``[frames, states]``, differentiable with respect to them.

    ``labels`` ``[frames]`` int64, -1 for none. ``frames`` ``[frames]`` bool: the rows that count for the soft term; all
    by default. A term without frames, or of weight 0, is 0.
    """
    weights = _weights(labels, soft_weight * temperature**2, hard_weight, frames)
    objective: Compute = reference.objective
    if rows.serves(logits):
        objective = rows.objective
    elif gpu_rows.serves(logits):
        objective = functools.partial(gpu_rows.objective, has_hard=hard_weight != 0)
    compute = functools.partial(objective, targets=targets, labels=labels, temperature=temperature, weights=weights)
    loss: Tensor = _WithGradient.apply(logits, compute)
    return loss


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The hard term alone, in nats; in a single pass over the logits, but for label smoothing on a CPU."""
    if gpu_rows.serves(logits):
        weights = _weights(labels, 0.0, 1.0)
        compute = functools.partial(gpu_rows.cross_entropy, labels=labels, weights=weights, smoothing=label_smoothing)
        loss: Tensor = _WithGradient.apply(logits, compute)
        return loss
    if label_smoothing:
        wide, labelled = logits.to(_precise(logits)), (labels >= 0).sum().clamp(min=1)
        total = functional.cross_entropy(
            wide, labels, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum"
        )
        return total / labelled
    nothing = labels.new_empty(len(labels), 0)
    return distillation_loss(logits, Sampled(nothing, nothing), labels, 1.0, 0.0, 1.0)


def logit_matching_loss(
    logits: Tensor, targets: Dense, labels: Tensor, soft_weight: float, hard_weight: float, frames: Tensor | None = None
) -> Tensor:
    """``w_soft sum((z - v)^2) / 2N + w_hard CE(label, q_1)``: z and v are the N centred logits of student and teachers.

    It is the limit of the objective above for large T (Hinton et al. 2015, section 2.1; Bucila et al. 2006).
    """
    if gpu_rows.serves(logits):
        weights = _weights(labels, soft_weight, hard_weight, frames)
        compute = functools.partial(gpu_rows.logit_matching, targets=targets, labels=labels, weights=weights)
        loss: Tensor = _WithGradient.apply(logits, compute)
        return loss
    logits = logits.to(_precise(logits))
    counted = torch.ones(len(logits), device=logits.device) if frames is None else frames.float()
    wanted = targets.log_prob.to(logits.dtype)
    apart = (logits - logits.mean(1, keepdim=True)) - (wanted - wanted.mean(1, keepdim=True))
    soft = (apart.square().mean(1) / 2 * counted).sum() / counted.sum().clamp(min=1)
    labelled = (labels >= 0).sum().clamp(min=1)
    hard = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / labelled
    return soft_weight * soft + hard_weight * hard


def _weights(labels: Tensor, soft: float, hard: float, frames: Tensor | None = None) -> Tensor:
    """The weights ``[rows, 2]`` of the two terms in each row: each term is a mean over the rows that count for it."""
    if labels.device.type == "cuda":
        return gpu_rows.row_weights(labels, frames, soft, hard)
    counted = torch.ones(len(labels), device=labels.device) if frames is None else frames.float()
    labelled = (labels >= 0).float()
    of_soft, of_hard = soft * counted / counted.sum().clamp(min=1), hard * labelled / labelled.sum().clamp(min=1)
    return torch.stack([of_soft, of_hard], 1)


class _WithGradient(torch.autograd.Function):
    """``compute(logits)`` is a loss and its gradient, computed together."""

    @staticmethod
    def forward(context: Any, logits: Tensor, compute: Compute) -> Tensor:
        context.save_for_backward(logits)
        context.compute = compute
        loss, context.gradient = compute(logits)
        return loss

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        gradient, context.gradient = context.gradient, None
        if gradient is None:  # a retained graph runs backward again
            _, gradient = context.compute(*context.saved_tensors)
        if gradient.device.type == "cuda":
            gpu_rows.scale_(gradient, *grads)  # comparing the factor here would wait for the GPU
        elif grads[0] != 1:
            gradient *= grads[0]
        return gradient, None


def _precise(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
