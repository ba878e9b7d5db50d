"""Files mapped into memory without an open file descriptor for each.

``mmap.mmap`` keeps a duplicate of the descriptor for as long as the mapping lives (until Python 3.13's
``trackfd=False``), so views of 1,000 shards would exceed the usual limit of 1,024 open files.
"""

import ctypes
import functools
import mmap
import os
import weakref
from typing import IO

import numpy as np

from asr_kd.errors import UserError

_FAILED = ctypes.c_void_p(-1).value


def map_file(stream: IO[bytes], size: int) -> np.ndarray:
    """The first ``size`` bytes of an open file, read-only uint8 ``[size]``; unmapped when no view of them is left."""
    if size == 0:
        return np.empty(0, np.uint8)
    map_, unmap = _functions()
    address = map_(None, size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
    if address == _FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise UserError(f"{stream.name}: cannot map {size:,} bytes into memory: {reason}")
    content = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(content, unmap, address, size).atexit = False  # threads may still read as the process ends
    array = np.frombuffer(memoryview(content), np.uint8)
    array.flags.writeable = False
    return array


@functools.cache
def _functions():  # type: ignore[no-untyped-def]
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    ]  # fmt: skip
    library.munmap.restype = ctypes.c_int
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library.mmap, library.munmap
