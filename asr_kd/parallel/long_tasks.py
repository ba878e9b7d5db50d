"""Long tasks on this machine: each in a process with its own number of threads, its output labelled."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from asr_kd.collection import collect_rarely
from asr_kd.errors import UserError
from asr_kd.parallel.engine import ONE_THREAD, Handle, LongTasks, Needs, Result, Task
from asr_kd.parallel.starting import allow_interrupt, interrupt_blocked, set_threads, terminable, watch_parent
from asr_kd.progress import labelled

GPUS = "CUDA_VISIBLE_DEVICES"
Outcome = tuple[Any, BaseException | None]  # what a task returned, or the exception that it raised


def visible_gpus() -> tuple[str, ...]:
    """The names of the GPUs that this process sees, in the order of ``cuda:0``, ``cuda:1`` and so on."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    return tuple(named[:count] if named else map(str, range(count)))


class OutcomeHandle(Handle[Result]):
    """A task whose ``outcome`` is known when it has ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcome: Outcome | None = None

    def result(self) -> Result:
        assert self.outcome is not None, f"{self.name} has not ended"
        value, error = self.outcome
        if isinstance(error, UserError):
            raise UserError(f"{self.name}: {error}") from error
        if error is not None:
            raise error
        result: Result = value
        return result


class LocalHandle(OutcomeHandle[Result]):
    """A task, and its process while it runs. ``call`` is the pickled pair of function and task."""

    def __init__(self, name: str, call: bytes, needs: Needs) -> None:
        super().__init__(name)
        self.call, self.needs = call, needs
        self.gpus: tuple[str, ...] = ()
        self.process: BaseProcess | None = None


class LocalLongTasks(LongTasks):
    """The tasks that wait, and those that run, on ``threads`` threads and ``gpus`` of this machine.

    With ``imports``, their processes are forked from one that has imported this module and does nothing else.
    """

    def __init__(self, threads: int, gpus: Sequence[str] = (), imports: str | None = None) -> None:
        self._context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
        if imports is not None:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload([imports])
        self._threads, self._free_gpus = max(threads, 1), list(gpus)  # what is free
        self.widest, self.gpus = self._threads, len(gpus)
        self._waiting: list[LocalHandle] = []
        self._running: dict[Connection, LocalHandle] = {}
        self._terminable = terminable()

    def __enter__(self) -> "LocalLongTasks":
        self._terminable.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        processes = [handle.process for handle in self._running.values() if handle.process is not None]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
        finally:
            self._terminable.__exit__(None, None, None)

    def submit(
        self, name: str, function: Callable[[Task], Result], task: Task, needs: Needs = ONE_THREAD
    ) -> LocalHandle[Result]:
        return self.submit_pickled(name, pickle.dumps((function, task)), needs)

    def submit_pickled(self, name: str, call: bytes, needs: Needs) -> LocalHandle:
        """As ``submit``. The process unpickles the ``call``: that may import torch, which reads the number of threads
        when it is imported."""
        if needs.gpus > self.gpus:
            raise UserError(f"{name}: needs {needs.gpus} GPUs; this machine has {self.gpus}")
        handle: LocalHandle = LocalHandle(name, call, needs)
        self._waiting.append(handle)
        self._start_waiting()
        return handle

    def wait(self, seconds: float | None = None) -> list[Handle]:
        """As ``LongTasks.wait``; with ``seconds``, no longer than that, and then perhaps with nothing."""
        ended: list[Handle] = []
        for connection in wait(list(self._running), seconds) if self._running else ():
            assert isinstance(connection, Connection)
            handle = self._running[connection]
            handle.outcome = _received(handle, connection)
            del self._running[connection]
            self._threads += self._occupied(handle)
            self._free_gpus += handle.gpus
            ended.append(handle)
        self._start_waiting()
        return ended

    def _start_waiting(self) -> None:
        for handle in list(self._waiting):
            if self._occupied(handle) <= self._threads and handle.needs.gpus <= len(self._free_gpus):
                self._waiting.remove(handle)
                self._threads -= self._occupied(handle)
                handle.gpus, self._free_gpus = (
                    tuple(self._free_gpus[: handle.needs.gpus]),
                    self._free_gpus[handle.needs.gpus :],
                )
                self._running[_start(handle, self._context)] = handle

    def _occupied(self, handle: LocalHandle) -> int:
        return min(handle.needs.threads, self.widest)


def _start(handle: LocalHandle, context: SpawnContext | ForkServerContext) -> Connection:
    here, there = context.Pipe(duplex=False)
    arguments = handle.name, handle.needs, handle.gpus, there, handle.call
    handle.process = context.Process(target=_run, args=arguments, name=handle.name, daemon=False)
    with interrupt_blocked():
        handle.process.start()
    there.close()  # so that the process's end is the end of the pipe
    return here


def _run(name: str, needs: Needs, gpus: tuple[str, ...], connection: Connection, call: bytes) -> None:
    allow_interrupt()
    watch_parent(signal.SIGTERM)
    collect_rarely()
    os.environ[GPUS] = ",".join(gpus)
    set_threads(needs.threads)
    with labelled(f"{name}, "):
        outcome = _outcome(call, needs.threads)
        with contextlib.suppress(BrokenPipeError):  # the parent was killed: nobody waits for the result
            connection.send(outcome)


def _outcome(call: bytes, threads: int) -> Outcome:
    try:
        function, task = pickle.loads(call)
        set_threads(threads)
        return function(task), None
    except (Exception, KeyboardInterrupt) as error:
        return failure(error)


def failure(error: BaseException) -> Outcome:
    """The outcome of a task that raised ``error``."""
    if not isinstance(error, UserError):
        error.add_note(traceback.format_exc())  # a traceback is not pickled
    return None, error


def _received(handle: LocalHandle, connection: Connection) -> Outcome:
    assert handle.process is not None
    try:
        outcome: Outcome = connection.recv()
    except EOFError:
        handle.process.join()
        return None, _early_end(handle.process.exitcode or 0)
    handle.process.join()
    return outcome


def _early_end(status: int) -> BaseException:
    """The exception for a process that ended without a result, with the exit status ``status``."""
    if status in (-signal.SIGINT, -signal.SIGTERM):
        return KeyboardInterrupt()
    if status < 0:
        return UserError(
            f"its process was killed by signal {-status}, probably because memory ran out; run fewer processes at a"
            " time (--threads 1 runs one)"
        )
    return RuntimeError(f"its process ended with status {status} and no result")
