"""Shared by the bench scripts: rows on standard output, and the cost of a process."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ASR_KD = (sys.executable, "-m", "asr_kd")


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a process, start included: ``wall`` and ``cpu`` time in seconds, peak ``memory`` in MB."""

    wall: float
    cpu: float
    memory: float


def threads_and_rounds(description: str | None) -> argparse.Namespace:
    """The options of a script that needs no others."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    return parser.parse_args()


def row(
    name: str, value: float, unit: str, against: str, most: float | None = None, least: float | None = None
) -> None:
    """Print a row of the results; its bar is met if ``value`` is at most ``most``, or at least ``least``."""
    bar, met = "", None
    if most is not None:
        bar, met = f"at most {most:g}", value <= most
    elif least is not None:
        bar, met = f"at least {least:g}", value >= least
    content = {"name": name, "value": value, "unit": unit, "against": against, "bar": bar, "met": met}
    print(json.dumps(content, ensure_ascii=False), flush=True)


def run(*command: str | Path, threads: int = 1) -> Cost:
    """Run a command with ``threads`` OpenMP threads and all its output on standard error; exit if it fails.

    Peak memory is at least that of the calling process, which therefore imports nothing large.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=sys.stderr, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)  # the last line of its standard error gives the reason
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)
