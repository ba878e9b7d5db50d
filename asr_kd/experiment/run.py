"""Runs the steps that are not done, each in a process of its own, as their inputs become ready."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from asr_kd.errors import UserError, counted
from asr_kd.experiment.commands import Call, Outcome, run_commands
from asr_kd.experiment.exchange import Exchange, run_away
from asr_kd.experiment.records import Contents, Records
from asr_kd.experiment.steps import Step, arguments
from asr_kd.parallel import Handle, LongTasks, Needs, long_tasks
from asr_kd.progress import duration

INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Options:
    """``jobs``: processes at once; ``gpus``: names of GPUs; ``commit``: of this code.

    ``adopt``: outputs without a record count as done. ``late(step)``: words of its last command that are known only
    when it starts. ``imports``: a module that imports what most commands need. ``exchange``: through which machines
    without a shared disk get the files of the working folder.
    """

    jobs: int = 1
    gpus: Sequence[str] = ()
    commit: str | None = None
    adopt: bool = False
    late: Callable[[Step], list[str]] = lambda step: []
    imports: str | None = None
    exchange: Exchange | None = None


def run_steps(
    steps: Mapping[str, Step],
    needs: Mapping[str, Sequence[str]],
    records: Records,
    main: Callable[[list[str]], int],
    options: Options,
) -> None:
    """Run the steps that are not done, each once all that it needs are done. ``main`` runs one command.

    ``steps``: in the order in which they start if several are ready. ``needs``: names of steps, which are in ``steps``.
    After a failure the steps that do not need the failed one still run. Raises ``UserError`` at the end, with the
    failures, and ``KeyboardInterrupt`` when interrupted; the running steps then save their work.
    """
    with records.locked(), long_tasks(options.jobs, options.gpus, options.imports) as tasks:
        _Run(steps, needs, records, main, options).work_off(tasks)


@dataclasses.dataclass(frozen=True)
class _Running:
    """A step that runs: its processes, the time of its start, and what its inputs held then."""

    width: int
    begun: float
    contents: Contents


class _Run:
    def __init__(
        self,
        steps: Mapping[str, Step],
        needs: Mapping[str, Sequence[str]],
        records: Records,
        main: Callable[[list[str]], int],
        options: Options,
    ) -> None:
        self.steps, self.needs, self.records, self.main, self.options = steps, needs, records, main, options
        self.waiting = list(steps)
        self.stale: set[str] = set()  # those that are ready and known not to be done
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.running: dict[str, _Running] = {}
        self.seconds: dict[str, list[float]] = {}  # of the steps that ran, by kind
        self.kept = 0

    def work_off(self, tasks: LongTasks) -> None:
        self.start_ready(tasks)
        while ended := tasks.wait():
            for handle in ended:
                self.finish(handle)
            self.start_ready(tasks)
        if self.kept:
            print(f"{counted(self.kept, 'step')} already done", file=sys.stderr)
        if self.failed:
            raise self.failure()

    def start_ready(self, tasks: LongTasks) -> None:
        """Start the steps that are ready, as far as there is room; what is done needs no process."""
        self.settle()
        ready = [self.steps[name] for name in self.waiting if name in self.stale]
        for number, step in enumerate(ready):
            free = self.options.jobs - sum(running.width for running in self.running.values())
            if free < 1:
                return
            self.waiting.remove(step.name)
            width = max(1, free // (len(ready) - number)) if step.wide else 1
            self.start(tasks, step, min(width, tasks.widest))

    def settle(self) -> None:
        """Count the steps that are done already, and those that need a failed one."""
        changed = True
        while changed:
            changed = False
            for name in list(self.waiting):
                failed = [need for need in self.needs[name] if need in self.failed]
                if failed:
                    self.failed[name] = f"not run: it needs {failed[0]}"
                elif name in self.stale or not all(need in self.done for need in self.needs[name]):
                    continue
                elif self.is_done(self.steps[name]):
                    self.done.add(name)
                    self.kept += 1
                else:
                    self.stale.add(name)
                    continue
                self.waiting.remove(name)
                changed = True

    def is_done(self, step: Step) -> bool:
        status = self.records.status(step)
        if status.state == "unrecorded" and self.options.adopt:
            self.records.write(step, "done", None, self.records.contents(step), seconds=None, adopted=True)
            return True
        return status.state == "done"

    def start(self, tasks: LongTasks, step: Step, width: int) -> None:
        contents = self.records.contents(step)
        self.records.write(step, "running", self.options.commit, contents)
        self.running[step.name] = _Running(width, time.monotonic(), contents)
        self.show(step.name, "started")
        needs = Needs(width, 1 if step.device and tasks.gpus else 0, here=step.here)
        if self.options.exchange and not step.here:
            self.options.exchange.offer(step)
            tasks.submit(step.name, run_away, self.options.exchange.away(step, width, self.main), needs)
            return
        commands = [arguments(command, self.records.places, width) for command in step.commands]
        commands[-1] += self.options.late(step)
        tasks.submit(step.name, run_commands, Call(self.main, commands, self.records.log(step), step.result), needs)

    def finish(self, handle: Handle[Outcome]) -> None:
        name = handle.name
        step, running = self.steps[name], self.running.pop(name)
        seconds = time.monotonic() - running.begun
        try:
            outcome = handle.result()
            if self.options.exchange and not step.here:
                self.options.exchange.take(step)
        except (UserError, RuntimeError) as error:  # its process was killed, or ended without a result
            outcome = Outcome(1, str(error).removeprefix(f"{name}: "))
        if outcome.status == INTERRUPTED:
            raise KeyboardInterrupt
        if outcome.status:
            self.failed[name] = outcome.line
            self.records.write(
                step, "failed", self.options.commit, running.contents, seconds=seconds, error=outcome.line
            )
            self.show(name, f"failed after {duration(seconds)}: {outcome.line}")
            return
        self.done.add(name)
        self.seconds.setdefault(_kind(name), []).append(seconds)
        self.records.write(step, "done", self.options.commit, running.contents, seconds=round(seconds, 1))
        self.show(name, f"{duration(seconds)}: {outcome.line}{self.time_left()}")

    def show(self, name: str, text: str) -> None:
        over, total = len(self.done) + len(self.failed), len(self.steps)
        print(f"[{over:{len(str(total))}}/{total}] {name}: {text}", file=sys.stderr, flush=True)

    def time_left(self) -> str:
        """If the remaining steps take as long as those of their kind that ran, or as any, on average."""
        rest = [name for name in self.steps if name not in self.done and name not in self.failed]
        if not rest:
            return ""
        usual = _mean([second for kind in self.seconds.values() for second in kind])
        total = sum(_mean(self.seconds.get(_kind(name), [])) or usual for name in rest)
        return f" (about {duration(total / min(self.options.jobs, len(rest)))} left)"

    def failure(self) -> UserError:
        lines = [
            f"  {name}: {why}\n    all of its output: {self.records.log(self.steps[name])}"
            for name, why in self.failed.items()
            if not why.startswith("not run")
        ]
        rest = len(self.failed) - len(lines)
        others = f"; {counted(rest, 'step')} that needed them did not run" if rest else ""
        return UserError(f"{counted(len(lines), 'step')} failed{others}\n" + "\n".join(lines))


def _kind(step: str) -> str:
    return step.partition(" ")[0]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
