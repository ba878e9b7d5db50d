"""Fuzz every reader for as long as wanted: ``python -m tests.fuzz --seconds 1800``.

Inputs are numbered; a run begins where the last one ended (``state.json`` of ``--work``), so no input is tried twice.
Each failure is printed with the command that repeats it, and its files are kept.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.fuzz.reader import Reader
from tests.fuzz.runner import Failure, Worker, build, named

FIRST = 1_000_000  # the numbers below are those of make test
BLOCK = 20  # cases of a reader before the next reader's turn
MOST = 10  # failures of a reader, after which it is left alone: a crash costs a new process
REPORT = 60  # seconds between two lines of progress


def main() -> int:
    """Fuzz; returns 1 where a case failed."""
    options = _options()
    work: Path = options.work
    world = build(work / "world")
    readers = list(named(options.reader))
    counts = dict.fromkeys((reader.name for reader in readers), 0)
    scratch = Path("/dev/shm") if Path("/dev/shm").is_dir() else work
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=scratch) as folder,
        Worker(world, Path(folder), work / "failures", options.limit) as worker,
    ):
        if options.first is not None:
            numbers = range(options.first, options.first + options.count)
            failures = _run(worker, [(reader, numbers) for reader in readers], counts)
        else:
            failures = _unmutated(worker, readers)
            failures += _run(worker, _blocks(work / "state.json", readers, options.seconds), counts)
    failed = collections.Counter(failure.reader for failure in failures)
    for name, count in counts.items():
        print(f"{name:<24} {count:>8,} inputs {failed[name]:>5} failures")
    print(f"{sum(counts.values()):,} inputs, {len(failures)} failures")
    return 1 if failures else 0


def _blocks(state: Path, readers: Sequence[Reader], seconds: float) -> Iterator[tuple[Reader, range]]:
    """The next numbers of each reader in turn, until ``seconds`` are over; the file ``state`` keeps where it ended."""
    following: dict[str, int] = json.loads(state.read_text()) if state.exists() else {}
    end = time.monotonic() + seconds
    while True:
        for reader in readers:
            first = following.get(reader.name, FIRST)
            yield reader, range(first, first + BLOCK)
            following[reader.name] = first + BLOCK
            state.write_text(json.dumps(following))
            if time.monotonic() > end:
                return


def _run(worker: Worker, blocks: Iterable[tuple[Reader, range]], counts: dict[str, int]) -> list[Failure]:
    """Run the cases; counts them in ``counts`` and prints each failure and, each minute, where it is."""
    failures: list[Failure] = []
    reported = time.monotonic()
    for reader, numbers in blocks:
        if sum(failure.reader == reader.name for failure in failures) >= MOST:
            continue
        for number in numbers:
            counts[reader.name] += 1
            if failure := worker.run(reader, number):
                failures.append(failure)
                print(f"FAILURE {failure}\n", flush=True)
        if time.monotonic() > reported + REPORT:
            reported = time.monotonic()
            print(f"{sum(counts.values()):,} inputs, {len(failures)} failures, at {reader.name}", flush=True)
    return failures


def _unmutated(worker: Worker, readers: Sequence[Reader]) -> list[Failure]:
    """Every call on files as they are: each must succeed. This also compiles what is not compiled yet."""
    found = [worker.run(reader, -1 - call) for reader in readers for call in range(len(reader.calls))]
    failures = [failure for failure in found if failure]
    for failure in failures:
        print(f"FAILURE without a mutation: {failure}\n", flush=True)
    return failures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default 600)")
    parser.add_argument("--reader", default="", help="only readers whose name contains this")
    parser.add_argument("--first", type=int, help="begin at this input and run --count of each reader")
    parser.add_argument("--limit", type=int, default=20, help="seconds that an input may take (default 20)")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".fuzz"), help="seeds, state and failures (default .fuzz)")
    options = parser.parse_args()
    options.work = options.work.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
