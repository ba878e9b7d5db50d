"""The program: ``python -m asr_kd``, and ``asr-kd`` once it is installed."""

import sys

from asr_kd.collection import collect_rarely, exempt_from_collection


def program() -> int:
    """Run ``asr-kd`` as the only work of this process; returns the exit status."""
    collect_rarely()
    try:
        from asr_kd.cli import main

        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        exempt_from_collection()


if __name__ == "__main__":
    sys.exit(program())
