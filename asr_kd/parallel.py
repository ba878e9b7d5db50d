"""Independent tasks in several processes, results in the order of the tasks: many short ones, or a few long ones.

No worker outlives this process, whatever ends it: each has a thread that waits for the end of its parent.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from asr_kd.errors import UserError
from asr_kd.progress import labelled

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """``jobs`` processes of one thread each, kept between calls of ``map``; with 1 job, this process itself.

    ``initialiser(*arguments)`` runs once in each process.
    """

    def __init__(
        self, jobs: int = 1, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
    ) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._jobs = jobs
        if jobs > 1:
            context = multiprocessing.get_context("spawn")  # a fork would inherit torch's and OpenMP's locks
            self._pool = ProcessPoolExecutor(jobs, context, _start, (initialiser, arguments))
        elif initialiser is not None:
            initialiser(*arguments)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if error is not None:  # an interrupt, for example: do not wait for the tasks that are running
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for each task, in order.

        ``function`` and the tasks must be picklable by name (module level). An exception in a task is raised here.
        """
        try:
            if self._pool is None:
                yield from map(function, tasks)
                return
            with _interrupt_blocked():  # processes are started as tasks are submitted
                futures = deque(self._pool.submit(function, task) for task in tasks)
            # Not the pool's own map: when closed, it cancels tasks while the pool's thread marks them as failed, which
            # then prints a traceback.
            while futures:
                yield futures.popleft().result()
        except BrokenProcessPool:
            raise _killed_worker() from None

    def completed(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """As ``map``, but yield each result as soon as it is known, with the number of its task."""
        if self._pool is None:
            yield from enumerate(map(function, tasks))
            return
        numbered = iter(enumerate(tasks))
        running: dict[Future[Result], int] = {}
        try:
            while True:
                with _interrupt_blocked():
                    for number, task in itertools.islice(numbered, 2 * self._jobs - len(running)):
                        running[self._pool.submit(function, task)] = number
                if not running:
                    return
                for future in wait_for(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise _killed_worker() from None


def _killed_worker() -> UserError:
    return UserError(
        "a worker process died without an error message, probably because memory ran out; try fewer --jobs"
    )


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int = 1,
    initialiser: Callable[..., None] | None = None,
    arguments: tuple[object, ...] = (),
) -> Iterator[Result]:
    """``Workers.map`` once: yield ``function(task)`` for each task, in order, computed by ``jobs`` processes.

    After an exception in a task, those that have not begun are dropped.
    """
    with Workers(min(jobs, len(tasks)), initialiser, arguments) as workers:
        yield from workers.map(function, tasks)


def _start(initialiser: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    _allow_interrupt()
    _watch_parent(signal.SIGKILL)  # what a worker has not sent back is lost in any case
    _set_threads(1)
    if initialiser is not None:
        initialiser(*arguments)


def _set_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):  # else it reads the variable when the task imports it
        torch.set_num_threads(threads)


def in_processes(
    function: Callable[[Task, int], Result], tasks: Mapping[str, Task], at_once: int, threads: int = 1
) -> dict[str, Result]:
    """``function(task, slot)`` for each named task, each in its own process with ``threads`` threads, ``at_once``
    of them at a time.

    ``slot``, from 0 to below ``at_once``, differs between tasks that run at the same time. The task's name begins each
    line that its process writes to standard error. Function and tasks must be picklable.

    An exception in a task is raised here; a ``UserError`` names the task. The other tasks are then sent SIGTERM and may
    take their time to save their work. The same happens after ``KeyboardInterrupt`` (Ctrl-C or a request to terminate),
    and when this process is killed.
    """
    waiting, running, results = list(tasks), dict[Connection, _Running](), dict[str, Result]()
    with _terminable():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    name = waiting.pop(0)
                    slot = min(set(range(at_once)) - {task.slot for task in running.values()})
                    connection, process = _start_task(name, threads, (function, tasks[name], slot))
                    running[connection] = _Running(name, slot, process)
                ready = wait(list(running))
                for connection in [one for one in running if one in ready]:
                    results[running[connection].name] = _result(running[connection], connection)
                    del running[connection]
        finally:
            for task in running.values():
                task.process.terminate()
            for task in running.values():
                task.process.join()
    return {name: results[name] for name in tasks}


@dataclasses.dataclass(frozen=True)
class _Running:
    name: str
    slot: int
    process: SpawnProcess


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A request to terminate raises ``KeyboardInterrupt``, as Ctrl-C does; further requests are ignored."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_task(name: str, threads: int, call: tuple[Any, ...]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    # Pickled here, because unpickling imports torch, which reads the number of threads when it is imported.
    process = context.Process(target=_run_task, args=(name, threads, there, pickle.dumps(call)), name=name, daemon=True)
    with _interrupt_blocked():
        process.start()
    there.close()  # so that the process's end is the end of the pipe
    return here, process


@contextlib.contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Processes that start within inherit the blocked Ctrl-C, which would print a traceback while Python starts."""
    resource_tracker.ensure_running()  # which unblocks Ctrl-C when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _allow_interrupt() -> None:
    """Let Ctrl-C end this worker, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _run_task(name: str, threads: int, connection: Connection, call: bytes) -> None:
    _allow_interrupt()
    _watch_parent(signal.SIGTERM)
    _set_threads(threads)
    with labelled(f"{name}, "):
        outcome = _outcome(call, threads)
        with contextlib.suppress(BrokenPipeError):  # the parent was killed: nobody waits for the result
            connection.send(outcome)


def _outcome(call: bytes, threads: int) -> tuple[Any, BaseException | None]:
    try:
        function, task, slot = pickle.loads(call)
        _set_threads(threads)
        return function(task, slot), None
    except (Exception, KeyboardInterrupt) as error:
        error.add_note(traceback.format_exc())  # a traceback is not pickled
        return None, error


def _watch_parent(signal_: signal.Signals) -> None:
    """Send this process the signal when its parent has ended, in whatever way."""

    def wait_for_end() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal_)

    threading.Thread(target=wait_for_end, name="parent watch", daemon=True).start()


def _result(task: _Running, connection: Connection) -> Any:
    try:
        value, error = connection.recv()
    except EOFError:
        task.process.join()
        raise _early_end(task.name, task.process.exitcode or 0) from None
    task.process.join()
    if isinstance(error, UserError):
        raise UserError(f"{task.name}: {error}") from error
    if error is not None:
        raise error
    return value


def _early_end(name: str, status: int) -> BaseException:
    """The exception for a process that ended without a result, with the exit status ``status``."""
    if status in (-signal.SIGINT, -signal.SIGTERM):
        return KeyboardInterrupt()
    if status < 0:
        return UserError(
            f"{name}: its process was killed by signal {-status}, probably because memory ran out; run"
            " fewer processes at a time (--threads 1 runs one)"
        )
    return RuntimeError(f"{name}: its process ended with status {status} and no result")
