"""Checkpoints and folders of training runs: damage is named, leftovers are deleted, one process trains at a time."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel
from asr_kd.train import TrainingData, train
from asr_kd.train import run_folder as experiments
from asr_kd.train.checkpoint import Position, load_checkpoint, save_checkpoint
from asr_kd.train.optimiser import make_optimiser
from asr_kd.train.run_folder import RunFolder
from tests.train.conftest import BINS, CONFIG, NET, STATES, MakeData

SHAPE = dataclasses.replace(NET, bins=BINS, states=STATES)
POSITION = Position(3, 1, 2, 4.5, 40, 3, 5, 1.5, 0, [{"epoch": 1, "step": 1, "dev_accuracy": 0.5}])
BIAS = "optimiser/network.output.bias/exp_avg"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint after a step."""
    model = AcousticModel(SHAPE)
    optimiser = make_optimiser(model, CONFIG)
    model(torch.randn(3, 9, BINS)).sum().backward()
    optimiser.step()
    save_checkpoint(tmp_path / "checkpoint.safetensors", model, optimiser, POSITION)
    return tmp_path / "checkpoint.safetensors"


def load(path: Path) -> Position:
    model = AcousticModel(SHAPE)
    return load_checkpoint(path, model, make_optimiser(model, CONFIG), CONFIG.epochs)


def rewrite(path: Path, tensors: dict[str, Tensor | None] | None = None, **position: Any) -> None:
    """Replace, add or (None) remove tensors, and change the position."""
    with safetensors.safe_open(path, "pt") as stream:
        metadata = {"position": json.dumps(json.loads(stream.metadata()["position"]) | position)}
    content = {name: tensor for name, tensor in (load_file(path) | (tensors or {})).items() if tensor is not None}
    save_file(content, path, metadata)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model = AcousticModel(SHAPE)
    optimiser = make_optimiser(model, CONFIG)
    model(torch.randn(3, 9, BINS)).sum().backward()
    optimiser.step()
    save_checkpoint(tmp_path / "c", model, optimiser, POSITION, "one")
    assert load_checkpoint(tmp_path / "c", model, optimiser, CONFIG.epochs, "one") == POSITION
    with pytest.raises(UserError, match=r"not a checkpoint of this training run \(it does not belong to the"):
        load_checkpoint(tmp_path / "c", model, optimiser, CONFIG.epochs, "two")
    save_checkpoint(tmp_path / "c", model, optimiser, POSITION)  # as earlier versions wrote them
    assert load_checkpoint(tmp_path / "c", model, optimiser, CONFIG.epochs, "two") == POSITION


def test_what_is_saved_is_loaded(path: Path) -> None:
    assert load(path) == POSITION


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({BIAS: None}, "exp_avg': found nothing"),
        ({"optimiser/network.output.bias/step": None}, "step': found nothing"),
        ({"model/std": None}, "'model/std': found nothing"),
        ({"extra": torch.zeros(2)}, "'extra': found"),
        ({BIAS: torch.zeros(STATES + 1)}, "exp_avg': found"),
        ({BIAS: torch.zeros(STATES, dtype=torch.int32)}, "exp_avg': found type I32"),
        ({BIAS: torch.full((STATES,), torch.nan)}, "exp_avg' has a number that is NaN"),
        ({"model/network.output.bias": torch.full((STATES,), torch.inf)}, "bias' has a number that is NaN"),
    ],
)
def test_a_wrong_tensor_is_one_error_that_names_it(path: Path, tensors: dict[str, Any], message: str) -> None:
    rewrite(path, tensors)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: not a checkpoint of this training run (")
    assert str(error.value).count(str(path)) == 1
    assert str(error.value).endswith("delete it to start from the beginning")


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1}, {"step": "3"}, {"step": 1.5}, {"step": True}, {"epoch": 99}, {"batch": 0}, {"frames": 0},
        {"best": 1}, {"best": -1}, {"best": None}, {"history": 3}, {"history": [3]}, {"history": [{}]},
        {"history": [{"dev_accuracy": "high"}]}, {"history": [{"dev_accuracy": float("nan")}]}, {"another": 1},
        {"loss_sum": float("inf")}, {"seconds": -1.0}, {"epoch": 3, "history": [], "best": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_position_that_makes_no_sense_is_refused(path: Path, changes: dict[str, Any]) -> None:
    rewrite(path, None, **changes)
    with pytest.raises(UserError, match=r"not a checkpoint of this training run \(damaged position: .*\); delete it"):
        load(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"step": ' + "1" * 5000 + "}"])
def test_a_position_that_is_no_object_is_refused(path: Path, text: str) -> None:
    save_file(load_file(path), path, {"position": text})
    with pytest.raises(UserError, match="not a checkpoint of this training run"):
        load(path)
    save_file(load_file(path), path)
    with pytest.raises(UserError, match="does not record the position in training"):
        load(path)


@pytest.mark.parametrize("spoil", [lambda p: p.mkdir(), os.mkfifo, lambda p: p.write_bytes(b"\xff" * 99)])
def test_what_is_no_file_of_tensors_is_refused(path: Path, spoil: Callable[[Path], object]) -> None:
    path.unlink()
    spoil(path)
    with pytest.raises(UserError, match="not a checkpoint of this training run"):
        load(path)


@pytest.fixture
def data(make_data: MakeData) -> TrainingData:
    return make_data([40] * 6)


def test_what_a_killed_run_left_half_written_is_deleted(tmp_path: Path, data: TrainingData) -> None:
    left = [tmp_path / f".{name}.abc123.partial" for name in ("checkpoint.safetensors", "model.safetensors")]
    for path in left:
        path.write_bytes(b"half")
    train(dataclasses.replace(CONFIG, epochs=1), data, data, tmp_path)
    assert not any(path.exists() for path in left)


def test_a_second_run_in_the_same_folder_is_refused(
    tmp_path: Path, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "LOCK_SECONDS", 0.2)
    program = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print('locked', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process is training in this folder"):
            train(dataclasses.replace(CONFIG, epochs=1), data, data, tmp_path)
        other.kill()
    assert train(dataclasses.replace(CONFIG, epochs=1), data, data, tmp_path)["epochs"] == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"dev_accuracy": "x", "epoch": 1, "parameters": 2}', "[" * 9999])
def test_a_damaged_summary_is_named(tmp_path: Path, data: TrainingData, text: str) -> None:
    run_folder = RunFolder(tmp_path, CONFIG, data, data)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json"):
        assert run_folder.summary


def test_the_log_stars_the_epochs_that_are_kept(
    tmp_path: Path, data: TrainingData, capsys: pytest.CaptureFixture[str]
) -> None:
    for keep in ("best", "last"):
        train(dataclasses.replace(CONFIG, epochs=4, keep=keep), data, data, tmp_path / keep)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch") and "nats" in line]
        starred = [number for number, line in enumerate(lines, 1) if line.endswith(" *")]
        accuracies = [
            json.loads(line)["dev_accuracy"] for line in (tmp_path / keep / "metrics.jsonl").read_text().splitlines()
        ]
        better = [i + 1 for i, value in enumerate(accuracies) if value > max(accuracies[:i], default=-1)]
        assert starred == (better if keep == "best" else [4])


@pytest.mark.parametrize("lengths", [[1, 40, 40], [3], [1, 1]])
def test_a_batch_of_one_row_is_no_crash(tmp_path: Path, make_data: MakeData, lengths: list[int]) -> None:
    """Pools of one utterance each, of one frame or an odd number, with batches of two frames."""
    config = dataclasses.replace(CONFIG, batch_frames=2, epochs=2, pool_frames=1)
    assert config.net.norm == "batch"
    assert train(config, make_data(lengths), make_data([40]), tmp_path)["epochs"] == 2


def test_too_few_frames_to_normalise_are_refused_with_what_to_do(tmp_path: Path, make_data: MakeData) -> None:
    for config, lengths in ((dataclasses.replace(CONFIG, batch_frames=1), [40]), (CONFIG, [1])):
        with pytest.raises(
            UserError, match=r"a step has only 1 frame; net\.norm=batch needs at least 2: .* set net\.norm=layer"
        ):
            train(config, make_data(lengths), make_data([40]), tmp_path / "out")
