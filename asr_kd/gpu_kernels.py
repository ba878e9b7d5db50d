"""Common parts of kernels for a GPU: importing them, and launching one program for each row of a matrix.

The kernels are written in Triton, in modules called ``triton_...``, which this one imports on the first call. They are
operators of torch, so that they can be traced, and counted on a device that does not exist.
"""

import functools
import importlib
import subprocess
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from asr_kd.errors import UserError

# The fastest on an H200 for 14,000 states (recipes/bench/loss.py --tune).
LARGEST_BLOCK, COLUMNS_PER_WARP = 2048, 512  # columns that a program takes at once
CHOSEN_COLUMNS_PER_WARP = 1024  # of kernels with chosen columns, since each warp repeats the work on these
CHOSEN_PER_WARP, MOST_WARPS = 512, 16
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def serves(matrix: Tensor) -> bool:
    """Whether the kernels can take such a matrix."""
    return matrix.device.type == "cuda" and matrix.dtype in TYPES


@functools.cache
def kernels(module: str) -> ModuleType:
    """The kernels in ``asr_kd.MODULE``; ``UserError`` if Triton is not installed."""
    try:
        return importlib.import_module(f"asr_kd.{module}")
    except ImportError as error:
        raise UserError(
            f"a GPU needs Triton, which torch for Linux installs ({error}); install torch from its CUDA wheels, or give"
            " --device cpu"
        ) from None


def operator(schema: str, fake: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: the function is an operator ``asr_kd::SCHEMA`` of torch, without a gradient.

    ``fake``: makes the results for tensors without memory; by default there are none. As
    ``torch.library.custom_op``, but with a tenth of its overhead, which is that of several kernels.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        name = schema[: schema.index("(")]
        _LIBRARY.define(schema)
        for device in ("CPU", "CUDA"):  # on the CPU kernels are interpreted
            _LIBRARY.impl(name, function, device)
        torch.library.register_fake(f"asr_kd::{name}", fake or (lambda *_: None), lib=_LIBRARY)
        return getattr(torch.ops.asr_kd, name).default

    return decorate


_LIBRARY = torch.library.Library("asr_kd", "FRAGMENT")


def by_rows(kernel: Any, matrix: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launch ``kernel(matrix, *arguments, columns, BLOCK, **constants)``, a program for each row.

    ``BLOCK``: how many columns a program takes at once. ``WIDTH``, where it is among the constants: how many
    numbers it holds besides.
    """
    rows, columns = matrix.shape
    block = min(max(power_of_two(columns), 128), LARGEST_BLOCK)
    per_warp = CHOSEN_COLUMNS_PER_WARP if "CHOSEN" in constants else COLUMNS_PER_WARP
    warps = min(max(block // per_warp, constants.get("WIDTH", 0) // CHOSEN_PER_WARP, 1), MOST_WARPS)
    launch(kernel, rows, matrix, *arguments, columns, BLOCK=block, num_warps=warps, **constants)


def launch(kernel: Any, programs: int, tensor: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run ``programs`` of ``kernel(tensor, *arguments, **constants)`` on the device of ``tensor``."""
    if not programs:
        return
    try:
        with torch.cuda.device(tensor.device if tensor.is_cuda else -1):  # -1: interpreted, on the CPU
            kernel[(programs,)](tensor, *arguments, **constants)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        if isinstance(error, subprocess.CalledProcessError) or "C compiler" in str(error):
            raise UserError(
                f"Triton cannot build the code that starts its kernels ({error}); install gcc and the headers of Python"
                " (python3-dev), or give --device cpu"
            ) from None
        raise


def power_of_two(number: int) -> int:
    """The least power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()
