"""Python's garbage collector in processes that import large libraries."""

import gc

ALLOCATIONS = 10_000  # between two collections; Python's 700 make hundreds of them while torch is imported


def collect_rarely() -> None:
    """Collect less often: a fifth of the time to import torch is spent in collections that find nothing."""
    gc.set_threshold(ALLOCATIONS)


def exempt_from_collection() -> None:
    """Call before the process ends: Python would examine every object of every library once more, for half a second."""
    gc.freeze()
