"""Files mapped into memory without an open file descriptor for each.

``mmap.mmap`` keeps a duplicate of the descriptor for as long as the mapping lives (until Python 3.13's
``trackfd=False``), so views of 1,000 shards would exceed the usual limit of 1,024 open files.
"""

import ctypes
import functools
import mmap
import os

import numpy as np

SMALL = 1 << 16  # bytes that are read faster than mapped
_FAILED = ctypes.c_void_p(-1).value


def map_file(descriptor: int, size: int) -> np.ndarray:
    """The first ``size`` bytes of an open file, read-only uint8 ``[size]``; unmapped when no view of them is left."""
    if size <= SMALL and len(content := os.pread(descriptor, size, 0)) == size:
        return np.frombuffer(content, np.uint8)
    map_, _ = _functions()
    address = map_(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), f"cannot map {size:,} bytes: {os.strerror(ctypes.get_errno())}")
    return np.asarray(_Mapping(address, size))


class _Mapping:
    """Mapped memory, which arrays refer to by numpy's array interface."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"data": (address, True), "shape": (size,), "typestr": "|u1", "version": 3}
        self._unmap = functools.partial(_functions()[1], address, size)

    def __del__(self) -> None:
        self._unmap()


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
