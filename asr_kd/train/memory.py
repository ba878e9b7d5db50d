"""What the C library does with freed memory."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_freed_memory() -> None:
    """Have the process keep what it frees, up to 2 GB, for the next step, which needs tensors of the same sizes.

    By default glibc maps each large one anew, and the system zeroes it page by page: a sixth of a step of the paper's
    network in bfloat16. Nothing happens with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
