"""Training on a GPU: it learns as on a CPU, and a run that was killed ends with the weights of another."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_kd.nets import NetConfig, load_model
from asr_kd.targets import TargetConfig, TargetStore, Teacher, write_targets
from asr_kd.train import TrainingData, loop, train
from asr_kd.train.evaluate import evaluate
from asr_kd.train.transfer_set import Sources
from tests.killing import Killed, digests
from tests.train.conftest import CONFIG, NET, MakeData

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
TDNN = NetConfig(kind="tdnn", width=16, bottleneck=8, dilations=(1, 3), dropout=0.1)
DNN = dataclasses.replace(NET, dropout=0.2)


@pytest.fixture
def data(make_data: MakeData) -> TrainingData:
    return make_data([60] * 20)


@pytest.fixture
def dev(make_data: MakeData) -> TrainingData:
    return make_data([60] * 5, seed=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("net", [NET, TDNN], ids=["dnn", "tdnn"])
def test_it_learns_what_a_cpu_learns(
    tmp_path: Path, data: TrainingData, dev: TrainingData, net: NetConfig, precision: Any
) -> None:
    net = dataclasses.replace(net, dropout=0.0)
    config = dataclasses.replace(CONFIG, net=net, precision=precision, epochs=6)
    found = train(config, data, dev, tmp_path / "gpu", GPU)
    expected = train(dataclasses.replace(config, precision="fp32"), data, dev, tmp_path / "cpu")
    assert found["dev_accuracy"] == pytest.approx(expected["dev_accuracy"], abs=0.03)
    assert found["dev_cross_entropy"] == pytest.approx(expected["dev_cross_entropy"], rel=0.05)


@pytest.mark.parametrize("targets", ["labels", "topk", "dense", "live"])
@pytest.mark.parametrize("net", [DNN, TDNN], ids=["dnn", "tdnn"])
def test_killed_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path,
    data: TrainingData,
    dev: TrainingData,
    net: NetConfig,
    targets: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(CONFIG, net=net, precision="bf16", checkpoint_steps=9)
    sources = Sources()
    if targets != "labels":
        train(CONFIG, data, dev, tmp_path / "teacher", GPU)
        if targets == "live":
            sources = Sources(teacher=tmp_path / "teacher")
        else:
            teacher = Teacher(tmp_path / "teacher", data.features, device="cuda")
            write_targets(teacher, tmp_path / "targets", TargetConfig(targets, k=3))
            data = TrainingData(data.features, data.states, None, TargetStore(tmp_path / "targets"))
    train(config, data, dev, tmp_path / "whole", GPU, sources)

    save, kills = loop.save_checkpoint, 0

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        raise Killed

    monkeypatch.setattr(loop, "save_checkpoint", save_and_die)
    while not (tmp_path / "killed" / "summary.json").exists():
        try:
            train(config, data, dev, tmp_path / "killed", GPU, sources)
        except Killed:
            kills += 1
    assert kills > 5
    assert digests(tmp_path / "whole")["model.safetensors"] == digests(tmp_path / "killed")["model.safetensors"]


def test_two_runs_of_one_seed_give_the_same_bytes(tmp_path: Path, data: TrainingData, dev: TrainingData) -> None:
    config = dataclasses.replace(CONFIG, net=DNN, precision="bf16")
    for name in ("one", "two"):
        train(config, data, dev, tmp_path / name, GPU)
    assert digests(tmp_path / "one")["model.safetensors"] == digests(tmp_path / "two")["model.safetensors"]


def test_a_model_trained_on_a_gpu_is_the_same_on_a_cpu(tmp_path: Path, data: TrainingData, dev: TrainingData) -> None:
    summary = train(CONFIG, data, dev, tmp_path / "net", GPU)
    found = evaluate(load_model(tmp_path / "net"), dev)
    assert found.frame_accuracy == pytest.approx(summary["dev_accuracy"], abs=0.01)
