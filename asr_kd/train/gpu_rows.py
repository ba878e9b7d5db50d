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

from asr_kd.gpu_kernels import by_rows, kernels, launch, operator, power_of_two, serves
from asr_kd.targets.forms import Dense, SoftTargets, TopK
from asr_kd.train.rows import check_shapes

__all__ = ["cross_entropy", "logit_matching", "objective", "row_weights", "scale_", "serves"]
ROWS_WEIGHED = 1024  # by a program
SCALED_AT_ONCE, SCALING_PROGRAMS = 4096, 1024
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
    return lost.sum(), gradient


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The hard term alone, with label smoothing; otherwise as ``objective``, whose ``weights`` these are."""
    check_shapes(logits, Dense(logits), labels, weights)
    lost, gradient = _labelled(logits.contiguous(), labels.contiguous(), weights.float().contiguous(), smoothing)
    return lost.sum(), gradient


def logit_matching(logits: Tensor, targets: Dense, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The objective of ``asr_kd.train.distillation.logit_matching_loss``; otherwise as ``objective``."""
    check_shapes(logits, targets, labels, weights)
    own = logits.contiguous(), targets.log_prob.contiguous()
    lost, gradient = _matched(*own, labels.contiguous(), weights.float().contiguous())
    return lost.sum(), gradient


def row_weights(labels: Tensor, frames: Tensor | None, to_soft: float, to_hard: float) -> Tensor:
    """The weights of ``objective``: each term is a mean over the rows that count for it."""
    return _row_weights(labels.contiguous(), None if frames is None else frames.contiguous(), to_soft, to_hard)


def scale_(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the contiguous ``gradient`` by the number in ``factor``; a factor of 1 costs no pass over it."""
    _scale(gradient, factor)


def _results(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """The loss of each row and the gradient, not yet computed."""
    return logits.new_empty(len(logits), dtype=torch.float32), torch.empty_like(logits)


@operator(
    "top_k_objective(Tensor logits, Tensor state, Tensor log_prob, Tensor log_tail, Tensor labels, Tensor weights,"
    " float temperature, bool has_hard) -> (Tensor, Tensor)",
    _results,
)
def _top_k(logits: Tensor, state: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *tensors, temperature, has_hard = others
    widths, power = _widths(state), _power(temperature, has_hard)
    every = state.shape[1] == logits.shape[1]
    return _run(_rows().top_k, logits, state, *tensors, last=temperature, **widths, ALL=every, POWER=power)


@operator(
    "sampled_objective(Tensor logits, Tensor state, Tensor weight, Tensor labels, Tensor weights, float temperature,"
    " bool has_hard) -> (Tensor, Tensor)",
    _results,
)
def _sampled(logits: Tensor, state: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *tensors, temperature, has_hard = others
    widths, power = _widths(state), _power(temperature, has_hard)
    return _run(_rows().sampled, logits, state, *tensors, last=temperature, **widths, POWER=power)


@operator(
    "dense_objective(Tensor logits, Tensor log_prob, Tensor labels, Tensor weights, float temperature, bool has_hard)"
    " -> (Tensor, Tensor)",
    _results,
)
def _dense(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *tensors, temperature, has_hard = others
    return _run(_rows().dense, logits, *tensors, last=temperature, POWER=_power(temperature, has_hard))


@operator("cross_entropy(Tensor logits, Tensor labels, Tensor weights, float smoothing) -> (Tensor, Tensor)", _results)
def _labelled(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    return _run(_rows().labelled, logits, labels, weights, last=smoothing)


@operator("logit_matching(Tensor logits, Tensor teacher, Tensor labels, Tensor weights) -> (Tensor, Tensor)", _results)
def _matched(logits: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    return _run(_rows().matched, logits, *tensors)


@operator(
    "row_weights(Tensor labels, Tensor? frames, float to_soft, float to_hard) -> Tensor",
    lambda labels, *_: labels.new_empty(len(labels), 2, dtype=torch.float32),
)
def _row_weights(labels: Tensor, frames: Tensor | None, to_soft: float, to_hard: float) -> Tensor:
    rows, given = len(labels), frames is not None
    weights = labels.new_empty(rows, 2, dtype=torch.float32)
    arguments = labels, frames if given else labels, weights, to_soft, to_hard, rows
    launch(_rows().row_weights, math.ceil(rows / ROWS_WEIGHED), *arguments, FRAMES=given, BLOCK=ROWS_WEIGHED)
    return weights


@operator("scale_(Tensor(a!) gradient, Tensor factor) -> ()")
def _scale(gradient: Tensor, factor: Tensor) -> None:
    size = gradient.numel()
    programs = min(math.ceil(size / SCALED_AT_ONCE), SCALING_PROGRAMS)
    launch(_rows().scale_unless_one, programs, gradient, factor, size, BLOCK=SCALED_AT_ONCE)


def _run(kernel: Any, logits: Tensor, *tensors: Tensor, last: float | None = None, **constants: int) -> Any:
    """Loss of each row, and gradient; ``last``: a number that the kernel takes after all tensors."""
    lost, gradient = _results(logits)
    by_rows(kernel, logits, *tensors, gradient, lost, *([] if last is None else [last]), **constants)
    return lost, gradient


def _power(temperature: float, has_hard: bool) -> int:
    """Which power of the exponentials at T those at 1 are; 0: neither 1 nor 2. Without a hard term it is irrelevant."""
    return {1.0: 1, 2.0: 2}.get(temperature, 0) if has_hard else 1


def _widths(state: Tensor) -> dict[str, int]:
    return {"CHOSEN": state.shape[1], "WIDTH": power_of_two(state.shape[1])}
