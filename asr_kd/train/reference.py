"""The distillation objective as its definition says: in double precision, every tensor in full, gradient by autograd.

The kernels of ``asr_kd.train.rows`` (CPU) and ``asr_kd.train.gpu_rows`` (CUDA) are tested against it. Training uses
them; this serves logits in float64, whatever the device, and is many times slower.
"""

import math

import torch
from torch import Tensor

from asr_kd.targets.forms import Dense, SoftTargets, TopK


def objective(
    logits: Tensor, targets: SoftTargets, labels: Tensor, temperature: float, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, a sum over rows, and its gradient, in the shape and type of ``logits [rows, states]``.

    ``weights [rows, 2]``: of the soft and of the hard term of each row; a ``label`` of -1 needs a hard weight of 0.
    """
    with torch.enable_grad():
        precise = logits.detach().double().requires_grad_()
        soft = divergence((precise / temperature).log_softmax(1), targets, temperature)
        hard = -precise.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
        loss = (weights.double() * torch.stack([soft, hard], 1)).sum()
        (gradient,) = torch.autograd.grad(loss, precise)
    return loss.detach(), gradient.to(logits.dtype)


def divergence(student: Tensor, targets: SoftTargets, temperature: float) -> Tensor:
    """KL(teachers || student) of each row, in nats, for the ``student``'s log-probabilities at T ``[rows, states]``.

    Of sampled targets it is the cross-entropy instead.
    """
    if isinstance(targets, Dense):
        return _divergence((targets.log_prob.double() / temperature).log_softmax(1), student)
    state = targets.state.long()
    if not isinstance(targets, TopK):
        return -(targets.weight.double() * student.gather(1, state)).sum(1)
    tail = targets.log_tail.double()[:, None]
    teacher = (targets.log_prob.double() / temperature).log_softmax(1) + torch.log1p(-tail.exp())
    chosen = _divergence(teacher, student.gather(1, state))
    if state.shape[1] == student.shape[1]:
        return chosen
    return chosen + _divergence(tail, student.scatter(1, state, -math.inf).logsumexp(1, keepdim=True))


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    prob = teacher.exp()
    return torch.where(prob > 0, prob * (teacher - student), 0).sum(1)
