"""A plan: the steps of a table that a command is about, what each needs, and where the experiment stands."""

import dataclasses
import fnmatch
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.experiment.exchange import Exchange
from asr_kd.experiment.make_reports import report_steps
from asr_kd.experiment.make_steps import make_steps
from asr_kd.experiment.read_table import load_table
from asr_kd.experiment.records import Records
from asr_kd.experiment.steps import Step, closure, dependencies
from asr_kd.files import read_lines, write_text
from asr_kd.score.table import Column, plain, render
from asr_kd.storage import delete_folder

STAGE = re.compile(r"(\d+)\t(\d+)\t(\w*)")
STAGES = "stages.tsv"  # in the working folder: number, seconds and commit of each stage that a recipe has run


@dataclasses.dataclass(frozen=True)
class Plan:
    """Steps by name, each with the names of those that it needs, which are in the plan too."""

    steps: Mapping[str, Step]
    needs: Mapping[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which steps of a table: of the systems, reports or steps that match one of ``only`` (all, if there are none).

    ``overrides``: of the table's values, NAME=VALUE. ``small``: the table's small form.
    """

    only: Sequence[str] = ()
    overrides: Sequence[str] = ()
    small: bool = False


def make_plan(path: Path, work: Path, results: Path, selection: Selection) -> Plan:
    """The selected steps of the table at ``path``, and all that they need.

    If none is selected, the plan has all steps, except for tests that no report shows, and models that only these need.
    ``results``: where the folders of the reports are.
    """
    table = load_table(path, selection.overrides, selection.small)
    steps = make_steps(table) | report_steps(table, results)
    needs = dependencies(steps.values())
    names = [name for pattern in selection.only for name in _matching(pattern, steps)]
    shown = closure([name for name in steps if name.startswith("report ")], needs) or set(steps)
    usual = [name for name in steps if name in shown or not name.startswith(("model ", "test "))]
    chosen = closure(names if selection.only else usual, needs)
    return Plan({name: step for name, step in steps.items() if name in chosen}, needs)


def _matching(pattern: str, steps: Mapping[str, Step]) -> list[str]:
    """The steps of a system, report or step called ``pattern``, which may have ``*``."""
    found = [name for name in steps if _is_called(name, pattern)]
    if not found:
        subjects = dict.fromkeys(name.split()[1].split("/seed")[0] for name in steps)
        raise UserError(f"--only {pattern}: no system, report or step has this name; known: {', '.join(subjects)}")
    return found


def _is_called(step: str, pattern: str) -> bool:
    subject = step.partition(" ")[2].split(" ")[0]
    return any(fnmatch.fnmatchcase(name, pattern) for name in (step, subject, subject.split("/seed")[0]))


def write_configs(plan: Plan, work: Path) -> None:
    """Write the configuration files that the commands name."""
    for config in dict.fromkeys(config for step in plan.steps.values() for config in step.configs):
        path = work / config.path
        if not path.exists() or path.read_text(encoding="utf-8") != config.text:
            write_text(path, config.text)


def redo(plan: Plan, records: Records, patterns: Sequence[str], exchange: Exchange | None = None) -> None:
    """Delete the outputs of the steps that match, those inside the working folder and stores, and their records.

    Of a folder with outputs of other steps, such as an ensemble's, only the step's last file is deleted.
    """
    outputs = {output.path for step in plan.steps.values() for output in step.outputs}
    for pattern in patterns:
        for name in _matching(pattern, plan.steps):
            step = plan.steps[name]
            records.forget(step)
            if exchange and not step.here:
                exchange.forget(step)
            for output in step.outputs:
                shared = any(other.startswith(f"{output.path}/") for other in outputs)
                place = records.places.of(step.mark if shared else output)
                if output.store:
                    delete_folder(place)
                elif (path := Path(place)).resolve().is_relative_to(records.work.resolve()):
                    if path.is_dir():
                        shutil.rmtree(path)
                    path.unlink(missing_ok=True)


def reasons(plan: Plan, records: Records) -> Iterator[tuple[str, str]]:
    """The steps that would run, and why."""
    would_run: set[str] = set()
    for name in in_order(plan):
        status = records.status(plan.steps[name])
        behind = [need for need in plan.needs[name] if need in would_run]
        if status.state == "done" and not behind:
            continue
        would_run.add(name)
        if status.state == "done":
            yield name, f"only if {behind[0]}, which runs first, changes its inputs"
        else:
            yield name, f"{status.state}{f': {status.why}' if status.why else ''}"


def in_order(plan: Plan) -> list[str]:
    """The names of the steps, each after those that it needs."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in order:
            for need in plan.needs[name]:
                visit(need)
            order[name] = None

    for name in plan.steps:
        visit(name)
    return list(order)


def status_table(plan: Plan, records: Records) -> str:
    """Where each step stands, as a table, with a count of each state below it."""
    found = {name: records.status(plan.steps[name]) for name in in_order(plan)}
    rows = [
        {"step": name, "state": status.state, "time": _minutes(status.seconds), "why": status.why}
        for name, status in found.items()
    ]
    columns = (
        Column("step", plain("step"), left=True), Column("state", plain("state"), left=True),
        Column("seconds", plain("time")), Column("why", plain("why"), left=True),
    )  # fmt: skip
    states = [status.state for status in found.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{render(rows, columns)}\n{counts} of {len(states)}\n"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.0f}"


def provenance_words(plan: Plan, records: Records, commit: str | None, begun: float) -> list[str]:
    """Options of ``asr-kd report``: the wall time so far, and what was made at other commits.

    ``begun``: when this command began, in seconds of ``time.time()``.
    """
    made: dict[str, list[str]] = {}
    seconds = time.time() - begun
    path = records.work / STAGES
    for line in read_lines(path) if path.exists() else ():
        match = STAGE.fullmatch(line)
        if not match:
            advice = "delete the file: only the wall time of earlier stages is lost"
            raise UserError(f"{path}: expected STAGE, SECONDS, COMMIT on each line, found {shown(line)}; {advice}")
        number, took, commit_then = match.groups()
        seconds += int(took)
        if commit_then not in ("", commit):
            made.setdefault(commit_then, []).append(f"stage {number}")
    for step in plan.steps.values():
        record = records.read(step)
        at = record.get("commit") if record else None
        if at and at != commit and not step.name.startswith("report "):
            made.setdefault(at, []).append(step.name.split("/seed")[0])
    words = ["--seconds", f"{seconds:.0f}"] if path.exists() else []
    for at, names in made.items():
        words += ["--made-at", at, ", ".join(dict.fromkeys(names))]
    return words
