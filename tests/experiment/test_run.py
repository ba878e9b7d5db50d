"""The runner: what runs, in which order, and what a failure, an interruption or a change leads to."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.experiment.plan import Plan, reasons, redo, status_table
from asr_kd.experiment.records import Records
from asr_kd.experiment.run import Options, run_steps
from asr_kd.experiment.steps import Aside, Config, Input, Jobs, Output, Places, Step, dependencies


def write(arguments: list[str]) -> int:
    """``TEXT OUT [IN...]``: write the text, and the content of the inputs, to a file, and add a line to a journal."""
    text, out, *inputs = (word for word in arguments if not word.startswith("--"))
    path = Path(out)
    if (path.parent / f"{path.name}.broken").exists():
        print("asr-kd write: error: it is broken", file=sys.stderr)
        return 1
    if (path.parent / f"{path.name}.kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (path.parent / f"{path.name}.crash").exists():
        raise RuntimeError("a bug")
    path.write_text(text + "".join(Path(name).read_text() for name in inputs))
    with open(path.parent / "journal", "a") as journal:
        journal.write(f"{path.name}\n")
    print(f"wrote {path.name}\nresult: ", end="")
    print(path.name)
    return 0


def _step(name: str, text: str, *inputs: str) -> Step:
    return Step(f"write {name}", ((text, Output(name), *map(Input, inputs)),), name)


STEPS = [_step("a", "1"), _step("b", "2", "a"), _step("c", "3", "a", "given"), _step("d", "4", "b", "c")]


def _plan(steps: list[Step]) -> Plan:
    return Plan({step.name: step for step in steps}, dependencies(steps))


def _run(work: Path, steps: list[Step] = STEPS, jobs: int = 1, adopt: bool = False) -> list[str]:
    """Run the steps; the names of those that ran."""
    (work / "journal").unlink(missing_ok=True)
    plan = _plan(steps)
    how = Options(jobs, commit="ab12", adopt=adopt, imports=__name__)  # forked from a process that has torch already
    run_steps(plan.steps, plan.needs, Records(Places(work)), write, how)
    return (work / "journal").read_text().split() if (work / "journal").exists() else []


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "given").write_text("x")
    return tmp_path


def test_steps_run_once_each_after_what_it_needs(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran = _run(work, jobs=2)
    assert sorted(ran) == ["a", "b", "c", "d"]
    assert ran[0] == "a"
    assert ran[-1] == "d"
    assert (work / "d").read_text() == "42131x"
    assert "write d: " in capfd.readouterr().err
    assert _run(work) == []
    assert "4 steps already done" in capfd.readouterr().err


def test_the_line_with_the_result_of_a_step_is_shown(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _run(work, [dataclasses.replace(STEPS[0], result="result:"), STEPS[1]])
    shown = capfd.readouterr().err
    assert re.search(r"write a: [\d.]+ s: result: a ", shown)
    assert re.search(r"write b: [\d.]+ s: wrote b\n", shown)


def test_a_changed_input_repeats_what_reads_it_and_only_as_far_as_contents_change(work: Path) -> None:
    _run(work)
    (work / "given").write_text("y")
    assert _run(work) == ["c", "d"]
    (work / "a").write_text("2")  # c and b read it
    assert _run(work) == ["b", "c", "d"]
    changed = [_step("a", "2"), *STEPS[1:]]
    assert _run(work, changed) == ["a"]  # its content is what it was


def test_processes_configurations_and_places_are_no_settings_but_their_content_is(work: Path) -> None:
    def step(jobs: str, rate: str) -> Step:
        config = Config("conf.yaml", f"rate: {rate}\nepochs: 3\n")
        command = ("1", Output("a"), Aside(f"--{jobs}"), Jobs(), config)
        return Step("write a", (command,), "a")

    (work / "conf.yaml").write_text("")
    (work / "1").write_text("")
    assert not Records(Places(work)).status(step("1", "0.1")).why
    Records(Places(work)).write(step("1", "0.1"), "done", None, {})
    (work / "a").write_text("")
    assert Records(Places(work)).status(step("8", "0.1")).state == "done"
    status = Records(Places(work)).status(step("8", "0.2"))
    assert (status.state, status.why) == ("out of date", "its settings changed: 'rate: 0.1' then, 'rate: 0.2' now")
    moved = work.parent / f"{work.name}-moved"
    work.rename(moved)
    assert Records(Places(moved)).status(step("8", "0.1")).state == "done"


def test_after_a_failure_the_others_still_run_and_the_next_run_continues(work: Path) -> None:
    (work / "b.broken").touch()
    with pytest.raises(
        UserError, match="1 step failed; 1 step that needed them did not run\n  write b: .*it is broken"
    ):
        _run(work)
    assert (work / "journal").read_text().split() == ["a", "c"]
    assert Records(Places(work)).status(STEPS[1]).why == "asr-kd write: error: it is broken"
    (work / "b.broken").unlink()
    assert _run(work) == ["b", "d"]


@pytest.mark.parametrize(("fault", "message"), [("kill", "killed by signal 9"), ("crash", "RuntimeError: a bug")])
def test_a_process_that_dies_or_crashes_is_a_failure_of_its_step_alone(work: Path, fault: str, message: str) -> None:
    (work / f"c.{fault}").touch()
    with pytest.raises(UserError, match=f"write c: .*{message}"):
        _run(work, jobs=2)
    assert (work / "b").exists()
    (work / f"c.{fault}").unlink()
    assert _run(work) == ["c", "d"]


def test_an_input_that_changes_while_its_step_runs_makes_it_out_of_date(work: Path) -> None:
    step = Step("write a", (("1", Output("a"), Input("given")), ("2", Output("given"))), "a")
    _run(work, [step])  # its second command changes what its first has read
    assert Records(Places(work)).status(step).why == "given has changed"


def test_outputs_without_a_record_are_taken_only_on_request(work: Path) -> None:
    for name in "abcd":
        (work / name).write_text("earlier")
    assert Records(Places(work)).status(STEPS[0]).state == "unrecorded"
    assert _run(work, adopt=True) == []
    assert (work / "a").read_text() == "earlier"
    assert _run(work) == []


def test_a_dry_run_says_what_would_run_and_why(work: Path) -> None:
    _run(work)
    (work / "given").write_text("y")
    assert dict(reasons(_plan(STEPS), Records(Places(work)))) == {
        "write c": "out of date: given has changed",
        "write d": "only if write c, which runs first, changes its inputs",
    }


def test_the_status_shows_each_step_and_counts_the_states(work: Path) -> None:
    _run(work, STEPS[:2])
    text = status_table(_plan(STEPS), Records(Places(work)))
    assert "write b  done" in text
    assert text.endswith("2 done, 2 missing of 4\n")


def test_redo_deletes_the_outputs_of_a_step_but_not_those_of_others_in_its_folder(work: Path) -> None:
    (work / "group").mkdir()
    member = _step("group/member", "1")
    group = Step("write group", (("2", Output("group")),), "group/all")
    for name in ("member", "all"):
        (work / "group" / name).write_text("earlier")
    redo(_plan([member, group]), Records(Places(work)), ["group"])
    assert [path.name for path in (work / "group").iterdir()] == ["member"]
    redo(_plan([member]), Records(Places(work)), ["group/member"])
    assert not list((work / "group").iterdir())


SCRIPT = """
import sys, time
from pathlib import Path
from tests.experiment.test_run import STEPS, Options, Places, Records, _plan, run_steps

def slow(arguments):
    Path(sys.argv[1], "begun").touch()
    time.sleep(60)
    return 0

if __name__ == "__main__":
    plan = _plan(STEPS)
    run_steps(plan.steps, plan.needs, Records(Places(Path(sys.argv[1]))), slow, Options())
"""


def test_a_second_run_in_the_same_folder_is_refused_and_a_killed_one_is_seen(work: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, script, work], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    while not (work / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    records = Records(Places(work))
    assert records.status(STEPS[0]).state == "running"
    with pytest.raises(UserError, match="another asr-kd experiment is running in this folder"):
        _run(work)
    process.kill()
    process.wait()
    assert records.status(STEPS[0]).state == "interrupted"
    deadline = time.monotonic() + 20  # the step's process ends with its parent
    while records.in_use() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _run(work) == ["a", "b", "c", "d"]


def test_status_and_commands_take_the_options_of_the_last_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, work = tmp_path / "table.yaml", tmp_path / "work"
    table.write_text(
        "values: {width: 32}\nhmms: {hmm: {states: 'states/$set'}}\nconfigs: {base: {net: {width: $width}}}\n"
        "systems: {net: {data: train, config: base}}\n"
    )
    monkeypatch.setattr("asr_kd.experiment.run.run_steps", lambda *_: None)
    assert main(["experiment", "status", str(table), str(work)]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["experiment", "run", str(table), str(work), "--set", "width=64", "--stores", "s3://b"]) == 0

    def shown(*options: str) -> str:
        capsys.readouterr()
        assert main(["experiment", *options]) == 0
        return capsys.readouterr().out

    assert "--states s3://b/states/train" in shown("commands", str(table), str(work))
    config = work / "experiment" / "configs" / "base.yaml"
    assert "width: 64" in config.read_text()
    assert "--states s3://b" not in shown("commands", str(table), str(work), "--set", "width=48")
    assert "width: 48" in config.read_text()
    assert "train net/seed1  missing" in shown("status", str(table), str(work))
    other = shutil.copy(table, tmp_path / "other.yaml")
    assert "s3://b" not in shown("commands", str(other), str(work))
