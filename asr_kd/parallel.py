"""One way to spread independent tasks over processes, results in the order of the tasks."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from asr_kd.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """``jobs`` processes of one thread each, kept between calls of ``map``; this process itself where ``jobs`` is 1.

    ``initialiser(*arguments)`` runs once in each process.
    """

    def __init__(
        self, jobs: int = 1, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
    ) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            context = multiprocessing.get_context("spawn")  # a fork would inherit torch's and OpenMP's locks
            self._pool = ProcessPoolExecutor(jobs, context, _start, (initialiser, arguments))
        elif initialiser is not None:
            initialiser(*arguments)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for each task, in order.

        ``function`` and the tasks must be picklable by name (module level). An exception in a task is raised here.
        """
        try:
            yield from map(function, tasks) if self._pool is None else self._pool.map(function, tasks)
        except BrokenProcessPool:
            raise UserError("a worker process was killed, most often for lack of memory; try fewer --jobs") from None


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int = 1,
    initialiser: Callable[..., None] | None = None,
    arguments: tuple[object, ...] = (),
) -> Iterator[Result]:
    """``Workers.map`` once: yield ``function(task)`` for each task, in order, computed by ``jobs`` processes.

    After an exception in a task the tasks not yet begun are dropped.
    """
    with Workers(min(jobs, len(tasks)), initialiser, arguments) as workers:
        yield from workers.map(function, tasks)


def _start(initialiser: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers without a traceback from each
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):  # else it reads the variable when the task imports it
        torch.set_num_threads(1)
    if initialiser is not None:
        initialiser(*arguments)
