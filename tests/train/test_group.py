"""Several processes train one network as one process would; they fail, leave and go on together.

Run as a program by torchrun, this file is what the processes do: ``-m tests.train.test_group train FOLDER``.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from asr_kd.cli import main
from asr_kd.config import save_config
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.nets import AcousticModel, NetConfig, load_model, save_model
from asr_kd.targets import Dense, TargetConfig, TargetStore, Teacher, write_targets
from asr_kd.train import Sources, TrainConfig, TrainingData, train
from asr_kd.train.group import ALONE, Group, _final_error, joined
from asr_kd.train.interrupt import interruption
from asr_kd.train.objective import HardTargets, _mixed
from asr_kd.train.reader import Batch, Layout, RankPart, Reader
from asr_kd.train.step_metrics import predictions
from tests.train.conftest import BINS, CONFIG, STATES, MakeData, speech, write_features, write_states

LENGTHS = [50, 33, 7, 71] * 3
CHUNKS = dataclasses.replace(
    CONFIG,
    net=NetConfig(kind="tdnn", width=16, bottleneck=8, dilations=(1, 3)),
    chunk=10,
    batch_frames=30,
    epochs=2,
    pool_frames=300,
)
CASES = {
    "labels": dataclasses.replace(CONFIG, label_smoothing=0.1),
    "targets, uneven shares": CHUNKS,
    "live teacher, an empty part": dataclasses.replace(CHUNKS, batch_frames=10, net=CONFIG.net),
}
LONG = dataclasses.replace(CONFIG, epochs=15, checkpoint_steps=5)  # long enough to be caught in the middle


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features and states to learn from and for dev, a random teacher, and its soft targets."""
    folder = tmp_path_factory.mktemp("stores")
    for name, lengths, seed in (("train", LENGTHS, 0), ("dev", [50] * 4, 1)):
        features, states = speech(lengths, seed)
        write_features(folder / name / "feats", features)
        write_states(folder / name / "states", states)
    torch.manual_seed(5)
    net = dataclasses.replace(CONFIG.net, bins=BINS, states=STATES, left_context=5)
    save_model(AcousticModel(net), folder / "teacher")
    config = TargetConfig("topk", 3, (2.0,))
    write_targets(Teacher(folder / "teacher", FrameStore(folder / "train" / "feats")), folder / "targets", config)
    return folder


def learn(case: str, stores: Path, out: Path) -> None:
    """Train as ``CASES`` says, alone or as one of several processes."""
    targets = TargetStore(stores / "targets") if case.startswith("targets") else None
    feats, states = (FrameStore(stores / "train" / name) for name in ("feats", "states"))
    dev = TrainingData(FrameStore(stores / "dev" / "feats"), FrameStore(stores / "dev" / "states"))
    teacher = stores / "teacher" if case.startswith("live") else None
    train(CASES[case], TrainingData(feats, states, None, targets), dev, out, sources=Sources(teacher))


def options(stores: Path, out: Path, config: TrainConfig = LONG) -> list[str]:
    """Of ``asr-kd train``, on labels."""
    save_config(config, out.parent / "conf.yaml")
    words = [f"--{dev}{name}={stores / folder / name}" for dev, folder in DATA.items() for name in ("feats", "states")]
    return ["train", *words, f"--out={out}", "--config", str(out.parent / "conf.yaml"), "--device=cpu"]


DATA = {"": "train", "dev-": "dev"}


def torchrun(*words: str | Path) -> subprocess.Popen[str]:
    """Two processes of a module."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", *words]
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def said(errors: str) -> list[str]:
    """What is not torchrun's own among the lines on standard error."""
    return [line for line in errors.splitlines() if line.startswith("asr-kd")]


def assert_same(found: Path, wanted: Path) -> None:
    """The curves and the weights of two folders, to about 1e-4."""
    curves, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (found, wanted)
    )
    assert len(curves) == len(expected)
    for entry, other in zip(curves, expected, strict=True):
        assert entry == pytest.approx(other, rel=1e-4)
    torch.testing.assert_close(load_model(found).state_dict(), load_model(wanted).state_dict(), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def together(stores: Path) -> Path:
    """The folder in which two processes trained a network for each of ``CASES``."""
    process = torchrun("tests.train.test_group", "train", stores)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert errors.count("epoch 1: ") == len(CASES)  # not of each process
    return stores / "together"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_curves_and_weights_of_one(
    case: str, stores: Path, together: Path, tmp_path: Path
) -> None:
    learn(case, stores, tmp_path)
    assert_same(together / case, tmp_path)


@pytest.mark.slow
def test_killed_and_interrupted_in_one_process_all_end_and_go_on(stores: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "together", options(stores, tmp_path / "together")
    path, before = out / "checkpoint.safetensors", 0
    for number, message in (
        (signal.SIGKILL, "died without an error message"),
        (signal.SIGTERM, "interrupted; run the same"),
    ):
        process = torchrun("asr_kd", *words)
        while not path.exists() or path.stat().st_mtime_ns == before:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        os.kill(workers(process)[1], number)
        errors = process.communicate()[1]
        assert process.returncode != 0
        assert len(said(errors)) == 1, errors
        assert message in said(errors)[0]
        assert not (out / "summary.json").exists()
        before = path.stat().st_mtime_ns
    assert torchrun("asr_kd", *words).wait() == 0
    assert main(options(stores, tmp_path / "alone")) == 0
    assert_same(out, tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["all", "one"])
def test_an_error_in_all_processes_or_in_one_ends_all_with_one_line(where: str, stores: Path, tmp_path: Path) -> None:
    words = options(stores, tmp_path / "out")
    if where == "all":
        process = torchrun("asr_kd", *words, "--set", "net.states=3")
    else:
        process = torchrun("tests.train.test_group", "fail", *words)
    errors = process.communicate()[1]
    assert process.returncode != 0
    message = "but the network has 3 outputs" if where == "all" else "the disk of process 1 is full"
    assert len(said(errors)) == 1, errors
    assert said(errors)[0].startswith("asr-kd train: error: ")
    assert message in said(errors)[0]


def test_without_torchrun_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(distributed, "init_process_group", None)
    monkeypatch.setattr(distributed, "rendezvous", None)
    monkeypatch.setattr(distributed, "all_reduce", None)
    with joined() as group:
        assert group is ALONE
        assert group.leads
        assert group.sum(1.5, 2) == [1.5, 2]
        assert group.of_first("this") == "this"
        assert not group.any(False)


def test_half_of_torchrun_s_environment_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is 2, but MASTER_ADDR is not set; start with torchrun"), joined():
        pass


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    pair = Group(3, 4)
    assert pair.device(torch.device("cuda")) == torch.device("cuda:1")
    assert chosen == [1]
    assert pair.device(torch.device("cpu")) == torch.device("cpu")
    assert ALONE.device(torch.device("cuda:5")) == torch.device("cuda:5")
    with pytest.raises(UserError, match="--device cuda:1: each of 4 ranks takes its own GPU"):
        pair.device(torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="no GPU for local rank 1; this machine has 1"):
        pair.device(torch.device("cuda"))


def test_only_the_first_to_fail_speaks() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    store, other = distributed.HashStore(), distributed.HashStore()
    error = UserError("features.pt: is a folder")
    assert _final_error(error, store) is error
    for late, status in ((lost, 1), (error, 1), (KeyboardInterrupt(), 130)):
        leaving = _final_error(late, store)
        assert isinstance(leaving, SystemExit)
        assert leaving.code == status
    missing = _final_error(lost, other)
    assert isinstance(missing, UserError)
    assert "died without an error message" in str(missing)


def test_two_signals_wait_for_the_others_too() -> None:
    with interruption(insist=False) as interrupted:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()


@pytest.mark.parametrize("world", [2, 3, 7])
def test_the_shares_of_a_batch_make_up_the_whole(make_data: MakeData, world: int) -> None:
    data = make_data(LENGTHS)
    alone, *shared = (
        list(Reader(data, CHUNKS, 5, 5, 10, torch.device("cpu"), group).epoch(0))
        for group in (ALONE, *(Group(rank, world) for rank in range(world)))
    )
    for whole, *shares in zip(alone, *shared, strict=True):
        for name in ("features", "labels", "valid"):
            assert torch.equal(torch.cat([getattr(batch, name) for batch in shares]), getattr(whole, name))
        valid = int(whole.valid.sum())
        assert whole.part == RankPart(0, valid, 1.0, 1.0)
        for batch in shares:
            part = world * int(batch.valid.sum()) / valid
            assert batch.part == RankPart(batch.part.begin, valid, part, part)
            assert batch.utterances == whole.utterances
        logits = torch.randn(whole.labels.numel(), STATES)
        found = [predictions(logits[: batch.labels.numel()], batch) for batch in shares[:1]]
        done = shares[0].labels.numel()
        for batch in shares[1:]:
            found.append(predictions(logits[done : done + batch.labels.numel()], batch))
            done += batch.labels.numel()
        assert torch.equal(torch.stack(found).sum(0), predictions(logits, whole))
    assert world < 7 or any(not len(batch.labels) for batches in shared for batch in batches)


def pieces(labels: Tensor, valid: Tensor, cuts: list[int]) -> Iterator[tuple[slice, Batch]]:
    """A batch of single outputs in shares that end at ``cuts``, and which rows they are."""
    layout = Layout(["u0"], np.array([9]), 0, 0, 0)
    for begin, end in zip([0, *cuts[:-1]], cuts, strict=True):
        own = slice(begin, end)
        parts = [len(cuts) * float(mask[own].sum() / mask.sum()) for mask in (valid, labels >= 0)]
        part = RankPart(begin, int(valid.sum()), *parts)
        starts = np.arange(len(labels))
        yield own, Batch(torch.zeros(0), labels[own, None], valid[own, None], {}, 1.0, starts, layout, part)


@pytest.mark.parametrize("kind", ["labels", "distribution", "logits"])
def test_the_mean_of_the_shares_objectives_is_that_of_the_batch(kind: Any) -> None:
    torch.manual_seed(0)
    labels = torch.randint(STATES, (12,))
    valid = torch.arange(12) != 4
    if kind != "labels":
        labels[:7] = -1  # the first part has no label, the second few
    labels[~valid] = -1
    logits, teacher = torch.randn(12, STATES, requires_grad=True), torch.randn(12, STATES).log_softmax(-1)
    config = dataclasses.replace(CONFIG, hard_weight=0.5, match="logits" if kind == "logits" else "distribution")

    def mean(cuts: list[int]) -> tuple[Tensor, Tensor]:
        losses = [
            HardTargets(0.1)(logits[own], batch)
            if kind == "labels"
            else _mixed(logits[own], Dense(teacher[own]), batch, config)
            for own, batch in pieces(labels, valid, cuts)
        ]
        loss = torch.stack(losses).mean()
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    torch.testing.assert_close(mean([3, 3, 8, 12]), mean([12]))


def _fail_in_process_1() -> None:
    real = HardTargets.__call__
    calls: list[int] = []

    def fail(self: HardTargets, logits: Tensor, batch: Batch) -> Tensor:
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == 7:
            raise UserError("the disk of process 1 is full")
        return real(self, logits, batch)

    HardTargets.__call__ = fail  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] == "fail":
        _fail_in_process_1()
        sys.exit(main(sys.argv[2:]))
    with joined():
        for name in CASES:
            learn(name, Path(sys.argv[2]), Path(sys.argv[2]) / "together" / name)
