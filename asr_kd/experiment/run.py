"""The runner: works off the steps that are not done, each in a process of its own, as their inputs become ready."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from asr_kd.errors import UserError, counted
from asr_kd.experiment.processes import Main, Outcome, Processes
from asr_kd.experiment.records import Records
from asr_kd.experiment.steps import Step, arguments
from asr_kd.progress import duration


@dataclasses.dataclass(frozen=True)
class Options:
    """``jobs``: processes at once; ``devices``: GPUs; ``commit``: of this code.

    ``adopt``: outputs without a record count as done. ``late(step)``: words of its last command that are known only
    when it starts.
    """

    jobs: int = 1
    devices: int = 0
    commit: str | None = None
    adopt: bool = False
    late: Callable[[Step], list[str]] = lambda step: []


def run_steps(
    steps: Mapping[str, Step], needs: Mapping[str, Sequence[str]], records: Records, main: Main, options: Options
) -> None:
    """Run the steps that are not done, each once all that it needs are done.

    ``steps``: in the order in which they start if several are ready. ``needs``: names of steps, which are in ``steps``.
    After a failure the steps that do not need the failed one still run. Raises ``UserError`` at the end, with the
    failures, and ``KeyboardInterrupt`` when interrupted; the running steps then save their work.
    """
    with records.locked(), Processes(main, options.jobs, options.devices) as processes:
        _Run(steps, needs, records, options, processes).run()


class _Run:
    def __init__(
        self,
        steps: Mapping[str, Step],
        needs: Mapping[str, Sequence[str]],
        records: Records,
        options: Options,
        processes: Processes,
    ) -> None:
        self.steps, self.needs, self.records = steps, needs, records
        self.options, self.processes = options, processes
        self.waiting = list(steps)
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.begun: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {}  # of the steps that ran, by kind
        self.kept = 0

    def run(self) -> None:
        while self.waiting or self.processes.busy:
            self.start_ready()
            if self.processes.busy:
                for name, outcome in self.processes.wait().items():
                    self.finish(name, outcome)
        if self.kept:
            print(f"{counted(self.kept, 'step')} already done", file=sys.stderr)
        if self.failed:
            raise self.failure()

    def start_ready(self) -> None:
        """Start the steps that are ready, as far as there is room; what is done needs no process."""
        self.settle()
        ready = [self.steps[name] for name in self.waiting if self.is_ready(name)]
        for number, step in enumerate(ready):
            free = self.processes.free
            if free < 1:
                return
            if step.device and not self.processes.has_device():
                continue
            self.waiting.remove(step.name)
            self.start(step, max(1, free // (len(ready) - number)) if step.wide else 1)

    def settle(self) -> None:
        """Count the steps that are done already, and those that need a failed one."""
        changed = True
        while changed:
            changed = False
            for name in list(self.waiting):
                failed = [need for need in self.needs[name] if need in self.failed]
                if failed:
                    self.failed[name] = f"not run: it needs {failed[0]}"
                elif self.is_ready(name) and self.is_done(self.steps[name]):
                    self.done.add(name)
                    self.kept += 1
                else:
                    continue
                self.waiting.remove(name)
                changed = True

    def is_ready(self, name: str) -> bool:
        return all(need in self.done for need in self.needs[name])

    def is_done(self, step: Step) -> bool:
        status = self.records.status(step)
        if status.state == "unrecorded" and self.options.adopt:
            self.records.write(step, "done", None, seconds=None, adopted=True)
            return True
        return status.state == "done"

    def start(self, step: Step, width: int) -> None:
        self.records.write(step, "running", self.options.commit)
        self.begun[step.name] = time.monotonic()
        self.show(step.name, "started")
        commands = [arguments(command, self.records.work, width) for command in step.commands]
        commands[-1] += self.options.late(step)
        self.processes.start(step.name, commands, self.records.log(step), width, step.device)

    def finish(self, name: str, outcome: Outcome) -> None:
        step, seconds = self.steps[name], time.monotonic() - self.begun[name]
        if outcome.status in (130, -2, -15):
            self.records.write(step, "interrupted", self.options.commit)
            raise KeyboardInterrupt
        if outcome.status:
            self.failed[name] = outcome.line
            self.records.write(step, "failed", self.options.commit, seconds=seconds, error=outcome.line)
            self.show(name, f"failed after {duration(seconds)}: {outcome.line}")
            return
        self.done.add(name)
        self.seconds.setdefault(_kind(name), []).append(seconds)
        self.records.write(step, "done", self.options.commit, seconds=round(seconds, 1))
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
