"""``asr-kd targets``: each action from the command line, and mistakes in one line."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from asr_kd.cli import main
from asr_kd.frames import Unfinished, WriteOptions
from asr_kd.frames.kaldi_archives import export_kaldi
from asr_kd.nets import num_parameters, open_model
from asr_kd.targets import TargetStore, Teacher, write_targets
from asr_kd.targets.config import TargetConfig
from asr_kd.train import TrainingData, evaluate
from tests.targets.conftest import LENGTHS, STATES, Scene, files_of

FRAMES = sum(LENGTHS.values())


@pytest.fixture
def command(scene: Scene) -> list[str]:
    return ["--teacher", str(scene.teacher), "--feats", str(scene.features.path), "--k", "3"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_write_estimates_first_and_goes_on(
    command: list[str], scene: Scene, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["targets", "write", *command, str(out), "--states", str(scene.states.path)]) == 0
    shown = capsys.readouterr()
    data = TrainingData(scene.features, scene.states, scene.states.utterances)
    accuracy = evaluate(open_model(scene.teacher), data).frame_accuracy
    judged = f"frame accuracy {accuracy:.1%} on {FRAMES - LENGTHS['u05']} frames of the transfer set"
    assert f"teacher: 2 networks, {num_parameters(open_model(scene.teacher)):,} parameters; {judged}" in shown.err
    assert f"topk, k = 3: 20 bytes a frame, {FRAMES} frames, 0.0 MB" in shown.err
    assert shown.out.startswith(f"{out}: {len(LENGTHS)} utterances, {FRAMES} frames")
    assert TargetStore(out).config == TargetConfig(k=3)
    before = files_of(out)
    assert main(["targets", "write", *command, str(out)]) == 0
    assert "no labels to measure its accuracy (--states)" in capsys.readouterr().err
    assert files_of(out) == before


def test_a_dry_run_estimates_and_writes_nothing(
    command: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["targets", "write", *command, str(out), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "GB free; about" in shown.err
    assert not shown.out
    assert not out.exists()


def test_sampled_targets_are_drawn_at_2_by_default(command: list[str], out: Path) -> None:
    assert main(["targets", "write", *command, str(out), "--form", "sampled", "--seed", "4"]) == 0
    assert TargetStore(out).config == TargetConfig("sampled", 3, (2.0,), 4)


def test_by_default_a_frame_keeps_at_most_every_state(command: list[str], out: Path, tmp_path: Path) -> None:
    words = command[:-2]  # without --k; 20 is more than there are
    assert main(["targets", "write", *words, str(out)]) == 0
    assert TargetStore(out).config == TargetConfig(k=STATES)
    assert main(["targets", "write", *words, str(tmp_path / "dense"), "--form", "dense"]) == 0
    assert TargetStore(tmp_path / "dense").config == TargetConfig("dense", k=20)


def test_parts_share_the_work(
    command: list[str], out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(teacher: Teacher, out: Path, config: TargetConfig, chosen: None, how: WriteOptions) -> TargetStore:
        return write_targets(teacher, out, config, chosen, dataclasses.replace(how, shard_frames=60))

    monkeypatch.setattr("asr_kd.targets.write_targets", small)
    assert main(["targets", "write", *command, str(out), "--part", "2/2"]) == 0
    assert "shards are there; the part that finishes last completes the store" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["targets", "write", *command, str(out)]) == 0
    assert TargetStore(out).store.total_frames == FRAMES


def test_each_process_of_torchrun_asks_the_teacher_on_a_gpu_of_its_own(
    command: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Mock(side_effect=Unfinished("1 of 2 shards are there"))
    monkeypatch.setattr("asr_kd.targets.write_targets", asked)
    monkeypatch.setattr("asr_kd.cli.torch_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    for name, expected in (("cuda", "cuda:1"), ("cpu", "cpu")):
        assert main(["targets", "write", *command, str(out), "--device", name]) == 0
        teacher, *_, how = asked.call_args.args
        assert (teacher.device, how.part) == (expected, (3, 4))


def test_only_the_listed_utterances_are_written(command: list[str], out: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("u03\nu01\n")
    assert main(["targets", "write", *command, str(out), "--utterances", str(tmp_path / "list")]) == 0
    assert TargetStore(out).store.utterances == ("u01", "u03")


def test_what_is_there_already_needs_no_space(
    command: list[str], scene: Scene, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_targets(Teacher(scene.teacher, scene.features), out, TargetConfig(k=3))
    (out / "index.json").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert main(["targets", "write", *command, str(out)]) == 0


def test_too_little_space_is_one_line(
    command: list[str], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert main(["targets", "write", *command, str(out)]) == 1
    assert "more bytes (20 a frame), and the disk has 100 free" in capsys.readouterr().err
    assert not out.exists()


def test_info_says_what_a_store_holds(
    command: list[str], scene: Scene, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["targets", "write", *command, str(out)])
    capsys.readouterr()
    assert main(["targets", "info", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["form"], found["k"], found["temperatures"]) == ("topk", 3, [1, 2, 5, 10])
    assert (found["states"], found["frames"], found["bytes_per_frame"]) == (STATES, FRAMES, 20)
    assert found["of features"] == scene.features.content_hash
    assert main(["targets", "info", str(out)]) == 0
    assert f"of features      {scene.features.content_hash}" in capsys.readouterr().out


def test_verify_reads_every_byte(command: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["targets", "write", *command, str(out)])
    assert main(["targets", "verify", str(out)]) == 0
    assert "checksums and values are valid" in capsys.readouterr().out
    shard = out / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert main(["targets", "verify", str(out)]) == 1
    assert "shard-00000.safetensors: checksum" in capsys.readouterr().err


def test_compare_is_a_table_or_numbers(command: list[str], scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*command, "--states", str(scene.states.path), "--temperature", "5"]
    assert main(["targets", "compare", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["temperature"], found["labelled"]) == (FRAMES, 5, FRAMES - LENGTHS["u05"])
    assert [(row["form"], row["k"]) for row in found["rows"]] == [
        ("exact", None), ("dense", None), ("topk", 3), ("sampled", 3)
    ]  # fmt: skip
    assert main(["targets", "compare", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "form"
    assert [line.split()[0] for line in lines[2:6]] == ["exact", "dense", "topk", "sampled"]
    assert f"{100 * found['rows'][2]['lost_mass']:.2f}" in lines[4].split()
    assert f"{FRAMES} frames of {STATES} states, {FRAMES - LENGTHS['u05']} with labels, at temperature 5" in lines[6]


def test_import_takes_an_archive(scene: Scene, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = write_targets(Teacher(scene.teacher, scene.features), tmp_path / "dense", TargetConfig("dense"))
    scp = export_kaldi(dense.store, tmp_path / "a.ark")
    options = ["--values", "log-prob", "--feats", str(scene.features.path), "--form", "topk", "--k", "4"]
    assert main(["targets", "import", str(scp), str(out), *options, "--temperatures", "1,3", "--num-states", "12"]) == 0
    assert f"{len(LENGTHS)} utterances, {FRAMES} frames" in capsys.readouterr().out
    assert TargetStore(out).config == TargetConfig(k=4, temperatures=(1.0, 3.0))
    assert main(["targets", "verify", str(out)]) == 0
    assert main(["targets", "info", str(out)]) == 0


@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        ("write", ["--k", "13"], "--k 13: the teacher has 12 states"),
        ("write", ["--k", "0"], "--k 0: expected at least 1"),
        ("write", ["--temperatures", "1,two"], "--temperatures 1,two: expected numbers separated by commas"),
        ("write", ["--temperatures", "1,-2"], "expected positive numbers"),
        ("write", ["--form", "sampled", "--temperatures", "1,2"], "sampled targets are drawn at one temperature"),
        ("write", ["--form", "sampled", "--seed", "-1"], "--seed -1: expected 0 or more"),
        ("write", ["--part", "3/2"], "--part 3/2: expected I/N, such as 1/4"),
        ("write", ["--part", "0/2"], "--part 0/2: expected I/N"),
        ("write", ["--part", "1/2", "--force"], "--force with --part would delete"),
        ("write", ["--teacher", "absent"], "absent: no such folder; expected a trained network"),
        ("write", ["--feats", "absent"], "absent: no such folder; expected a frame store"),
        ("write", ["--utterances", "absent"], "absent: no such file"),
        ("write", ["--states", "absent"], "absent: no such folder"),
        ("write", ["--device", "tpu9"], "--device tpu9"),
        ("compare", ["--device", "tpu9"], "--device tpu9"),
        ("compare", ["--k", "2.5"], "--k 2.5: expected whole numbers separated by commas"),
        ("compare", ["--k", "5,99"], "--k 99: the teacher has 12 states"),
        ("compare", ["--temperature", "0"], "expected positive numbers"),
        ("compare", ["--frames", "0"], "--frames 0: expected at least 1"),
    ],
)
def test_a_mistake_is_one_line(
    command: list[str], out: Path, action: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [str(out)] if action == "write" else []
    assert main(["targets", action, *place, *command, *options]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"asr-kd targets {action}: error: ")
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("archive", "message"),
    [("absent.ark", "absent.ark: no such file"), ("cat x |", "is a pipe"), ("absent.scp", "absent.scp: no such file")],
)
def test_an_archive_that_cannot_be_read_is_one_line(
    archive: str, message: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["targets", "import", archive, str(out)]) == 1
    assert message in capsys.readouterr().err.strip()


@pytest.mark.parametrize("action", ["info", "verify"])
def test_a_store_of_another_kind_is_one_line(scene: Scene, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", action, str(scene.features.path)]) == 1
    assert "holds features; expected soft targets (asr-kd targets write)" in capsys.readouterr().err
