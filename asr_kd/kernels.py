"""Common parts of compiled kernels: options, threads over rows, exponentials, and bfloat16, which NumPy lacks."""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.compiling import compiled, inlined

# NaN and infinity are handled as elsewhere: neither "nnan" nor "ninf".
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
row_kernel = compiled(**_OPTIONS)
row_inlined = inlined(**_OPTIONS)


def in_threads(kernel: Callable[..., None], *arguments: Any) -> None:
    """Call ``kernel(*arguments, begin, end)`` on the rows of the first argument, split over torch's threads."""
    rows, threads = len(arguments[0]), torch.get_num_threads()
    if threads == 1:
        kernel(*arguments, 0, rows)
        return
    edges = [rows * number // threads for number in range(threads + 1)]
    others = [
        _pool(os.getpid(), threads - 1).submit(kernel, *arguments, begin, end)
        for begin, end in itertools.pairwise(edges[1:])
    ]
    kernel(*arguments, 0, edges[1])  # here, since waking a thread takes as long as a small batch
    for other in others:
        other.result()


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # a forked process has none of its parent's threads
    return ThreadPoolExecutor(threads, "rows")


def bits_of(tensor: Tensor) -> np.ndarray:
    """The bits of float32, bfloat16 or float16 numbers; a bfloat16 is the upper half of a float32."""
    bits: np.ndarray = tensor.view(torch.uint32 if tensor.dtype == torch.float32 else torch.uint16).numpy()
    return bits


@row_inlined
def load(row, bits):  # type: ignore[no-untyped-def]
    """The bits of float32 or bfloat16 numbers as ``bits`` of float32."""
    if row.itemsize == 4:  # known at compile time
        bits[:] = row
        return
    for j in range(len(row)):
        bits[j] = np.uint32(row[j]) << np.uint32(16)


@row_inlined
def store(bits, row):  # type: ignore[no-untyped-def]
    """The inverse of ``load``. Rounds to the nearest, ties to even. NaN stays NaN, since it is a quiet one."""
    if row.itemsize == 4:
        row[:] = bits
        return
    for j in range(len(row)):
        row[j] = (bits[j] + np.uint32(0x7FFF) + ((bits[j] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@row_inlined
def scratch_rows(number, length):  # type: ignore[no-untyped-def]
    """``number`` rows of at least ``length`` float32 numbers, in one piece, at least a kilobyte apart.

    A compiled loop first compares the addresses of its arrays: where they are close together it does not use vector
    instructions, and sums in another order. Short rows of their own would be as far apart as the allocator puts them,
    so that results would differ from one call to the next.
    """
    return np.empty((number, max(length, 256) + 48), np.float32)  # not a multiple of a page, which is slow


LANES = 64  # maxima side by side, which the compiler turns into vector instructions


@row_inlined
def greatest_of(row):  # type: ignore[no-untyped-def]
    lanes = np.full(LANES, -np.inf, np.float32)
    whole = len(row) // LANES * LANES
    for j in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] = row[j + lane] if row[j + lane] > lanes[lane] else lanes[lane]
    top = lanes.max()
    for j in range(whole, len(row)):
        top = max(top, row[j])
    return top


@row_inlined
def exponentials(row, scale, top, result, bits):  # type: ignore[no-untyped-def]
    """``result = exp(scale row - top)`` to 2e-7, and 0 below exp(-87); returns its sum. ``bits`` (int32) is scratch.

    Computed as 2^n e^r with the polynomial for e^r of Moshier's Cephes library ("expf"), which compilers vectorise.
    """
    for j in range(len(row)):
        x = scale * row[j] - top
        x = np.float32(-88) if x < np.float32(-87) else x
        n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        result[j] = p * r * r + r + np.float32(1)
        bits[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
    power, total = bits.view(np.float32), np.float32(0)
    for j in range(len(row)):
        result[j] *= power[j]
        total += result[j]
    return np.float64(total)


TILE = 64  # columns at a time, and TILE / 8 groups of four rows: one cache line of each row of the result


def transposed(matrix: Tensor) -> Tensor:
    """The transpose of a bfloat16 matrix, with contiguous rows, in a third of torch's time.

    Rows begin at cache lines, since products of unaligned rows take up to twice as long. They are an odd number of
    lines apart, so that a column does not fall into a few sets of the cache. The padding is zero, since products read
    it.
    """
    rows, columns = matrix.shape
    turned = matrix.new_empty(columns, 32 * (rows // 32 + 1 | 1))
    in_threads(_transpose, turned.view(torch.uint64).numpy(), bits_of(matrix))
    return turned[:, :rows]


@row_kernel
def _transpose(turned, matrix, begin, end):  # type: ignore[no-untyped-def]
    """Each number of ``turned`` packs four of a column, which vector instructions assemble."""
    fours, rest = divmod(len(matrix), 4)
    for top in range(0, fours, TILE // 8):
        for left in range(begin, end, TILE):
            for four in range(top, min(top + TILE // 8, fours)):
                a, b, c, d = matrix[4 * four], matrix[4 * four + 1], matrix[4 * four + 2], matrix[4 * four + 3]
                for j in range(left, min(left + TILE, end)):
                    low = np.uint64(a[j]) | np.uint64(b[j]) << np.uint64(16)
                    turned[j, four] = low | np.uint64(c[j]) << np.uint64(32) | np.uint64(d[j]) << np.uint64(48)
    for j in range(begin, end):
        turned[j, fours:] = 0
        for i in range(rest):
            turned[j, fours] |= np.uint64(matrix[4 * fours + i, j]) << np.uint64(16 * i)
