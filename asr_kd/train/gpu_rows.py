"""The distillation objective on a GPU, for logits in float32, bfloat16 or float16: fused kernels, a row per program.

The counterpart of ``asr_kd.train.rows``. Of tensors of the size of the logits, the logits and dense targets are read
once and the gradient is written once: bytes per logit 8 in float32 and 4 in bfloat16, plus those of dense targets.
Nothing waits for the GPU: a label or state that the student does not have makes the loss NaN.

The kernels are custom operators of torch, so that they can be traced, and counted on a device that does not exist.
"""

import functools
import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.targets.forms import Dense, SoftTargets, TopK
from asr_kd.train.rows import check_shapes

LARGEST_BLOCK = 16384  # states that a program holds in registers
STATES_PER_WARP = 1024
REGISTERS: int | None = None  # of a thread, at most
SCALED_AT_ONCE = 4096


def serves(logits: Tensor) -> bool:
    """Whether ``objective`` can take such logits."""
    return logits.device.type == "cuda" and logits.dtype in (torch.float32, torch.bfloat16, torch.float16)


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
        own = targets.state.contiguous(), targets.log_prob.contiguous(), targets.log_tail.contiguous()
        lost, gradient = _top_k(logits.contiguous(), *own, *common)
    else:
        own_draws = targets.state.contiguous(), targets.weight.contiguous()
        lost, gradient = _sampled(logits.contiguous(), *own_draws, *common)
    return lost.sum(dtype=torch.float64).float(), gradient


def scale_(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the contiguous ``gradient`` by the number in ``factor``; a factor of 1 costs no pass over it."""
    _scale(gradient, factor)


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
    tensors = logits, state, log_prob, log_tail, labels, weights
    every = state.shape[1] == logits.shape[1]
    return _run(_kernels().top_k, tensors, temperature, has_hard, ALL=every, **_widths(state))


@torch.library.custom_op("asr_kd::sampled_objective", mutates_args=())
def _sampled(
    logits: Tensor, state: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, temperature: float, has_hard: bool
) -> tuple[Tensor, Tensor]:
    return _run(_kernels().sampled, (logits, state, weight, labels, weights), temperature, has_hard, **_widths(state))


@torch.library.custom_op("asr_kd::dense_objective", mutates_args=())
def _dense(
    logits: Tensor, log_prob: Tensor, labels: Tensor, weights: Tensor, temperature: float, has_hard: bool
) -> tuple[Tensor, Tensor]:
    return _run(_kernels().dense, (logits, log_prob, labels, weights), temperature, has_hard)


@torch.library.custom_op("asr_kd::scale_", mutates_args=("gradient",))
def _scale(gradient: Tensor, factor: Tensor) -> None:
    if blocks := math.ceil(gradient.numel() / SCALED_AT_ONCE):
        with _device_of(gradient):
            _kernels().scale_unless_one[(blocks,)](gradient, factor, gradient.numel(), BLOCK=SCALED_AT_ONCE)


def _shapes(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return logits.new_empty(len(logits), dtype=torch.float32), torch.empty_like(logits)


for _operator in (_top_k, _sampled, _dense):
    _operator.register_fake(_shapes)


def _run(
    kernel: Any, tensors: tuple[Tensor, ...], temperature: float, has_hard: bool, **widths: int
) -> tuple[Tensor, Tensor]:
    logits = tensors[0]
    lost, gradient = _shapes(logits)
    block = min(max(_power_of_two(logits.shape[1]), 128), LARGEST_BLOCK)
    power = 1 if not has_hard else {1.0: 1, 2.0: 2}.get(temperature, 0)
    options = {"maxnreg": REGISTERS} if REGISTERS else {}
    if len(logits):
        with _device_of(logits):
            kernel[(len(logits),)](
                *tensors,
                gradient,
                lost,
                temperature,
                logits.shape[1],
                MANY=logits.shape[1] > block,
                BLOCK=block,
                POWER=power,
                num_warps=max(1, block // STATES_PER_WARP),
                **widths,
                **options,
            )
    return lost, gradient


def _device_of(tensor: Tensor) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)


def _widths(state: Tensor) -> dict[str, int]:
    return {"CHOSEN": state.shape[1], "WIDTH": _power_of_two(state.shape[1])}


def _power_of_two(number: int) -> int:
    """The least power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()


@functools.cache
def _kernels() -> ModuleType:
    try:
        from asr_kd.train import triton_rows
    except ImportError as error:
        raise UserError(
            f"training on a GPU needs Triton, which torch for Linux installs ({error}); install torch from its CUDA"
            " wheels, or train with --device cpu"
        ) from None
    return triton_rows
