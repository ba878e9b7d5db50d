"""The engine that a command has chosen, and what library code asks of it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from asr_kd.parallel.engine import Engine, LongTasks, Shared, Workers
from asr_kd.parallel.processes import LocalEngine

Task = TypeVar("Task")
Result = TypeVar("Result")

_engine: Engine = LocalEngine()


def current_engine() -> Engine:
    """The engine of the ``using`` block that this code runs in, else processes of this machine."""
    return _engine


@contextlib.contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Within the block, independent work goes to ``engine``, which is closed at the end."""
    global _engine
    before, _engine = _engine, engine
    try:
        yield
    finally:
        _engine = before
        engine.close()


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int = 1,
    initialiser: Callable[..., None] | None = None,
    arguments: tuple[object, ...] = (),
) -> Iterator[Result]:
    """``Workers.map`` once: yield ``function(task)`` for each task, in order, computed by ``jobs`` workers.

    After an exception in a task, those that have not begun are dropped.
    """
    with workers(min(jobs, len(tasks)), initialiser, arguments) as pool:
        yield from pool.map(function, tasks)


def workers(
    jobs: int = 1, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
) -> Workers:
    """``Engine.workers`` of the current engine."""
    return _engine.workers(jobs, initialiser, arguments)


def parallel_threads(jobs: int = 1) -> Workers:
    """``Engine.threads`` of the current engine."""
    return _engine.threads(jobs)


def share(value: Result) -> Shared[Result]:
    """``Engine.share`` of the current engine."""
    return _engine.share(value)


def long_tasks(threads: int, gpus: Sequence[str] = (), imports: str | None = None) -> LongTasks:
    """``Engine.long_tasks`` of the current engine."""
    return _engine.long_tasks(threads, gpus, imports)
