"""What compiled kernels share: their options, threads that take rows, exponentials, and bfloat16 numbers, which NumPy
has not."""

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
    """``kernel(*arguments, begin, end)`` on the rows of the first argument, dealt to as many threads as torch has."""
    rows, threads = len(arguments[0]), torch.get_num_threads()
    if threads == 1:
        kernel(*arguments, 0, rows)
        return
    edges = [rows * number // threads for number in range(threads + 1)]
    others = [
        _pool(os.getpid(), threads - 1).submit(kernel, *arguments, begin, end)
        for begin, end in itertools.pairwise(edges[1:])
    ]
    kernel(*arguments, 0, edges[1])  # here: a sleeping thread takes as long to wake as a small batch takes
    for other in others:
        other.result()


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # a fork has none of its parent's threads
    return ThreadPoolExecutor(threads, "rows")


def bits_of(tensor: Tensor) -> np.ndarray:
    """The bits of float32, bfloat16 or float16 numbers; those of bfloat16 are the upper half of a float32's."""
    bits: np.ndarray = tensor.view(torch.uint32 if tensor.dtype == torch.float32 else torch.uint16).numpy()
    return bits


@row_inlined
def load(row, bits):  # type: ignore[no-untyped-def]
    """The bits of float32 or bfloat16 numbers as ``bits`` of float32."""
    if row.itemsize == 4:  # which the compiler knows
        bits[:] = row
        return
    for j in range(len(row)):
        bits[j] = np.uint32(row[j]) << np.uint32(16)


@row_inlined
def store(bits, row):  # type: ignore[no-untyped-def]
    """The way back. Rounds to the nearest, and to even; NaN stays NaN since its bits are those of quiet ones."""
    if row.itemsize == 4:
        row[:] = bits
        return
    for j in range(len(row)):
        row[j] = (bits[j] + np.uint32(0x7FFF) + ((bits[j] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


LANES = 64  # maxima side by side, which the compiler makes one vector of


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
    """``result = exp(scale row - top)`` to 2e-7, 0 below exp(-87); the sum of it. ``bits``, int32, is of use in here
    alone.

    2^n e^r with the polynomial for e^r of Moshier's Cephes library ("expf"), a form that compilers make vectors of.
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


TILE = 64  # columns turned at once; an eighth of it fours of rows: a cache line of each turned row


def transposed(matrix: Tensor) -> Tensor:
    """A bfloat16 matrix turned round, each of whose rows is together in memory, in a third of the time torch takes.

    Rows begin at cache lines, since products of others take up to twice as long, and are an odd number of lines apart,
    so that a column does not fall into few places of the cache. Between them are zeros: products read them.
    """
    rows, columns = matrix.shape
    turned = matrix.new_empty(columns, 32 * (rows // 32 + 1 | 1))
    in_threads(_transpose, turned.view(torch.uint64).numpy(), bits_of(matrix))
    return turned[:, :rows]


@row_kernel
def _transpose(turned, matrix, begin, end):  # type: ignore[no-untyped-def]
    """``turned`` has four numbers of a column in each of its own, which vectors of the processor put together."""
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
