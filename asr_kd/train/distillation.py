"""The objective of distillation: soft targets at a temperature, mixed with labels (Hinton et al. 2015, section 2).

``w_soft T^2 KL(p_T || q_T) + w_hard CE(label, q_1)``, each a mean over its frames, in nats. ``q_T = softmax(z / T)`` is
the student's distribution and ``p_T`` the teachers'. Soft targets come in three forms:

- ``Dense``: the log-probability of every state.
- ``TopK``: those of k states; the others are one class, whose mass at the temperature is part of the target. By the
  data-processing inequality the KL divergence of these k + 1 classes is at most that of all states.
- ``Sampled``: states drawn from ``p_T`` with weights. Without the teachers' entropy, which it does not know and which
  moves no weight: a cross-entropy, whose gradient is in the mean that of ``Dense``.

The gradient is made together with the loss, in blocks of rows, so that beside the logits there is one further tensor
of their size: their gradient.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asr_kd.targets.forms import Dense, SoftTargets, TopK

BLOCK = 1 << 20  # logits worked on at once on a CPU: 4 MB in float32


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

    ``labels`` ``[frames]`` int64, -1 where there is none. ``frames`` ``[frames]`` bool: the rows that count, for the
    soft term; all by default. A term without frames, or of weight 0, is 0.
    """
    loss: Tensor = _Distillation.apply(logits, targets, labels, temperature, soft_weight, hard_weight, frames)
    return loss


def logit_matching_loss(
    logits: Tensor, targets: Dense, labels: Tensor, soft_weight: float, hard_weight: float, frames: Tensor | None = None
) -> Tensor:
    """``w_soft sum((z - v)^2) / 2N + w_hard CE(label, q_1)``, where z and v are the N centred logits of the student and
    the teachers: what the objective above becomes as T grows (Hinton et al. 2015, section 2.1; Bucila et al. 2006)."""
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
        gradient = torch.empty_like(logits)
        loss = torch.zeros((), dtype=_precise(logits), device=logits.device)
        rows = max(1, BLOCK // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
        for begin in range(0, len(logits), rows):
            part = slice(begin, begin + rows)
            values = {field.name: getattr(targets, field.name)[part] for field in dataclasses.fields(targets)}
            weights = soft[part, None].to(loss.dtype), hard[part, None].to(loss.dtype)
            own = type(targets)(**values)
            out = gradient[part] if gradient.dtype == loss.dtype else torch.empty_like(gradient[part], dtype=loss.dtype)
            loss += _block(logits[part], own, labels[part, None], temperature, *weights, out)
            if out.dtype != gradient.dtype:
                gradient[part] = out
        context.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = context.saved_tensors
        # Not in place: a graph that is kept goes backward again.
        return gradient * grads[0] if grads[0] != 1 else gradient, None, None, None, None, None, None


def _precise(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@dataclasses.dataclass(frozen=True)
class _Student:
    """``softmax`` of a block's rows, in two parts: the k states of ``TopK`` (``inside``), and the others.

    So the mass of the others is a sum; as 1 minus the rest it would lose its digits where it is small. All is relative
    to the greatest logit outside, so that no digits go to a large constant either. ``outside`` ``[rows, states]``: the
    exponentials of the logits, 0 inside, or (``squared``) their square roots; ``inside`` ``[rows, k]``: logits;
    ``log_outside`` and ``log_sum`` ``[rows, 1]``: the log of the sum of exponentials outside, and of all.
    """

    outside: Tensor
    inside: Tensor
    log_outside: Tensor
    log_sum: Tensor
    squared: bool = False

    @classmethod
    def of(cls, below: Tensor, inside: Tensor) -> "_Student":
        """From the logits outside (-inf inside) and inside."""
        outside = below.exp()
        log_outside = outside.sum(1, keepdim=True).log_()
        return cls(outside, inside, log_outside, _log_sum(log_outside, inside))

    def at_one(self, below: Tensor, temperature: float) -> "_Student":
        """The same rows at T = 1; ``below`` is as in ``of``."""
        if temperature == 1:
            return self
        if temperature != 2:
            return self.of(below * temperature, self.inside * temperature)
        # The square of an exponential is cheaper than another one, and need not be stored.
        log_outside = 2 * torch.linalg.vector_norm(self.outside, dim=1, keepdim=True).log_()
        inside = self.inside * 2
        return _Student(self.outside, inside, log_outside, _log_sum(log_outside, inside), squared=True)

    @property
    def scale(self) -> Tensor:
        """What makes exponentials probabilities, ``[rows, 1]``."""
        return (-self.log_sum).exp()


def _log_sum(log_outside: Tensor, inside: Tensor) -> Tensor:
    return torch.logaddexp(log_outside, inside.logsumexp(1, keepdim=True)) if inside.numel() else log_outside


def _block(
    logits: Tensor,
    targets: SoftTargets,
    labels: Tensor,
    temperature: float,
    soft: Tensor,
    hard: Tensor,
    gradient: Tensor,
) -> Tensor:
    """The loss of some rows, whose terms weigh ``soft`` and ``hard`` ``[rows, 1]``; fills their ``gradient``."""
    own = targets.state.long() if isinstance(targets, TopK) else labels[:, :0]
    below = logits.to(_precise(logits)) / temperature
    inside = below.gather(1, own)
    if inside.numel():
        below.scatter_(1, own, -math.inf)
    top = (below if own.shape[1] < logits.shape[1] else inside).amax(1, keepdim=True)
    below -= top
    student = _Student.of(below, inside - top)
    flat = student.at_one(below, temperature) if hard.any() else None
    pull = soft / temperature  # d loss / d logit = pull x d divergence / d (logit / T)

    if isinstance(targets, TopK):
        divergence, outside, at_states = _top_k(student, targets, temperature)
        _spread(student, pull * outside, flat, hard, gradient)
        at_one = hard * (flat.inside - flat.log_sum).exp() if flat else 0
        gradient.scatter_(1, own, pull * at_states + at_one)
    elif isinstance(targets, Dense):
        divergence, teacher = _dense(student, targets, temperature, below)
        _spread(student, pull * student.scale, flat, hard, gradient)
        gradient.addcmul_(teacher, -pull)
    else:
        mass = targets.weight.sum(1, keepdim=True)
        chosen = below.gather(1, targets.state.long())
        divergence = mass * student.log_sum - (targets.weight * chosen).sum(1, keepdim=True)
        _spread(student, pull * mass * student.scale, flat, hard, gradient)
        gradient.scatter_add_(1, targets.state.long(), (-pull * targets.weight).to(gradient.dtype))
    loss = (soft * divergence).sum()

    if flat:
        known = labels.clamp(min=0)
        loss += (hard * (flat.log_sum - (logits.gather(1, known) - top * temperature))).sum()
        gradient.scatter_add_(1, known, -hard)
    return loss


def _spread(student: _Student, soft: Tensor, flat: _Student | None, hard: Tensor, gradient: Tensor) -> None:
    """``gradient`` ``[rows, states]`` outside: ``soft`` times the exponentials at the temperature, and ``hard`` times
    the probabilities at T = 1."""
    if flat is None:
        torch.mul(student.outside, soft, out=gradient)
    elif flat.squared:
        torch.addcmul(soft, student.outside, hard * flat.scale, out=gradient).mul_(student.outside)
    else:
        torch.mul(student.outside, soft, out=gradient).addcmul_(flat.outside, hard * flat.scale)


def _top_k(student: _Student, targets: TopK, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence ``[rows, 1]``, and its gradient by logit / T: a factor of ``student.outside``, and at the k states."""
    log_tail = targets.log_tail[:, None].to(student.inside.dtype)
    tail = log_tail.exp()
    scaled = targets.log_prob.to(student.inside.dtype) / temperature
    log_prob = scaled.log_softmax(1) + torch.log1p(-tail)
    prob = log_prob.exp()
    student_log = student.inside - student.log_sum
    kept = torch.where(prob > 0, prob * (log_prob - student_log), 0).sum(1, keepdim=True)
    rest = torch.where(tail > 0, tail * (log_tail - (student.log_outside - student.log_sum)), 0)
    share = torch.where(tail > 0, tail * (-student.log_outside).exp(), 0)  # p's tail, spread as q's is
    return kept + rest, student.scale - share, student_log.exp() - prob


def _dense(student: _Student, targets: Dense, temperature: float, below: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence ``[rows, 1]`` and the teachers' probabilities ``[rows, states]``."""
    scaled = targets.log_prob.to(below.dtype) / temperature
    scaled -= scaled.amax(1, keepdim=True)
    prob = scaled.exp()
    total = prob.sum(1, keepdim=True)
    prob /= total
    scaled.clamp_(min=-1e30)  # so that 0 log 0 is 0
    cross = (scaled.sub_(below) * prob).sum(1, keepdim=True)
    return cross - total.log() + student.log_sum, prob
