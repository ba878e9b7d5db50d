"""The distillation objective on a GPU, for logits in float32, bfloat16 or float16: fused kernels, a row per program.

The counterpart of ``asr_kd.train.rows``. Of tensors of the size of the logits, the logits and dense targets are read
once and the gradient is written once: bytes per logit 8 in float32 and 4 in bfloat16, plus those of dense targets.
Nothing waits for the GPU: a label or state that the student does not have makes the loss NaN.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from asr_kd.gpu_kernels import by_rows, device_of, kernels, power_of_two, serves
from asr_kd.targets.forms import Dense, SoftTargets, TopK
from asr_kd.train.rows import check_shapes

__all__ = ["cross_entropy", "logit_matching", "objective", "scale_", "serves"]
SCALED_AT_ONCE = 4096
_rows = functools.partial(kernels, "train.triton_rows")


def objective(
    logits: Tensor, targets: SoftTargets, labels: Tensor, temperature: float, weights: Tensor, has_hard: bool = True
) -> tuple[Tensor, Tensor]:
    """As ``asr_kd.train.rows.objective``, but a wrong label or state makes the loss NaN.

    ``has_hard``: whether some hard weight is not 0. Raises ``ValueError`` for targets of another shape, and
    ``UserError`` if Triton is not installed.
    """
    check_shapes(logits, targets, labels, weights)
    common = labels.contiguous(), weights.float().contiguous(), float(temperature), has_hard
    if isinstance(targets, Dense):
        lost, gradient = _dense(logits.contiguous(), targets.log_prob.contiguous(), *common)
    elif isinstance(targets, TopK):
        best = targets.state.contiguous(), targets.log_prob.contiguous(), targets.log_tail.contiguous()
        lost, gradient = _top_k(logits.contiguous(), *best, *common)
    else:
        drawn = targets.state.contiguous(), targets.weight.contiguous()
        lost, gradient = _sampled(logits.contiguous(), *drawn, *common)
    return _sum(lost), gradient


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The hard term alone, with label smoothing; otherwise as ``objective``, whose ``weights`` these are."""
    check_shapes(logits, Dense(logits), labels, weights)
    lost, gradient = _labelled(logits.contiguous(), labels.contiguous(), weights.float().contiguous(), smoothing)
    return _sum(lost), gradient


def logit_matching(logits: Tensor, targets: Dense, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The objective of ``asr_kd.train.distillation.logit_matching_loss``; otherwise as ``objective``."""
    check_shapes(logits, targets, labels, weights)
    own = logits.contiguous(), targets.log_prob.contiguous()
    lost, gradient = _matched(*own, labels.contiguous(), weights.float().contiguous())
    return _sum(lost), gradient


def scale_(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the contiguous ``gradient`` by the number in ``factor``; a factor of 1 costs no pass over it."""
    _scale(gradient, factor)


def _sum(lost: Tensor) -> Tensor:
    return lost.sum(dtype=torch.float64).float()


@torch.library.custom_op("asr_kd::top_k_objective", mutates_args=())
def _top_k(
    logits: Tensor,
    state: Tensor,
    log_prob: Tensor,
    log_tail: Tensor,
    labels: Tensor,
    weights: Tensor,
    temperature: float,
    has_hard: bool,
) -> tuple[Tensor, Tensor]:
    tensors, every = (logits, state, log_prob, log_tail, labels, weights), state.shape[1] == logits.shape[1]
    return _run(_rows().top_k, tensors, temperature, ALL=every, **_widths(state), POWER=_power(temperature, has_hard))


@torch.library.custom_op("asr_kd::sampled_objective", mutates_args=())
def _sampled(
    logits: Tensor, state: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, temperature: float, has_hard: bool
) -> tuple[Tensor, Tensor]:
    tensors = logits, state, weight, labels, weights
    return _run(_rows().sampled, tensors, temperature, **_widths(state), POWER=_power(temperature, has_hard))


@torch.library.custom_op("asr_kd::dense_objective", mutates_args=())
def _dense(
    logits: Tensor, log_prob: Tensor, labels: Tensor, weights: Tensor, temperature: float, has_hard: bool
) -> tuple[Tensor, Tensor]:
    tensors = logits, log_prob, labels, weights
    return _run(_rows().dense, tensors, temperature, POWER=_power(temperature, has_hard))


@torch.library.custom_op("asr_kd::cross_entropy", mutates_args=())
def _labelled(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    return _run(_rows().labelled, (logits, labels, weights), smoothing)


@torch.library.custom_op("asr_kd::logit_matching", mutates_args=())
def _matched(logits: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return _run(_rows().matched, (logits, teacher, labels, weights))


@torch.library.custom_op("asr_kd::scale_", mutates_args=("gradient",))
def _scale(gradient: Tensor, factor: Tensor) -> None:
    if blocks := math.ceil(gradient.numel() / SCALED_AT_ONCE):
        with device_of(gradient):
            _rows().scale_unless_one[(blocks,)](gradient, factor, gradient.numel(), BLOCK=SCALED_AT_ONCE)


def _results(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """The loss of each row and the gradient, not yet computed."""
    return logits.new_empty(len(logits), dtype=torch.float32), torch.empty_like(logits)


for _operator in (_top_k, _sampled, _dense, _labelled, _matched):
    _operator.register_fake(_results)


def _run(kernel: Any, tensors: tuple[Tensor, ...], *numbers: float, **constants: int) -> tuple[Tensor, Tensor]:
    logits = tensors[0]
    lost, gradient = _results(logits)
    by_rows(kernel, logits, *tensors[1:], gradient, lost, *numbers, **constants)
    return lost, gradient


def _power(temperature: float, has_hard: bool) -> int:
    """Which power of the exponentials at T those at 1 are; 0: neither 1 nor 2. Without a hard term it is irrelevant."""
    return {1.0: 1, 2.0: 2}.get(temperature, 0) if has_hard else 1


def _widths(state: Tensor) -> dict[str, int]:
    return {"CHOSEN": state.shape[1], "WIDTH": power_of_two(state.shape[1])}
