"""Compiled kernels whose rows are dealt to as many threads as torch has."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from numba import njit

# NaN and infinity are as elsewhere: without "nnan" and "ninf".
compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})


def in_threads(kernel: Callable[..., None], *arguments: Any) -> None:
    """``kernel(*arguments, begin, end)`` on the rows of the first argument, dealt to as many threads as torch has."""
    rows, threads = len(arguments[0]), torch.get_num_threads()
    if threads == 1:
        kernel(*arguments, 0, rows)
        return
    edges = [rows * number // threads for number in range(threads + 1)]
    list(_pool(os.getpid(), threads).map(lambda begin, end: kernel(*arguments, begin, end), edges[:-1], edges[1:]))


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # a fork has none of its parent's threads
    return ThreadPoolExecutor(threads, "rows")
