"""The interface of an engine: short tasks on workers that keep their state, and long tasks with a process each.

Tasks are idempotent: an engine may run one again after a machine has died. Functions and tasks are pickled, functions
by name (module level).
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Value_co = TypeVar("Value_co", covariant=True)


class Shared(Protocol[Value_co]):
    """A large value that many tasks read. A task that contains it is small, wherever it runs.

    ``value`` may be read-only.
    """

    @property
    def value(self) -> Value_co: ...


class Workers(abc.ABC):
    """Workers of one thread each, kept between calls; in a ``with`` block, which ends them.

    If the block ends with an exception, nobody waits for the tasks that are running.
    """

    def __enter__(self) -> "Workers":
        return self

    @abc.abstractmethod
    def __exit__(self, error: type[BaseException] | None, *_: object) -> None: ...

    @abc.abstractmethod
    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield ``function(task)`` for each task, in order. An exception in a task is raised here, in its place."""

    @abc.abstractmethod
    def completed(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """As ``map``, but yield each result as soon as it is known, with the number of its task."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a long task occupies while it runs: exactly ``threads`` threads, and ``gpus``, which are all that it sees
    (as ``cuda:0`` and so on). ``here``: it runs on this machine, whatever the engine."""

    threads: int = 1
    gpus: int = 0
    here: bool = False


ONE_THREAD = Needs()


class Handle(abc.ABC, Generic[Result]):
    """A long task that was submitted."""

    name: str

    @abc.abstractmethod
    def result(self) -> Result:
        """What the finished task returned. Its exception is raised here; a ``UserError`` names the task."""


class LongTasks(abc.ABC):
    """Long tasks, each in a process of its own, started as soon as there is room for what they need::

        with long_tasks(threads=8) as tasks:
            tasks.submit("seed 1", train_network, config, Needs(threads=2))
            while finished := tasks.wait():
                for handle in finished:
                    handle.result()  # and submit what was waiting for it

    The task's name begins each line that its process writes to standard error.

    If the block ends with an exception (that of a task, Ctrl-C, or a request to terminate, which raises
    ``KeyboardInterrupt`` within the block), tasks that have not begun are dropped. Those that run are sent SIGTERM and
    may take their time to save their work. The same happens when this process is killed.

    ``widest``: the most threads that a task can have; ``gpus``: how many GPUs there are.
    """

    widest: int
    gpus: int

    @abc.abstractmethod
    def __enter__(self) -> "LongTasks": ...

    @abc.abstractmethod
    def __exit__(self, error: type[BaseException] | None, *_: object) -> None: ...

    @abc.abstractmethod
    def submit(
        self, name: str, function: Callable[[Task], Result], task: Task, needs: Needs = ONE_THREAD
    ) -> Handle[Result]:
        """Run ``function(task)`` once there is room; returns at once.

        Of the tasks that wait, the first that fits is next. One that needs more threads than ``widest`` counts as
        that many.
        """

    @abc.abstractmethod
    def wait(self) -> list[Handle]:
        """The tasks that have ended since the last call, at least one; empty if there are none to wait for."""


class Engine(abc.ABC):
    """Where independent work runs. Results do not depend on it. ``remote``: perhaps on other machines."""

    remote = False

    @abc.abstractmethod
    def workers(
        self, jobs: int = 1, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
    ) -> Workers:
        """At most ``jobs`` tasks at a time, in other processes; with 1 job, in this one.

        ``initialiser(*arguments)`` runs in a process before its first task.
        """

    @abc.abstractmethod
    def threads(self, jobs: int = 1) -> Workers:
        """As ``workers``, for functions that release the interpreter's lock: an engine may run them in this process,
        where they share its memory."""

    @abc.abstractmethod
    def share(self, value: Result) -> Shared[Result]:
        """``value`` for many tasks; it must not change any more."""

    @abc.abstractmethod
    def long_tasks(self, threads: int, gpus: Sequence[str] = (), imports: str | None = None) -> LongTasks:
        """Long tasks on this machine's ``threads`` and ``gpus`` (see ``visible_gpus``), or on those of a cluster.

        ``imports``: a module that imports what all tasks need. An engine may import it once, and fork its processes
        from there: a task then starts in milliseconds instead of the seconds that importing torch takes.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End everything that the engine has started."""
