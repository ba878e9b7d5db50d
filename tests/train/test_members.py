"""Members of an ensemble: what training each alone gives, whatever ends them; their folders, results and mistakes."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from asr_kd.cli import main
from asr_kd.cli import train as verb
from asr_kd.config import load_config, save_config
from asr_kd.errors import UserError
from asr_kd.frames import StoreContent, TensorSpec, write_arrays
from asr_kd.nets import EnsembleConfig, NetConfig, model_hash, open_model, save_ensemble
from asr_kd.progress import Progress, labelled
from asr_kd.train import TrainConfig, TrainingData, evaluate, train
from asr_kd.train.members import member_configs
from tests.train.conftest import CONFIG, STATES, MakeData, write_states

DROPOUT = dataclasses.replace(CONFIG, net=dataclasses.replace(CONFIG.net, dropout=0.2), frequency_masks=1)
TDNN = dataclasses.replace(CONFIG, net=NetConfig(kind="tdnn", width=16, bottleneck=8, dilations=(1, 3)), chunk=10)
LONG = dataclasses.replace(DROPOUT, batch_frames=2, epochs=8, checkpoint_steps=10**6)  # some seconds
Corpus = tuple[TrainingData, TrainingData]  # to learn from, and dev


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def corpus(make_data: MakeData) -> Corpus:
    return make_data([50] * 10), make_data([50] * 4, seed=1)


def command(corpus: Corpus, folder: Path, *configs: TrainConfig, labels: bool = True) -> list[str]:
    """``asr-kd train`` of ``configs``, written without their seeds, into ``folder/exp``."""
    data, dev = corpus
    assert data.states is not None
    assert dev.states is not None
    words = ["train", "--feats", str(data.features.path), *(["--states", str(data.states.path)] if labels else [])]
    words += ["--dev-feats", str(dev.features.path), "--dev-states", str(dev.states.path), "--device", "cpu"]
    for number, config in enumerate(configs):
        path = folder / f"conf{number}.yaml"
        save_config(config, path)
        path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("seed:")))
        words += ["--config", str(path)]
    return [*words, "--out", str(folder / "exp")]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def alone(config: TrainConfig, seed: int, corpus: Corpus, folder: Path) -> bytes:
    """The weights of a network that is trained in this process."""
    train(dataclasses.replace(config, seed=seed), *corpus, folder)
    return weights(folder)


@pytest.mark.slow
def test_members_are_what_training_each_alone_gives_however_many_at_once(tmp_path: Path, corpus: Corpus) -> None:
    words = command(corpus, tmp_path, DROPOUT)
    for threads in ("1", "2"):  # each process has one
        out = ["--out", str(tmp_path / threads), "--threads", threads]
        assert main([*words, "--members", "2", *out]) == 0
    torch.set_num_threads(1)
    for seed in (1, 2):
        expected = alone(DROPOUT, seed, corpus, tmp_path / f"alone{seed}")
        record = (tmp_path / f"alone{seed}" / "train.yaml").read_text()
        for threads in ("1", "2"):
            assert weights(tmp_path / threads / f"seed{seed}") == expected
            assert (tmp_path / threads / f"seed{seed}" / "train.yaml").read_text() == record
    assert weights(tmp_path / "1" / "seed1") != weights(tmp_path / "1" / "seed2")


def test_members_of_two_threads_are_what_training_alone_with_two_gives(tmp_path: Path, corpus: Corpus) -> None:
    words = command(corpus, tmp_path, dataclasses.replace(CONFIG, batch_frames=256))
    assert main([*words, "--members", "1", "--threads", "2"]) == 0
    assert main([*words, "--out", str(tmp_path / "alone"), "--seed", "1", "--threads", "2"]) == 0
    assert weights(tmp_path / "exp" / "seed1") == weights(tmp_path / "alone")


def start(words: list[str]) -> "subprocess.Popen[str]":
    """``asr-kd`` as the leader of a group of processes, as a shell starts it."""
    program = [sys.executable, "-m", "asr_kd", *words, "--members", "2", "--threads", "2"]
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_checkpoints(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until both members have a checkpoint from after this call."""
    paths = [folder / f"seed{seed}" / "checkpoint.safetensors" for seed in (1, 2)]
    before = [path.stat().st_mtime_ns if path.exists() else None for path in paths]
    while any(not path.exists() or path.stat().st_mtime_ns == time for path, time in zip(paths, before, strict=True)):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)


def batch(folder: Path) -> int:
    """The batch within an epoch after which the checkpoint was written."""
    with safetensors.safe_open(folder / "checkpoint.safetensors", "pt") as stream:
        return int(json.loads(stream.metadata()["position"])["batch"])


def wait_for_the_end(group: int) -> None:
    for _ in range(3000):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, 0)
            time.sleep(0.01)
            continue
        return
    raise AssertionError("processes are left")


INTERRUPT, KILL_PARENT = (os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGKILL, -signal.SIGKILL)
TERMINATE, KILL_ALL = (os.kill, signal.SIGTERM, 130), (os.killpg, signal.SIGKILL, -signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)  # an idle machine takes 30 s
@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((INTERRUPT, KILL_PARENT, TERMINATE), id="each-saves"),
        pytest.param((KILL_ALL, INTERRUPT, KILL_ALL), id="some-lose-steps", marks=pytest.mark.soak),
    ],
)
def test_interrupted_killed_or_failing_members_resume_and_end_with_the_same_weights(
    tmp_path: Path, corpus: Corpus, ends: tuple[tuple[Any, int, int], ...], capfd: pytest.CaptureFixture[str]
) -> None:
    words = command(corpus, tmp_path, LONG)
    exp = tmp_path / "exp"
    for attempt, way in enumerate(ends):
        process = start(words)
        wait_for_checkpoints(exp, process)
        end, number, status = way
        end(process.pid, number)
        assert process.stderr is not None
        errors = process.stderr.read()  # to the end of the last process
        assert process.wait() == status, errors
        wait_for_the_end(process.pid)
        assert "Traceback" not in errors
        assert not list(exp.glob("*/summary.json"))
        if way != KILL_ALL:  # each wrote a checkpoint in the middle of an epoch
            assert min(batch(exp / "seed1"), batch(exp / "seed2")) > 0
            assert "seed 1, " in errors
        assert errors.count("resuming from epoch") == (2 if attempt else 0)
        if status == 130:
            assert errors.endswith("asr-kd train: interrupted; run the same command again to resume\n")
    checkpoint = exp / "seed2" / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-9])
    assert main([*words, "--members", "2", "--threads", "2"]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"asr-kd train: error: seed 2: {checkpoint}: not a checkpoint of this training run")
    assert not (exp / "ensemble.yaml").exists()
    assert (exp / "seed1" / "checkpoint.safetensors").exists()  # it did not end, but saved its work
    checkpoint.write_bytes(whole)
    assert main([*words, "--members", "2", "--threads", "2"]) == 0
    torch.set_num_threads(1)
    for seed in (1, 2):
        assert weights(exp / f"seed{seed}") == alone(LONG, seed, corpus, tmp_path / f"alone{seed}")
    for line in capfd.readouterr().err.splitlines():
        assert line.startswith(("seed 1, ", "seed 2, ", "epoch", f"{exp}: 2 of 2 members to train, up to 2 at once"))


def test_finished_members_stay_as_they_are_when_there_are_to_be_more(
    tmp_path: Path, corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*command(corpus, tmp_path, CONFIG), "--json"]
    expected = alone(CONFIG, 1, corpus, tmp_path / "exp" / "seed1")
    before = (tmp_path / "exp" / "seed1" / "model.safetensors").stat().st_mtime_ns
    assert main([*words, "--members", "2"]) == 0
    first = capfd.readouterr()
    assert "1 of 2 members to train" in first.err
    assert "seed 1, " not in first.err
    assert weights(tmp_path / "exp" / "seed1") == expected
    assert (tmp_path / "exp" / "seed1" / "model.safetensors").stat().st_mtime_ns == before
    assert main([*words, "--members", "2"]) == 0
    again = capfd.readouterr()
    assert again.err == ""
    assert again.out == first.out


def test_members_whose_precision_is_auto_go_on_with_what_it_was(
    tmp_path: Path, corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*command(corpus, tmp_path, dataclasses.replace(CONFIG, precision="auto", epochs=1)), "--json"]
    expected = alone(dataclasses.replace(CONFIG, precision="auto", epochs=1), 1, corpus, tmp_path / "exp" / "seed1")
    assert main([*words, "--members", "2"]) == 0
    first = capfd.readouterr()
    assert "1 of 2 members to train" in first.err
    assert weights(tmp_path / "exp" / "seed1") == expected
    assert main([*words, "--members", "2"]) == 0
    assert capfd.readouterr().out == first.out


def test_the_result_is_that_of_each_member_and_of_the_ensemble(
    tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = tmp_path / "exp"
    summaries = [train(dataclasses.replace(CONFIG, seed=seed), *corpus, exp / f"seed{seed}") for seed in (1, 2, 3)]
    words = [*command(corpus, tmp_path, CONFIG), "--members", "3", "--mean", "geometric"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    named = [{"folder": str(exp / f"seed{seed}"), "seed": seed} for seed in (1, 2, 3)]
    assert result["members"] == [{**name, **summary} for name, summary in zip(named, summaries, strict=True)]
    found = evaluate(open_model(exp), corpus[1])
    assert result["ensemble"] == {"folder": str(exp), "mean": "geometric", **dataclasses.asdict(found)}
    assert load_config(EnsembleConfig, exp / "ensemble.yaml").mean == "geometric"
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in table[2:]]
    assert [row[0] for row in rows] == [str(exp / f"seed{seed}") for seed in (1, 2, 3)] + [str(exp)]
    assert [row[1] for row in rows[:3]] == [f"{100 * summary['dev_accuracy']:.2f}" for summary in summaries]
    assert [row[2] for row in rows[:3]] == [str(summary["epoch"]) for summary in summaries]
    assert rows[3][1:] == ["(geometric", "mean)", f"{100 * found.frame_accuracy:.2f}"]
    assert len({len(line) for line in table[:5]}) == 1


def test_members_take_the_configurations_in_turn(tmp_path: Path, corpus: Corpus) -> None:
    words = command(corpus, tmp_path, CONFIG, TDNN)
    for config, seed in ((CONFIG, 4), (CONFIG, 6)):  # to save time
        alone(config, seed, corpus, tmp_path / "exp" / f"seed{seed}")
    assert main([*words, "--members", "3", "--seed", "4"]) == 0
    assert weights(tmp_path / "exp" / "seed5") == alone(TDNN, 5, corpus, tmp_path / "alone")
    assert load_config(EnsembleConfig, tmp_path / "exp" / "ensemble.yaml").members == ("seed4", "seed5", "seed6")


@pytest.mark.slow
def test_members_learn_from_a_teacher_or_its_targets_without_labels(tmp_path: Path, corpus: Corpus) -> None:
    alone(CONFIG, 8, corpus, tmp_path / "teacher" / "seed8")
    save_ensemble(tmp_path / "teacher", [tmp_path / "teacher" / "seed8"])
    random = torch.Generator().manual_seed(0)
    log_prob = {u: torch.randn(50, STATES, generator=random).log_softmax(-1).half() for u in corpus[0].utterances}
    arrays = {u: {"log_prob": rows.numpy()} for u, rows in log_prob.items()}
    store = {"form": "dense", "num_states": STATES}
    write_arrays(
        tmp_path / "targets", StoreContent("targets", {"log_prob": TensorSpec("float16", (STATES,))}, store), arrays
    )
    student = dataclasses.replace(CONFIG, epochs=1, hard_weight=0.0)
    words = command(corpus, tmp_path, student, labels=False)
    words += ["--priors", str(tmp_path / "teacher"), "--members", "1"]
    for option in ("teacher", "targets"):
        assert main([*words, f"--{option}", str(tmp_path / option), "--out", str(tmp_path / f"by_{option}")]) == 0
        record = (tmp_path / f"by_{option}" / "seed1" / "train.yaml").read_text()
        assert ("targets: " in record) == (option == "targets")
        assert (f"teacher: {model_hash(tmp_path / 'teacher')}" in record) == (option == "teacher")
        assert "priors: " in record
    assert weights(tmp_path / "by_teacher" / "seed1") != weights(tmp_path / "by_targets" / "seed1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--members", "0"], "0 members"),
        (["--members", "2"], "2 members for 3 configurations"),
        (["--members", "3"], "seed 2 would predict 8 states, but seed 1 predicts 6"),
        (["--members", "3", "--set", "net.states=3"], "but the network has 3 outputs"),
        (["--mean", "arithmetic"], "give --members N too"),
        ([], "give --members N too"),
    ],
)
def test_a_mistake_is_one_line_before_any_training(
    tmp_path: Path, corpus: Corpus, options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(CONFIG, net=dataclasses.replace(CONFIG.net, states=8))
    configs = [CONFIG] if "--mean" in options else [CONFIG, other, TDNN]
    assert main([*command(corpus, tmp_path, *configs), *options]) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("asr-kd train: error: ")
    assert message in error
    assert not list((tmp_path / "exp").rglob("*.safetensors"))


def test_dev_data_of_another_model_are_refused_before_any_training(
    tmp_path: Path, corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    dev = corpus[1]
    assert dev.states is not None
    labels = {utterance: dev.states.read(utterance)["state"] for utterance in dev.utterances}
    other = write_states(tmp_path / "other", labels, STATES + 1)
    words = [*command(corpus, tmp_path, CONFIG), "--members", "2", "--dev-states", str(other.path)]
    assert main(words) == 1
    error = capfd.readouterr().err
    assert f"other: labels of {STATES + 1} states, but the network has {STATES} outputs" in error
    assert "to train, up to" not in error
    assert not (tmp_path / "exp").exists()


def test_members_do_not_go_where_a_network_is_nor_where_another_was_trained(
    tmp_path: Path, corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*command(corpus, tmp_path, CONFIG), "--members", "2"]
    alone(CONFIG, 1, corpus, tmp_path / "network")
    assert main([*words, "--out", str(tmp_path / "network")]) == 1
    assert "network: holds a network; choose another folder" in capfd.readouterr().err
    alone(DROPOUT, 2, corpus, tmp_path / "exp" / "seed2")
    assert main(words) == 1
    error = capfd.readouterr().err
    assert "seed2: was trained with another configuration" in error
    assert "to train, up to" not in error


def test_seeds_count_up_from_the_given_one_the_configuration_s_or_1(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("epochs: 7\n")
    (tmp_path / "five.yaml").write_text("seed: 5\nepochs: 8\n")
    plain, five = tmp_path / "plain.yaml", tmp_path / "five.yaml"

    def seeds(*arguments: list[Path] | list[str]) -> list[int]:
        return [config.seed for config in member_configs(3, *arguments)]  # type: ignore[arg-type]

    assert seeds() == [1, 2, 3]
    assert seeds([plain]) == [1, 2, 3]
    assert seeds([five]) == [5, 6, 7]
    assert seeds([five, plain], ["seed=0"]) == [0, 1, 2]
    assert [config.epochs for config in member_configs(3, [five, plain], ["seed=0"])] == [8, 7, 8]
    assert type(member_configs(1)[0]) is TrainConfig
    with pytest.raises(UserError, match=r"different seeds, 1, 5; give the first one with --seed"):
        seeds([five, plain])


def test_the_printed_configurations_are_the_members(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 7\n")
    configs = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "a.yaml")]
    assert main(["train", "--members", "4", *configs, "--print-config"]) == 0
    first, second = capsys.readouterr().out.split("---\n")
    assert first.replace("seed: 1", "seed: 2") == second


@pytest.mark.parametrize(("name", "expected"), [("auto", ["cuda:0", "cuda:1"]), ("cuda", ["cuda:0", "cuda:1"])])
def test_members_use_every_gpu(name: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert verb._devices("cpu") == [torch.device("cpu")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(device) for device in verb._devices(name)] == expected


def test_lines_of_several_processes_are_whole_and_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        writes: list[str] = []  # noqa: RUF012

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            self.writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Terminal())
    with labelled("seed 2, "), Progress(2000, "epoch 3/8", "frames") as bar:
        bar._start = bar._shown = time.monotonic() - 31
        bar.advance(500)
        print("epoch", 3, file=sys.stderr)
        sys.stderr.write("no end")
    shown, *rest = Terminal.writes
    assert shown.startswith("seed 2, epoch 3/8: 500/2,000 frames")
    assert shown.endswith("left\n")
    assert rest[0] == "seed 2, epoch 3\n"
    assert all(line.startswith("seed 2, ") and line.count("\n") == 1 and "\r" not in line for line in Terminal.writes)
