"""The program: ``python -m asr_kd``, and ``asr-kd`` once it is installed."""

import gc
import sys

ALLOCATIONS = 10_000  # between two collections; Python's 700 have it run hundreds of times while libraries are imported


def program() -> int:
    """Run ``asr-kd`` as the only work of this process; returns the exit status."""
    gc.set_threshold(ALLOCATIONS)
    try:
        from asr_kd.cli import main

        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        gc.freeze()  # else Python examines every object of every library once more at exit, for half a second


if __name__ == "__main__":
    sys.exit(program())
