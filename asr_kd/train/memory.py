"""Memory that the process frees and the C library keeps."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_freed_memory() -> None:
    """Keep up to 2 GB of freed memory for the next step, which needs tensors of the same sizes.

    By default glibc returns large tensors to the system, which zeroes every page again: a sixth of a training step of
    the paper's network in bfloat16. With other C libraries this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
