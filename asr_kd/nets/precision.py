"""The precision in which networks multiply: bfloat16 only where the processor has it."""

import contextlib
import functools
import sys
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "fp32", "bf16"]


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a network computes: ``fp32``, or ``bf16`` products from fp32 weights."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def hold_weights(model: nn.Module, precision: str) -> None:
    """Leave the weights of products in ``precision``, for a model that is only asked, and only within ``autocast``,
    which would round them anew at each call: a fifth of the time of an ensemble."""
    if precision == "bf16":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.bfloat16()


@functools.cache
def settle_precision(precision: Precision, device: torch.device | str) -> Literal["fp32", "bf16"]:
    """``auto`` settled for ``device``: ``bf16`` where that multiplies in bfloat16, which halves the time, or ``fp32``.

    Elsewhere bfloat16 is imitated, 30 times slower than fp32; who asks for it there is warned on stderr.
    """
    native = multiplies_in_bf16(torch.device(device).type)
    if precision == "bf16" and not native:
        print(
            f"warning: this {torch.device(device).type} has no bfloat16 arithmetic, so that precision bf16 is many"
            " times slower than fp32; auto takes it only where it is fast",
            file=sys.stderr,
        )
    if precision == "auto":
        return "bf16" if native else "fp32"
    return precision


@functools.cache
def multiplies_in_bf16(kind: str) -> bool:
    """Whether the processors of the ``kind`` of device (``cpu``, ``cuda``) have instructions for bfloat16 products."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return kind == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
