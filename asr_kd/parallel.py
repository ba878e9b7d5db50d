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


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int = 1,
    initialiser: Callable[..., None] | None = None,
    arguments: tuple[object, ...] = (),
) -> Iterator[Result]:
    """Yield ``function(task)`` for each task, in order, computed by ``jobs`` processes of one thread each.

    ``function`` and the tasks must be picklable by name (module level). ``initialiser(*arguments)`` runs once in each
    process (here, when ``jobs`` is 1). An exception in a task is raised here, and the tasks not yet begun are dropped.
    """
    if jobs <= 1 or len(tasks) <= 1:
        if initialiser is not None:
            initialiser(*arguments)
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's and OpenMP's locks
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, _start, (initialiser, arguments)) as pool:
        try:
            yield from pool.map(function, tasks)
        except BrokenProcessPool:
            raise UserError("a worker process was killed, most often for lack of memory; try fewer --jobs") from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _start(initialiser: Callable[..., None] | None, arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers without a traceback from each
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):  # else it reads the variable when the task imports it
        torch.set_num_threads(1)
    if initialiser is not None:
        initialiser(*arguments)
