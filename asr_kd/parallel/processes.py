"""The engine of this machine: workers are processes or threads, and a long task has a process of its own.

No worker outlives this process, whatever ends it: each has a thread that waits for the end of its parent.
"""

import dataclasses
import itertools
import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from typing import Generic

from asr_kd.collection import collect_rarely
from asr_kd.errors import UserError
from asr_kd.parallel.engine import Engine, Result, Shared, Task, Workers
from asr_kd.parallel.long_tasks import LocalLongTasks
from asr_kd.parallel.starting import allow_interrupt, interrupt_blocked, set_threads, watch_parent


class LocalEngine(Engine):
    """Processes and threads of this machine."""

    def workers(
        self, jobs: int = 1, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
    ) -> Workers:
        return ProcessWorkers(jobs, initialiser, arguments) if jobs > 1 else ThisProcess(initialiser, arguments)

    def threads(self, jobs: int = 1) -> Workers:
        return ThreadWorkers(jobs)

    def share(self, value: Result) -> Shared[Result]:
        return _Here(value)

    def long_tasks(self, threads: int, gpus: Sequence[str] = (), imports: str | None = None) -> LocalLongTasks:
        return LocalLongTasks(threads, gpus, imports)

    def close(self) -> None:
        """Nothing: each block of workers has ended its own."""


@dataclasses.dataclass(frozen=True)
class _Here(Generic[Result]):
    value: Result


class ThisProcess(Workers):
    """One job: the tasks run here, one after the other, with this process's threads."""

    def __init__(self, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()) -> None:
        if initialiser is not None:
            initialiser(*arguments)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        pass

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        return map(function, tasks)

    def completed(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        return enumerate(map(function, tasks))


class ProcessWorkers(Workers):
    """``jobs`` processes of one thread each."""

    def __init__(
        self, jobs: int, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's and OpenMP's locks
        self._jobs = jobs
        call = pickle.dumps((initialiser, arguments))  # unpickled, with all that it imports, by _start
        self._pool = ProcessPoolExecutor(jobs, context, _start, (call,))

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:  # an interrupt, for example: do not wait for the tasks that are running
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        try:
            with interrupt_blocked():  # processes are started as tasks are submitted
                futures = deque(self._pool.submit(function, task) for task in tasks)
            # Not the pool's own map: when closed, it cancels tasks while the pool's thread marks them as failed, which
            # then prints a traceback.
            while futures:
                yield futures.popleft().result()
        except BrokenProcessPool:
            raise _killed_worker() from None

    def completed(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        numbered = iter(enumerate(tasks))
        running: dict[Future[Result], int] = {}
        try:
            while True:
                with interrupt_blocked():
                    for number, task in itertools.islice(numbered, 2 * self._jobs - len(running)):
                        running[self._pool.submit(function, task)] = number
                if not running:
                    return
                for future in wait_for(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise _killed_worker() from None


class ThreadWorkers(Workers):
    """``jobs`` threads of this process; each matrix product runs on the thread that asks for it."""

    def __init__(self, jobs: int) -> None:
        import torch

        self._pool = ThreadPoolExecutor(max(jobs, 1), initializer=torch.set_num_threads, initargs=(1,))

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        return self._pool.map(function, tasks)

    def completed(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        return enumerate(self._pool.map(function, tasks))


def _killed_worker() -> UserError:
    return UserError(
        "a worker process died without an error message, probably because memory ran out; try fewer --jobs"
    )


def _start(call: bytes) -> None:
    allow_interrupt()
    watch_parent(signal.SIGKILL)  # what a worker has not sent back is lost in any case
    collect_rarely()
    set_threads(1)
    initialiser, arguments = pickle.loads(call)
    if initialiser is not None:
        initialiser(*arguments)
