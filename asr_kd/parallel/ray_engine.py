"""The engine of a Ray cluster: each task is a Ray task, which Ray places, and runs again if its node dies.

The only module that imports Ray, and only ``--engine ray`` imports this one. Ray pickles what its processes exchange.
So a cluster that this engine starts has a secret token, without which no other user of the machine can connect to it.
"""

import contextlib
import functools
import logging
import os
import pickle
import secrets
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

from asr_kd.errors import UserError
from asr_kd.parallel.engine import ONE_THREAD, Engine, Handle, LongTasks, Needs, Result, Shared, Task, Workers
from asr_kd.parallel.long_tasks import GPUS, LocalLongTasks, Outcome, OutcomeHandle, failure
from asr_kd.parallel.processes import ThisProcess
from asr_kd.parallel.starting import set_threads, terminable

PACKAGE = Path(__file__).resolve().parents[1]
RETRIES = 3  # of a task whose node or worker died; a preempted node does not count
SETTINGS = {  # of Ray; those that the user has set win
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": "2",  # without it, a task that never fits into memory would be tried for ever
    "RAY_worker_niceness": "0",  # Ray's 15 would give way to every other process of the machine
    "RAY_DEDUP_LOGS": "0",
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # long tasks label their lines themselves
}
ANSWER_SECONDS = 10  # in which a cluster's first machine must answer
ONE = {"OMP_NUM_THREADS": "1"}


class RayEngine(Engine):
    """The cluster at ``$RAY_ADDRESS``, or else one that is started on this machine, with ``jobs`` CPUs.

    ``jobs`` is by default the number of CPUs that the cluster has. Ray starts with the first task.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs, self._address = jobs, os.environ.get("RAY_ADDRESS")
        self.remote = self._address is not None
        self._connected = False
        token = {} if self._address else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        if "ray" not in sys.modules:  # which reads them when it is imported
            for name, value in (SETTINGS | token).items():
                os.environ.setdefault(name, value)

    @property
    def jobs(self) -> int:
        """How many tasks run at a time."""
        if self._jobs is None:
            self._jobs = self._cpus() if self._address else os.cpu_count() or 1
        return self._jobs

    def workers(
        self, jobs: int = 1, initialiser: Callable[..., None] | None = None, arguments: tuple[object, ...] = ()
    ) -> Workers:
        if jobs <= 1:
            return ThisProcess(initialiser, arguments)
        return RayWorkers(self._at_once(jobs), initialiser, arguments)

    def threads(self, jobs: int = 1) -> Workers:
        return self.workers(jobs)

    def share(self, value: Result) -> Shared[Result]:
        self.connect()
        return _InStore(value)

    def long_tasks(self, threads: int, gpus: Sequence[str] = (), imports: str | None = None) -> LongTasks:
        self.connect()
        return RayLongTasks(imports)

    def connect(self) -> None:
        """Start or join the cluster, unless that is done."""
        if self._connected:
            return
        if self._address:
            _join(self._address)
        else:
            _start(self.jobs)
        self._connected = True

    def close(self) -> None:
        """Leave the cluster, which then ends what this command runs; a cluster that was started here ends too."""
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False

    def _at_once(self, jobs: int) -> int:
        """How many tasks to submit at a time, so that up to ``jobs`` run.

        The cluster's CPUs limit those that run. Twice as many keep its workers busy and show an autoscaler what is
        wanted; not if there are more CPUs than jobs.
        """
        return 2 * jobs if jobs >= self._cpus() else jobs

    def _cpus(self) -> int:
        self.connect()
        import ray

        return int(ray.cluster_resources().get("CPU", 1))


def _start(jobs: int) -> None:
    """Start a cluster on this machine."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    with _environment({**ONE, "PYTHONPATH": path}):  # which its workers inherit
        _init(address="local", num_cpus=jobs, include_dashboard=False, _node_ip_address="127.0.0.1")


def _join(address: str) -> None:
    """Join the cluster at ``address``, whose workers get a copy of this package."""
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS={address}: Ray Client (ray://) is not supported; run the command on a machine of the cluster,"
            " with HOST:PORT as the address"
        )
    host, _, port = address.rpartition(":")
    environment = {"py_modules": [str(PACKAGE)], "excludes": ["**/__pycache__/**"], "env_vars": ONE}
    try:
        if port.isdigit():  # Ray would try for minutes
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        _init(address=address, runtime_env=environment)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster can be joined there: {_first_line(error)}; start one with the same"
            " versions of Python and Ray (ray start), or unset RAY_ADDRESS to start one on this machine"
        ) from error


def _init(**options: Any) -> None:
    import ray

    ray.init(log_to_driver=True, logging_level=logging.ERROR, **options)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _InStore(Generic[Result]):
    """A value in Ray's object store: workers of a node share the memory of its arrays, which are read-only there."""

    def __init__(self, value: Result) -> None:
        import ray

        self._value, self._reference = value, ray.put(value)

    @property
    def value(self) -> Result:
        return self._value

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return _Reference, (self._reference,)


class _Reference:
    """What a task gets of a shared value."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    @property
    def value(self) -> Any:
        return _opened(self._reference)


@functools.lru_cache(4)  # a value may hold an open store or a network that is loaded when it is first used
def _opened(reference: Any) -> Any:
    import ray

    return ray.get(reference)


class RayWorkers(Workers):
    """Ray's workers, of one CPU each. ``at_once``: tasks that are submitted at a time."""

    def __init__(
        self, at_once: int, initialiser: Callable[..., None] | None, arguments: tuple[object, ...] = ()
    ) -> None:
        import ray

        self._at_once = at_once
        self._run = _remote(_run)
        self._start = uuid.uuid4().hex, [ray.put((initialiser, arguments))]  # in a list: else Ray resolves it each time
        self._running: dict[Any, int] = {}

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        import ray

        for reference in self._running:
            ray.cancel(reference)  # not by force, which can abort this process if the task ends just then
        self._running.clear()

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        early: dict[int, Outcome] = {}
        following = 0
        for number, outcome in self._outcomes(function, tasks):
            early[number] = outcome
            while following in early:
                yield _value(early.pop(following))
                following += 1

    def completed(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        for number, outcome in self._outcomes(function, tasks):
            yield number, _value(outcome)

    def _outcomes(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        import ray

        numbered = iter(enumerate(tasks))
        for number, task in numbered:
            self._running[self._run.remote(*self._start, function, task)] = number
            if len(self._running) < self._at_once:
                continue
            (ready,), _ = ray.wait(list(self._running))
            yield self._running.pop(ready), _received(ready)
        while self._running:
            (ready,), _ = ray.wait(list(self._running))
            yield self._running.pop(ready), _received(ready)


@functools.cache  # Ray schedules each function that it is given apart from the others
def _remote(function: Callable[..., Any]) -> Any:
    import ray

    return ray.remote(num_cpus=1, max_retries=RETRIES)(function)


_started = ""  # the workers whose initialiser ran last in this process


def _run(workers: str, start: list[Any], function: Callable[[Any], Any], task: object) -> Outcome:
    """Run one short task in a worker; an exception comes back as a value, since Ray would wrap it in one of its own."""
    global _started
    try:
        if _started != workers:
            import ray

            initialiser, arguments = ray.get(start[0])
            set_threads(1)
            if initialiser is not None:
                initialiser(*arguments)
            _started = workers
        return function(task), None
    except Exception as error:
        return failure(error)


def _received(reference: Any) -> Outcome:
    import ray

    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError:  # our mistake: what a task returned cannot be pickled, for example
        raise
    except ray.exceptions.RayError as error:
        return None, UserError(
            f"a task was lost, although Ray ran it up to {RETRIES} times more: {_first_line(error)}; if memory ran out,"
            " try fewer --jobs"
        )
    return outcome


def _value(outcome: Outcome) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class RayLongTasks(LongTasks):
    """Long tasks that Ray places, on a machine each: ``widest`` is the number of CPUs of the largest."""

    def __init__(self, imports: str | None = None) -> None:
        self._imports = imports
        self.widest = max(_each("CPU")) or 1
        self.gpus = sum(_each("GPU"))
        self._run = _remote(_supervise)
        self._running: dict[Any, OutcomeHandle] = {}
        self._terminable = terminable()

    def __enter__(self) -> "RayLongTasks":
        self._terminable.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        try:
            for reference in self._running:
                ray.cancel(reference)
            if self._running:
                ray.wait(list(self._running), num_returns=len(self._running))
        finally:
            self._terminable.__exit__(None, None, None)

    def submit(
        self, name: str, function: Callable[[Task], Result], task: Task, needs: Needs = ONE_THREAD
    ) -> OutcomeHandle[Result]:
        cpus = min(needs.threads, self.widest)
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": needs.gpus}
        remote = self._run.options(name=name, **(options | _this_node() if needs.here else options))
        handle = OutcomeHandle[Result](name)
        self._running[remote.remote(name, pickle.dumps((function, task)), needs, self._imports)] = handle
        return handle

    def wait(self) -> list[Handle]:
        import ray

        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running))
        ended: list[Handle] = []
        for reference in ready:
            handle = self._running.pop(reference)
            handle.outcome = _received(reference)
            ended.append(handle)
        return ended


def _each(resource: str) -> list[int]:
    """How many of a resource each machine of the cluster has."""
    import ray

    return [int(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"]]


def _this_node() -> dict[str, Any]:
    """Options of a task that runs on this machine, even if it has no CPU for tasks."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"scheduling_strategy": here, "num_cpus": 0}


def _supervise(name: str, call: bytes, needs: Needs, imports: str | None) -> Outcome:
    """Run one long task as the local engine does, in a process that gets SIGTERM when Ray cancels or ends this one.

    Ray runs the next task in this process too, which then has the ``imports`` already.
    """
    gpus = [gpu for gpu in os.environ.get(GPUS, "").split(",") if gpu] if needs.gpus else []
    with LocalLongTasks(needs.threads, gpus, imports) as tasks:
        handle = tasks.submit_pickled(name, call, needs)
        while handle.outcome is None:
            tasks.wait(0.5)  # Ray's cancelling interrupts Python code, but not a wait
    return handle.outcome
