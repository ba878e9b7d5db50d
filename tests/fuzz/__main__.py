"""Fuzz every reader for as long as wanted: ``python -m tests.fuzz --seconds 1800``.

Inputs are numbered; a run begins where the last one ended (``state.json`` of ``--work``), so no input is tried twice.
Each failure is printed with the command that repeats it, and its files are kept.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.runner import Worker, build, named

FIRST = 1_000_000  # the numbers below are those of make test
BLOCK = 20  # cases of a reader before the next reader's turn


def main() -> int:
    """Fuzz; returns 1 where a case failed."""
    options = _options()
    work: Path = options.work
    world = build(work / "world")
    state = work / "state.json"
    following: dict[str, int] = json.loads(state.read_text()) if state.exists() else {}
    readers = list(named(options.reader))
    counts = dict.fromkeys((reader.name for reader in readers), 0)
    failures = []
    end, told = time.monotonic() + options.seconds, time.monotonic()
    scratch = Path("/dev/shm") if Path("/dev/shm").is_dir() else work
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=scratch) as folder:
        with Worker(world, Path(folder), work / "failures") as worker:
            if options.first is not None:
                blocks = [(reader, range(options.first, options.first + options.count)) for reader in readers]
            while True:
                if options.first is None:
                    starts = {reader.name: following.get(reader.name, FIRST) for reader in readers}
                    blocks = [(reader, range(starts[reader.name], starts[reader.name] + BLOCK)) for reader in readers]
                for reader, numbers in blocks:
                    for number in numbers:
                        counts[reader.name] += 1
                        if failure := worker.run(reader, number):
                            failures.append(failure)
                            print(f"FAILURE {failure}\n", flush=True)
                    if options.first is None:
                        following[reader.name] = numbers.stop
                        state.write_text(json.dumps(following))
                    if time.monotonic() > told + 60:
                        told = time.monotonic()
                        print(f"{sum(counts.values()):,} inputs, {len(failures)} failures, {reader.name}", flush=True)
                    if time.monotonic() > end and options.first is None:
                        break
                if time.monotonic() > end or options.first is not None:
                    break
    for name, count in counts.items():
        failed = sum(failure.reader == name for failure in failures)
        print(f"{name:<24} {count:>8,} inputs {failed:>5} failures")
    print(f"{sum(counts.values()):,} inputs, {len(failures)} failures")
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default 600)")
    parser.add_argument("--reader", default="", help="only readers whose name contains this")
    parser.add_argument("--first", type=int, help="begin at this input and run --count of each reader")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".fuzz"), help="seeds, state and failures (default .fuzz)")
    options = parser.parse_args()
    options.work = options.work.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
