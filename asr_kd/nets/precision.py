"""The precision of matrix products: bfloat16 only where the processor has it."""

import contextlib
import functools
import sys
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "fp32", "bf16"]


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context for computing a network in ``fp32``, or with ``bf16`` products and fp32 weights."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def hold_weights(model: nn.Module, precision: str) -> None:
    """Convert the weights of products to ``precision``, for a model that is not trained and runs within ``autocast``.

    ``autocast`` would convert them at each call, which is a fifth of the time of an ensemble.
    """
    if precision == "bf16":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.bfloat16()


@functools.cache
def settle_precision(precision: Precision, device: torch.device | str) -> Literal["fp32", "bf16"]:
    """``auto`` becomes ``bf16`` if ``device`` has bfloat16 products, which halve the time, and ``fp32`` otherwise.

    Without such instructions bfloat16 is emulated and 30 times slower than fp32; requesting it then prints a warning.
    """
    native = multiplies_in_bf16(torch.device(device).type)
    if precision == "bf16" and not native:
        print(
            f"warning: this {torch.device(device).type} has no bfloat16 arithmetic, so precision bf16 is many times"
            " slower than fp32; auto uses it only where it is fast",
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
