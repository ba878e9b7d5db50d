"""Processes that run commands of ``asr-kd``, forked from one that has imported what they need.

A command starts in milliseconds instead of the seconds that importing torch takes.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from asr_kd.parallel import allow_interrupt, interrupt_blocked, watch_parent

PRELOADED = "asr_kd.experiment.preloaded"
Main = Callable[[list[str]], int]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the commands of a step ended: the status of the last that ran, and a line about it."""

    status: int
    line: str


@dataclasses.dataclass
class _Running:
    name: str
    process: BaseProcess
    width: int
    device: int | None


class Processes:
    """Processes that each run the commands of one step. ``main(arguments)`` runs one command and returns its status.

    The number of processes at once is at most ``at_once``, those that the steps start themselves included (``width``).
    With ``devices``, at most as many of them use a GPU, each its own.
    """

    def __init__(self, main: Main, at_once: int, devices: int = 0) -> None:
        self._main, self._at_once, self._devices = main, at_once, devices
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOADED])
        self._running: dict[Connection, _Running] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes that still run: they are asked to, and may save their work first."""
        for running in self._running.values():
            running.process.terminate()
        for running in self._running.values():
            running.process.join()

    @property
    def busy(self) -> bool:
        """Whether any process runs."""
        return bool(self._running)

    @property
    def free(self) -> int:
        """How many more processes may run."""
        return self._at_once - sum(running.width for running in self._running.values())

    def has_device(self) -> bool:
        """Whether a GPU is free, if processes are to have one each."""
        return not self._devices or len(self._devices_in_use()) < self._devices

    def start(self, name: str, commands: Sequence[list[str]], log: Path, width: int, device: bool) -> None:
        """Start a process that runs the commands and writes what they print to ``log``."""
        free = set(range(self._devices)) - self._devices_in_use()
        own = min(free) if device and self._devices else None
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(self._main, commands, str(log), own, there), name=name)
        with interrupt_blocked(), _one_thread():
            process.start()
        there.close()  # so that the end of the process is the end of the pipe
        self._running[here] = _Running(name, process, width, own)

    def _devices_in_use(self) -> set[int]:
        return {running.device for running in self._running.values() if running.device is not None}

    def wait(self) -> dict[str, Outcome]:
        """The outcome of each process that has ended, by name; waits until one has."""
        outcomes = {}
        for connection in wait(list(self._running)):
            assert isinstance(connection, Connection)
            running = self._running.pop(connection)
            try:
                outcome = connection.recv()
            except EOFError:
                running.process.join()
                outcome = Outcome(running.process.exitcode or 1, _early_end(running.process.exitcode or 1))
            running.process.join()
            outcomes[running.name] = outcome
        return outcomes


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that start within have one thread."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _early_end(status: int) -> str:
    if status < 0:
        return f"its process was killed by signal {-status}, probably because memory ran out; try fewer --jobs"
    return f"its process ended with status {status} and no result"


def _run(main: Main, commands: Sequence[list[str]], log: str, device: int | None, connection: Connection) -> None:
    allow_interrupt()
    watch_parent(signal.SIGTERM)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    connection.send(run_commands(main, commands, log))


def run_commands(main: Main, commands: Sequence[list[str]], log: str) -> Outcome:
    """Run the commands, in this process, until one fails; what they print goes to the file ``log``."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", buffering=1, encoding="utf-8", errors="surrogateescape") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stderr = stream
        status, line = 0, ""
        for command in commands:
            sys.stdout = output = _Output(stream)
            try:
                status = main(command)
            except Exception:
                traceback.print_exc(file=stream)
                status = 70
            line = output.first
            if status:
                break
    if status:
        lines = Path(log).read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        line = lines[-1]
    return Outcome(status, line)


class _Output(io.TextIOBase):
    """Standard output that goes to a log and remembers its first line."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        if self._begun.count("\n") == 0:
            self._begun += text
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def first(self) -> str:
        """The first line."""
        return self._begun.partition("\n")[0]
