"""The distillation objective: soft targets at a temperature, mixed with labels (Hinton et al. 2015, section 2).

``w_soft T^2 KL(p_T || q_T) + w_hard CE(label, q_1)``, each a mean over its frames, in nats. ``q_T = softmax(z / T)`` is
the student's distribution and ``p_T`` the teachers'. Soft targets come in three forms:

- ``Dense``: the log-probability of every state.
- ``TopK``: those of k states. The others are one class, whose mass at the temperature is part of the target. By the
  data-processing inequality the KL divergence of these k + 1 classes is at most that of all states.
- ``Sampled``: states drawn from ``p_T``, with weights. The loss is a cross-entropy, without the teachers' entropy,
  which is unknown and has no gradient; its gradient is on average that of ``Dense``.

The gradient is computed together with the loss. On a CPU (``asr_kd.train.rows``) it is the only further tensor of the
size of the logits, as all else stays in the cache; on other devices, and in double precision, the exponentials are
tensors too.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asr_kd.targets.forms import Dense, Sampled, SoftTargets, TopK
from asr_kd.train import rows


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
    loss: Tensor = _Distillation.apply(logits, targets, labels, temperature, soft_weight, hard_weight, frames)
    return loss


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The hard term alone, in nats; where possible in the single pass over the logits of ``asr_kd.train.rows``."""
    if label_smoothing or not rows.serves(logits):
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
    logits = logits.to(_precise(logits))
    counted = torch.ones(len(logits), device=logits.device) if frames is None else frames.float()
    wanted = targets.log_prob.to(logits.dtype)
    apart = (logits - logits.mean(1, keepdim=True)) - (wanted - wanted.mean(1, keepdim=True))
    soft = (apart.square().mean(1) / 2 * counted).sum() / counted.sum().clamp(min=1)
    labelled = (labels >= 0).sum().clamp(min=1)
    hard = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / labelled
    return soft_weight * soft + hard_weight * hard


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        logits: Tensor,
        targets: SoftTargets,
        labels: Tensor,
        temperature: float,
        soft_weight: float,
        hard_weight: float,
        frames: Tensor | None,
    ) -> Tensor:
        counted = torch.ones(len(logits), device=logits.device) if frames is None else frames.float()
        labelled = (labels >= 0).float()
        soft = soft_weight * temperature**2 * counted / counted.sum().clamp(min=1)
        hard = hard_weight * labelled / labelled.sum().clamp(min=1)
        objective = rows.objective if rows.serves(logits) else _objective
        loss, gradient = objective(logits, targets, labels, temperature, torch.stack([soft, hard], 1))
        context.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        # Not in place, since a retained graph can run backward again.
        return gradient * grads[0] if grads[0] != 1 else gradient, None, None, None, None, None, None


def _precise(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _objective(
    logits: Tensor, targets: SoftTargets, labels: Tensor, temperature: float, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, a sum over rows whose terms weigh ``weights [rows, 2]``, soft and hard, and its gradient."""
    kind, logits, labels = logits.dtype, logits.to(_precise(logits)), labels[:, None]
    soft, hard = weights.to(logits.dtype).split(1, 1)
    own = targets.state.long() if isinstance(targets, TopK) else labels[:, :0]
    student = _Exponentials(logits, own, temperature)
    inside = logits.gather(1, own) / temperature - student.top
    log_sum = _log_sum(student.log_outside, inside)
    scale = (-log_sum).exp()  # what makes exponentials probabilities
    has_labels = bool(hard.any())
    log_sum_at_one = _log_sum(student.log_outside_at_one, inside * temperature) if has_labels else log_sum
    hard_scale = hard * (-log_sum_at_one).exp() if has_labels else None
    pull = soft / temperature  # d loss / d logit = pull x d divergence / d (logit / T)

    if isinstance(targets, TopK):
        divergence, outside, at_states = _top_k(inside, student.log_outside, log_sum, targets, temperature)
        gradient = student.spread(pull * outside, hard_scale)
        at_one = hard * (inside * temperature - log_sum_at_one).exp() if has_labels else 0
        gradient.scatter_(1, own, pull * at_states + at_one)
    elif isinstance(targets, Dense):
        divergence, teacher = _dense(student.relative, log_sum, targets, temperature)
        gradient = student.spread(pull * scale, hard_scale).addcmul_(teacher, -pull)
    else:
        state = targets.state.long()
        mass = targets.weight.sum(1, keepdim=True)
        chosen = logits.gather(1, state) / temperature - student.top
        divergence = mass * log_sum - (targets.weight * chosen).sum(1, keepdim=True)
        gradient = student.spread(pull * mass * scale, hard_scale)
        gradient.scatter_add_(1, state, (-pull * targets.weight).to(gradient.dtype))
    loss = (soft * divergence).sum()

    if has_labels:
        known = labels.clamp(min=0)
        loss += (hard * (log_sum_at_one - (logits.gather(1, known) - student.top * temperature))).sum()
        gradient.scatter_add_(1, known, -hard)
    return loss, gradient.to(kind)


class _Exponentials:
    """Exponentials of ``logits [rows, states]``, over T and at 1, but not the states ``inside [rows, k]`` (top k).

    All values are relative to the largest logit outside, so that no digits are lost to a large constant. The mass of
    the others is a sum: as 1 minus the rest it would lose its digits when small. ``top [rows, 1]``: that largest logit
    over T. ``log_outside`` and ``log_outside_at_one`` ``[rows, 1]``: logs of sums of exponentials.
    ``relative``: the logits over T, relative to ``top``, -inf inside.
    """

    def __init__(self, logits: Tensor, inside: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self.relative = logits / temperature
        if inside.shape[1] == logits.shape[1]:
            self.top = self.relative.amax(1, keepdim=True)
            self.relative.fill_(-math.inf)
        else:
            self.top = self.relative.scatter_(1, inside, -math.inf).amax(1, keepdim=True)
        self.relative -= self.top
        self._outside = self.relative.exp()
        self.log_outside = self._outside.sum(1, keepdim=True).log_()

    @functools.cached_property
    def _at_one(self) -> Tensor:
        return self._outside if self.temperature == 1 else (self.relative * self.temperature).exp_()

    @property
    def log_outside_at_one(self) -> Tensor:
        """See the class."""
        return self._at_one.sum(1, keepdim=True).log_()

    def spread(self, soft: Tensor, hard: Tensor | None) -> Tensor:
        """Outside: ``soft`` times the exponentials at T plus ``hard`` times those at 1."""
        spread = self._outside * soft
        return spread if hard is None else spread.addcmul_(self._at_one, hard)


def _log_sum(log_outside: Tensor, inside: Tensor) -> Tensor:
    """The log of the sum of exponentials of all states, ``[rows, 1]``."""
    return torch.logaddexp(log_outside, inside.logsumexp(1, keepdim=True)) if inside.numel() else log_outside


def _top_k(
    inside: Tensor, log_outside: Tensor, log_sum: Tensor, targets: TopK, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence ``[rows, 1]``, and its gradient by logit / T: a factor of the exponentials outside, and at the k
    states, whose logits are ``inside``."""
    log_tail = targets.log_tail[:, None].to(inside.dtype)
    tail = log_tail.exp()
    scaled = targets.log_prob.to(inside.dtype) / temperature
    log_prob = scaled.log_softmax(1) + torch.log1p(-tail)
    prob = log_prob.exp()
    student_log = inside - log_sum
    kept = torch.where(prob > 0, prob * (log_prob - student_log), 0).sum(1, keepdim=True)
    rest = torch.where(tail > 0, tail * (log_tail - (log_outside - log_sum)), 0)
    share = torch.where(tail > 0, tail * (-log_outside).exp(), 0)  # p's tail, spread as q's is
    return kept + rest, (-log_sum).exp() - share, student_log.exp() - prob


def _dense(relative: Tensor, log_sum: Tensor, targets: Dense, temperature: float) -> tuple[Tensor, Tensor]:
    """Divergence ``[rows, 1]`` and the teachers' probabilities ``[rows, states]``; the student's log-probabilities are
    ``relative - log_sum``."""
    scaled = targets.log_prob.to(relative.dtype) / temperature
    scaled -= scaled.amax(1, keepdim=True)
    prob = scaled.exp()
    total = prob.sum(1, keepdim=True)
    prob /= total
    scaled.clamp_(min=-1e30)  # so that 0 log 0 is 0
    cross = (scaled.sub_(relative) * prob).sum(1, keepdim=True)
    return cross - total.log() + log_sum, prob
