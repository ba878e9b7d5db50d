"""Steps on machines without a shared disk, which exchange the files of the working folder at a URL."""

import os
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest

from asr_kd.errors import UserError
from asr_kd.experiment import exchange
from asr_kd.experiment.exchange import Exchange, _saved
from asr_kd.experiment.plan import Plan, redo
from asr_kd.experiment.records import Records
from asr_kd.experiment.run import Options, run_steps
from asr_kd.experiment.steps import Input, Output, Places, Step, dependencies
from asr_kd.storage import list_files, read_file, write_file
from tests.object_storage import Fault, Server

URL = "s3://bucket/stores/work"


def gather(arguments: list[str]) -> int:
    """``OUT [IN...]``: write the names of all files below the inputs, and what the files hold, to ``OUT/found``."""
    out, *inputs = map(Path, arguments)
    files = [path for given in inputs for path in ([given] if given.is_file() else sorted(given.rglob("*")))]
    held = [f"{path.name}: {path.read_text()}" for path in files if path.is_file() and path.name != "found"]
    out.mkdir(parents=True, exist_ok=True)
    if (out / "found").exists():
        held.append("again")
    (out / "found").write_text("\n".join(held))
    print(f"{out}: {os.getcwd()}")
    if "list: broken" in held:
        print(f"asr-kd gather: error: {out} is broken", file=sys.stderr)
        return 1
    return 0


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "data" / "audio").mkdir(parents=True)
    (folder / "data" / "utt2spk").write_text("a b")
    (folder / "data" / "audio" / "a.flac").write_text("long")
    (folder / "list").write_text("a")
    (tmp_path / "elsewhere").write_text("far")
    return folder


def _plan(*steps: Step) -> Plan:
    return Plan({step.name: step for step in steps}, dependencies(steps))


def _run(work: Path, plan: Plan) -> None:
    records = Records(Places(work, "s3://bucket/stores"))
    options = Options(2, exchange=Exchange(URL, records))
    run_steps(plan.steps, plan.needs, records, gather, options)


def _step(name: str, *inputs: Input) -> Step:
    return Step(f"gather {name}", ((Output(name), *inputs),), f"{name}/found")


def test_a_step_gets_what_it_reads_and_its_outputs_and_log_come_back(
    server: Server, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = _step("net", Input("data"), Input("list"), Input(str(tmp_path / "elsewhere")))
    inside = _step("net/test", Input("net"), Input("list"))  # writes into a folder that it reads
    second = _step("model", Input("net", content="net/found"), Input("net/test"))
    _run(work, _plan(first, inside, second))
    assert (work / "net" / "found").read_text() == "utt2spk: a b\nlist: a\nelsewhere: far"
    assert (work / "net" / "test" / "found").read_text() == "list: a"
    assert server.counted("PUT", "/work/list") == 1  # both steps read it
    assert (work / "model" / "found").read_text() == ""
    assert "net: " in (work / "experiment" / "logs" / "gather%20net.log").read_text()
    assert "gather net: " in capfd.readouterr().err
    assert not list((tmp_path / "cache" / "steps").iterdir())


def test_what_is_offered_replaces_what_was_there_but_not_what_other_steps_have_saved(
    server: Server, work: Path, tmp_path: Path
) -> None:
    records, reads = Records(Places(work)), _step("model", Input("net"), Input("data"))
    (work / "net").mkdir()
    (work / "net" / "weights").write_text("1")
    write_file(f"{URL}/net/test/found", b"saved")
    write_file(f"{URL}/data/segments", b"of an earlier data directory")
    offers = Exchange(URL, records)
    offers.offer(reads)
    assert set(list_files(f"{URL}/net")) == {"weights", "test/found"}
    assert set(list_files(f"{URL}/data")) == {"utt2spk"}
    (work / "net" / "weights").write_text("two")
    server.requests.clear()
    offers.offer(reads)
    assert read_file(f"{URL}/net/weights", 100) == b"two"
    assert server.counted("PUT", "") == 1


def test_a_failure_is_that_of_the_step_and_redo_deletes_what_it_has_saved(server: Server, work: Path) -> None:
    (work / "list").write_text("broken")
    plan, records = _plan(_step("net", Input("list"))), Records(Places(work))
    with pytest.raises(UserError, match="gather net: asr-kd gather: error: net is broken"):
        _run(work, plan)
    assert (work / "net" / "found").exists()
    (work / "list").write_text("whole")
    _run(work, plan)
    assert (work / "net" / "found").read_text() == "list: whole\nagain"  # it began with what was there
    redo(plan, records, ["net"], Exchange(URL, records))
    assert not (work / "net").exists()
    assert not list_files(f"{URL}/net")


def test_outputs_are_saved_while_a_step_runs_and_the_next_attempt_begins_with_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "SAVE_SECONDS", 0.05)
    first, second = tmp_path / "first", tmp_path / "second"
    with server.failing(Fault("500", "/net/checkpoint", "PUT", times=3)), _saved(first, ["net"], URL):
        (first / "net").mkdir(parents=True)
        (first / "net" / "checkpoint").write_text("half")
        (first / "net" / ".checkpoint.partial").write_text("quarter")
        deadline = time.monotonic() + 20
        while not list_files(f"{URL}/net"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with _saved(second, ["net"], URL):
        assert (second / "net" / "checkpoint").read_text() == "half"
        (second / "net" / "weights").write_text("whole")
        (second / "net" / "checkpoint").unlink()
    assert set(list_files(f"{URL}/net")) == {"weights"}
    assert read_file(f"{URL}/net/weights", 100) == b"whole"
    assert threading.active_count() < 20


def test_a_step_whose_outputs_cannot_be_saved_has_failed(server: Server, work: Path) -> None:
    with (
        server.failing(Fault("403", "/net/found", "PUT")),
        pytest.raises(UserError, match="gather net: .*net/found: access denied"),
    ):
        _run(work, _plan(_step("net", Input("list"))))
    assert not (work / "net" / "found").exists()


def test_truncated_outputs_and_names_that_lead_elsewhere_are_refused(server: Server, work: Path) -> None:
    records, step = Records(Places(work)), _step("net")
    write_file(f"{URL}/net/found", b"a long enough file")
    with server.failing(Fault("truncated", "/net/found")), pytest.raises(UserError, match="found: "):
        Exchange(URL, records).take(step)
    assert not (work / "net" / "found").exists()
    fsspec.filesystem("s3").pipe_file(f"{URL}/net/../../../outside", b"x")
    with pytest.raises(UserError, match="leads out of its folder"):
        Exchange(URL, records).take(step)
    assert not (work.parent / "outside").exists()
