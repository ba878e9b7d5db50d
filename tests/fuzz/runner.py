"""Runs cases in a worker process, starts another where it dies, and keeps the input of every failure."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tests.fuzz.reader import Reader
from tests.fuzz.readers import READERS
from tests.fuzz.worker import describe, prepare_case

ROOT = Path(__file__).parents[2]
CASES_OF_A_WORKER = 3000  # before another one takes over, so that nothing that a library keeps adds up


@dataclasses.dataclass(frozen=True)
class Failure:
    """A case that failed; ``folder`` holds its input."""

    reader: str
    number: int
    call: str
    changed: tuple[str, ...]
    problem: str
    folder: Path

    def __str__(self) -> str:
        return (
            f"{self.reader} {self.number}: {self.problem.strip()}\n"
            f"  mutated: {', '.join(self.changed) or 'names'}\n"
            f"  replay: python -m tests.fuzz --reader {self.reader} --first {self.number} --count 1\n"
            f"  or by hand: cd {self.folder} && {self.call}"
        )


class Worker:
    """A process of ``tests.fuzz.worker`` on ``world``, with its cases in ``scratch`` and failures in ``failures``."""

    def __init__(self, world: Path, scratch: Path, failures: Path, seconds: int = 20) -> None:
        self.world, self.failures, self.seconds = world, failures, seconds
        self.root = scratch / f"worker{os.getpid()}"
        self.log = scratch / f"{self.root.name}.log"
        self._process: subprocess.Popen[str] | None = None
        self._cases = 0

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop()
        shutil.rmtree(self.root, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def run(self, reader: Reader, number: int) -> Failure | None:
        """Run case ``number`` of ``reader``; returns the failure, or None."""
        if self._cases >= CASES_OF_A_WORKER:
            self._stop()
        process = self._process or self._start()
        self._cases += 1
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{reader.name} {number}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if answer:
            problem = json.loads(answer)["problem"]
        else:
            status = process.wait()
            self._process = None
            log = self.log.read_text(errors="replace")[-60000:] if self.log.exists() else ""
            problem = f"the process ended with status {status}\n{log}"
        return self._keep(reader, number, problem) if problem else None

    def _start(self) -> "subprocess.Popen[str]":
        self.root.parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        settings["MPLCONFIGDIR"] = str(self.root.parent / "matplotlib")
        command = [sys.executable, "-m", "tests.fuzz.worker", str(self.world), str(self.root), str(self.seconds)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **settings}
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the fuzzer's worker did not start: {self.log.read_text()}")
        self._cases = 0
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _keep(self, reader: Reader, number: int, problem: str) -> Failure:
        """Make the input of a failed case again, in a folder that stays."""
        folder = self.failures / f"{reader.name}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        call, changed = prepare_case(reader, number, self.world, folder)
        failure = Failure(reader.name, number, describe(call), tuple(changed), problem, folder)
        (folder / "FAILURE.txt").write_text(f"{failure}\n", errors="backslashreplace")
        return failure


def build(folder: Path) -> Path:
    """Make the world in ``folder`` unless it is there; returns it."""
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        program = "import sys, torch, pathlib; torch.set_num_threads(1); from tests.fuzz.world import build_world;"
        program += " build_world(pathlib.Path(sys.argv[1]))"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, str(folder)]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"the fuzzer's seeds cannot be made:\n{found.stdout}\n{found.stderr}")
        (folder / "done").touch()
    return folder


def named(pattern: str) -> Iterator[Reader]:
    """The readers whose name contains ``pattern``."""
    return (reader for reader in READERS if pattern in reader.name)
