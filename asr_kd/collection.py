"""Python's garbage collector in processes that import large libraries."""

import contextlib
import gc
from collections.abc import Iterator

ALLOCATIONS = 10_000  # between two collections; Python's 700 make hundreds of them while torch is imported


def collect_rarely() -> None:
    """Collect less often: a fifth of the time to import torch is spent in collections that find nothing."""
    gc.set_threshold(ALLOCATIONS)


def exempt_from_collection() -> None:
    """Call before the process ends: Python would examine every object of every library once more, for half a second."""
    gc.freeze()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Do not collect within the block, which makes many lasting objects without cycles: each collection would examine
    all of them again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
