"""Training: it learns, repeats itself bit for bit, survives kills, keeps the best, and stops at what is not finite."""

import dataclasses
import errno
import itertools
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml

from asr_kd.config import save_config
from asr_kd.errors import UserError
from asr_kd.nets import NetConfig, load_model, log_posteriors, settle_precision
from asr_kd.train import Evaluation, Sources, TrainConfig, TrainingData, evaluate, loop, train, transfer_set
from asr_kd.train.checkpoint import Position
from asr_kd.train.loop import out_of_patience
from asr_kd.train.objective import HardTargets
from asr_kd.train.optimiser import learning_rate
from asr_kd.train.step_metrics import StepMetrics
from tests.killing import Commands, Killed
from tests.train.conftest import BINS, CONFIG, STATES, MakeData, speech, without_labels, write_features, write_states

Corpus = tuple[TrainingData, TrainingData]  # to learn from, and dev
MASKED = dataclasses.replace(
    CONFIG, net=dataclasses.replace(CONFIG.net, dropout=0.2), frequency_masks=1, frequency_width=2, checkpoint_steps=5
)


@pytest.fixture
def corpus(make_data: MakeData) -> Corpus:
    return make_data([50] * 12), make_data([50] * 4, seed=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``MASKED`` on ``corpus``, trained without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    sets = []
    for name, number, seed in (("train", 12, 0), ("dev", 4, 1)):
        features, states = speech([50] * number, seed)
        stores = write_features(folder / name / "feats", features), write_states(folder / name / "states", states)
        sets.append(TrainingData(*stores))
    data, dev = sets
    train(MASKED, data, dev, folder / "out")
    return folder / "out"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


TDNN = NetConfig(kind="tdnn", width=16, bottleneck=8, dilations=(1, 3))


@pytest.mark.parametrize("net", [CONFIG.net, TDNN], ids=["dnn", "tdnn"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(tmp_path: Path, corpus: Corpus, net: NetConfig, precision: Any) -> None:
    config = dataclasses.replace(CONFIG, net=net, precision=precision, chunk=1 if net.kind == "dnn" else 10, epochs=6)
    summary = train(config, *corpus, tmp_path)
    assert summary["dev_accuracy"] > 0.62  # chance is 1 in 6
    assert summary["train_accuracy"] > 0.75
    assert summary["dev_cross_entropy"] < 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_it_records_which_precision_auto_was(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, precision="auto", epochs=1)
    train(config, *corpus, tmp_path)
    recorded = yaml.safe_load((tmp_path / "train.yaml").read_text())["precision"]
    assert recorded == settle_precision("auto", "cpu")
    monkeypatch.setattr(transfer_set, "settle_precision", lambda *_: "bf16" if recorded == "fp32" else "fp32")
    with pytest.raises(UserError, match="precision is .* there and .* now"):  # as on another kind of processor
        train(config, *corpus, tmp_path)


def test_evaluation_is_accuracy_and_cross_entropy_of_the_saved_model(tmp_path: Path, corpus: Corpus) -> None:
    summary = train(CONFIG, *corpus, tmp_path)
    model, dev = load_model(tmp_path), corpus[1]
    posteriors = np.concatenate([log_posteriors(model, dev.read(u).features) for u in dev.utterances])
    states = np.concatenate([dev.read(u).states for u in dev.utterances]).astype(int)
    found = evaluate(model, dev)
    assert found.frame_accuracy == pytest.approx((posteriors.argmax(1) == states).mean())
    assert found.cross_entropy == pytest.approx(-posteriors[np.arange(len(states)), states].mean(), rel=1e-5)
    assert summary["dev_accuracy"] == found.frame_accuracy
    assert found.frames == 200


def test_the_model_holds_the_training_data_s_priors_and_standardisation(tmp_path: Path, corpus: Corpus) -> None:
    train(CONFIG, *corpus, tmp_path)
    model, statistics = load_model(tmp_path), corpus[0].statistics(STATES)
    assert np.array_equal(model.log_prior.numpy(), statistics.log_prior)
    assert np.array_equal(model.mean.numpy(), statistics.mean)
    assert model.config.bins == BINS


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path: Path, corpus: Corpus, whole: Path) -> None:
    for name, seed in (("same", MASKED.seed), ("other", MASKED.seed + 1)):
        train(dataclasses.replace(MASKED, seed=seed), *corpus, tmp_path / name)
    assert weights(tmp_path / "same") == weights(whole)
    assert weights(tmp_path / "other") != weights(whole)


@pytest.mark.parametrize("step", [0, 3, 5, 18, 19, 20, 37, 50])
def test_killed_at_any_step_it_ends_with_the_same_weights(
    tmp_path: Path, corpus: Corpus, whole: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.training_step

    def die(*arguments: Any) -> None:
        if arguments[-1].step == step:
            raise Killed
        real(*arguments)

    monkeypatch.setattr(loop, "training_step", die)
    with pytest.raises(Killed):
        train(MASKED, *corpus, tmp_path / "killed")
    monkeypatch.setattr(loop, "training_step", real)
    train(MASKED, *corpus, tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(whole)
    for name in ("metrics.jsonl", "train.yaml"):
        assert (tmp_path / "killed" / name).read_text() == (whole / name).read_text()


def test_the_seconds_of_a_run_that_was_interrupted_are_those_of_all_its_steps(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()  # each look at it is a second later: one for each step
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    real = loop.training_step

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        if arguments[-1].step == 8:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, *corpus, tmp_path)
    assert train(CONFIG, *corpus, tmp_path)["seconds"] == 3 * 19  # epochs of 600 frames in batches of 32


@pytest.mark.parametrize("write", [1, 6])
def test_a_full_disk_at_any_write_is_a_clear_error_and_the_rerun_ends_with_the_same_weights(
    tmp_path: Path, corpus: Corpus, whole: Path, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.fsync, []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"full/.*: the disk is full .* free some space"):
            train(MASKED, *corpus, tmp_path / "full")
    assert not (tmp_path / "full" / "summary.json").exists()
    assert not list((tmp_path / "full").glob(".*"))
    train(MASKED, *corpus, tmp_path / "full")
    assert weights(tmp_path / "full") == weights(whole)


def test_a_process_that_was_killed_and_interrupted_ends_with_the_same_weights(
    tmp_path: Path, corpus: Corpus, whole: Path
) -> None:
    torch.set_num_threads(1)
    data, dev = corpus
    assert data.states is not None
    assert dev.states is not None
    save_config(MASKED, tmp_path / "conf.yaml")
    folder, paths = tmp_path / "killed", (data.features.path, data.states.path, dev.features.path, dev.states.path)
    stores = [
        f"--{name}={path}" for name, path in zip(("feats", "states", "dev-feats", "dev-states"), paths, strict=True)
    ]
    words = ["train", *stores, "--config", f"{tmp_path}/conf.yaml", "--out", f"{folder}", "--device=cpu", "--threads=1"]
    with Commands("asr_kd.train.loop") as commands:
        for number, expected in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
            status, errors = commands.end(number, 13, "asr_kd.train.loop.training_step", words, tmp_path / "log")
            assert status == expected, errors
            assert (folder / "checkpoint.safetensors").exists()
            assert not (folder / "summary.json").exists()
    assert "resuming from epoch" in errors
    assert "run the same command again" in errors
    train(MASKED, *corpus, folder)
    assert weights(folder) == weights(whole)


def test_weights_into_hidden_units_stay_within_their_norm(tmp_path: Path, corpus: Corpus) -> None:
    norms = {}
    for limit in (0.0, 0.3):
        train(dataclasses.replace(CONFIG, max_norm=limit), *corpus, tmp_path / f"{limit}")
        network = load_model(tmp_path / f"{limit}").network
        hidden = [parameter.norm(dim=1) for parameter in network.hidden.parameters() if parameter.ndim > 1]
        norms[limit] = torch.cat(hidden).max().item(), network.output.weight.norm(dim=1).max().item()
    assert norms[0.0][0] > 0.5
    assert 0.29 < norms[0.3][0] < 0.3001
    assert norms[0.3][1] > 0.31  # the output is free


def test_pixels_are_standardised_as_one(tmp_path: Path, corpus: Corpus) -> None:
    train(dataclasses.replace(CONFIG, standardise="whole", epochs=1), *corpus, tmp_path)
    model, data = load_model(tmp_path), corpus[0]
    frames = np.concatenate([data.read(utterance).features for utterance in data.utterances])
    np.testing.assert_allclose(model.mean, np.full(BINS, frames.mean()), rtol=1e-4)
    np.testing.assert_allclose(model.std, np.full(BINS, frames.std()), rtol=1e-4)


def test_a_network_begins_with_the_weights_of_another(tmp_path: Path, corpus: Corpus) -> None:
    train(CONFIG, *corpus, tmp_path / "first")
    still = dataclasses.replace(CONFIG, seed=5, epochs=1, learning_rate=1e-12)
    train(still, *corpus, tmp_path / "second", sources=Sources(begin=tmp_path / "first"))
    first, second = (load_model(tmp_path / name).network.state_dict() for name in ("first", "second"))
    weights = [name for name in first if name.endswith(("weight", "bias"))]  # running statistics move on
    torch.testing.assert_close({name: second[name] for name in weights}, {name: first[name] for name in weights})
    with pytest.raises(UserError, match=r"begin is .* and None now"):
        train(still, *corpus, tmp_path / "second")
    wide = dataclasses.replace(CONFIG, net=dataclasses.replace(CONFIG.net, width=17))
    message = r"first: network.hidden.0.0.weight is \(16, 20\) here but \(17, 20\) .*first/config.yaml \(--config"
    with pytest.raises(UserError, match=message):
        train(wide, *corpus, tmp_path / "third", sources=Sources(begin=tmp_path / "first"))


def test_the_best_epoch_is_kept_and_patience_ends_training(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0, 0.3, 0, 0.5, 0, 0.4, 0, 0.5, 0, 0.6])  # the sample's, dev's, the sample's, ...
    monkeypatch.setattr(loop, "evaluate", lambda *_: Evaluation(next(accuracies), 1.0, 1))
    save = Mock(wraps=loop.save_model)
    monkeypatch.setattr(loop, "save_model", save)
    summary = train(dataclasses.replace(CONFIG, epochs=9, patience=2), *corpus, tmp_path)
    assert summary["epoch"] == 2
    assert summary["epochs"] == 4
    assert save.call_count == 2


def test_patience_counts_evaluations_since_the_best() -> None:
    def position(*accuracies: float) -> Position:
        return Position(history=[{"dev_accuracy": accuracy} for accuracy in accuracies])

    patient = dataclasses.replace(CONFIG, patience=2)
    assert not out_of_patience(position(), patient)
    assert not out_of_patience(position(0.1, 0.3, 0.2), patient)
    assert out_of_patience(position(0.1, 0.3, 0.2, 0.3), patient)
    assert not out_of_patience(position(0.5, 0.1, 0.1, 0.1), CONFIG)


def test_the_gpu_that_is_used_is_the_one_that_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = Mock(), Mock()
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    loop.seed_draws(7, torch.device("cuda:1"))
    generators[0].manual_seed.assert_not_called()
    generators[1].manual_seed.assert_called_once_with(7)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(decay: Any) -> None:
    config = dataclasses.replace(CONFIG, warmup=0.1, decay=decay, learning_rate=2.0)
    assert learning_rate(0.05, config) == pytest.approx(1.0)
    assert learning_rate(0.1, config) == pytest.approx(2.0)
    assert learning_rate(0.55, config) == pytest.approx(1.0)
    assert learning_rate(1.0, config) == pytest.approx(0.0)


def read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the numbers of many steps at once, as on a GPU."""
    monkeypatch.setattr(loop, "StepMetrics", lambda group, _: StepMetrics(group, torch.device("meta")))


def test_numbers_that_are_read_together_are_those_of_each_step(
    tmp_path: Path, corpus: Corpus, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_together(monkeypatch)
    train(MASKED, *corpus, tmp_path / "together")
    assert weights(tmp_path / "together") == weights(whole)
    assert (tmp_path / "together" / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.parametrize("together", [False, True])
def test_a_loss_that_is_not_finite_is_named_and_overwrites_nothing(
    tmp_path: Path, corpus: Corpus, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if together:
        read_together(monkeypatch)
    real = HardTargets.__call__
    calls: list[int] = []

    def poison(self: Any, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        calls.append(1)
        return real(self, logits, batch) * (float("nan") if len(calls) == 24 else 1)

    monkeypatch.setattr(HardTargets, "__call__", poison)
    with pytest.raises(UserError, match=r"not finite .* at step 23, epoch 2, in a batch from u\d+"):
        train(MASKED, *corpus, tmp_path)
    checkpoint, model = (tmp_path / "checkpoint.safetensors").read_bytes(), weights(tmp_path)
    assert b"nan" not in (tmp_path / "metrics.jsonl").read_bytes().lower()
    monkeypatch.setattr(HardTargets, "__call__", real)
    assert all(torch.isfinite(tensor).all() for tensor in load_model(tmp_path).state_dict().values())
    assert weights(tmp_path) == model
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == checkpoint


def test_a_folder_of_another_configuration_is_refused_by_key(tmp_path: Path, corpus: Corpus) -> None:
    train(CONFIG, *corpus, tmp_path)
    other = dataclasses.replace(CONFIG, learning_rate=0.1, net=dataclasses.replace(CONFIG.net, width=8))
    with pytest.raises(UserError, match=r"learning_rate is 0.005 there and 0.1 now; net.width is 16 there and 8 now"):
        train(other, *corpus, tmp_path)


def test_a_failed_first_attempt_does_not_claim_the_folder(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(UserError, match="chunk .1. must be a multiple of every .3.; give --set chunk=NUMBER"):
        train(dataclasses.replace(CONFIG, every=3), *corpus, tmp_path)
    assert train(CONFIG, *corpus, tmp_path)["epochs"] == 3


def test_a_model_from_elsewhere_is_not_overwritten(tmp_path: Path, corpus: Corpus) -> None:
    train(CONFIG, *corpus, tmp_path)
    (tmp_path / "train.yaml").unlink()
    with pytest.raises(UserError, match="a network without train.yaml"):
        train(CONFIG, *corpus, tmp_path)


def test_a_folder_of_other_data_is_refused(tmp_path: Path, corpus: Corpus, make_data: MakeData) -> None:
    train(CONFIG, *corpus, tmp_path)
    with pytest.raises(UserError, match="train.features"):
        train(CONFIG, make_data([50] * 12, seed=3), corpus[1], tmp_path)


def test_a_finished_run_is_not_repeated(tmp_path: Path, corpus: Corpus) -> None:
    summary = train(CONFIG, *corpus, tmp_path)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train(CONFIG, *corpus, tmp_path) == summary == json.loads((tmp_path / "summary.json").read_text())
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "out_of_patience", lambda position, _: position.epoch == 1)
    monkeypatch.setattr(loop.RunFolder, "finish", lambda *_: None)
    train(CONFIG, *corpus, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a checkpoint of this training run"):
        train(CONFIG, *corpus, tmp_path)


FEATURES, LABELS = speech([50] * 4, seed=1)
OTHER_DEV = {
    "width": (
        dict.fromkeys(FEATURES, np.zeros((50, BINS + 1), np.float32)),
        LABELS,
        STATES,
        "feats: 5 fbank coefficients per frame; the",
    ),
    "larger": (FEATURES, LABELS, STATES + 3, "states: labels of 9 states, but the network has 6 outputs"),
    "smaller": (FEATURES, LABELS, STATES - 1, "states: labels of 5 states, but the network has 6 outputs"),
    "unknown": (FEATURES, {**LABELS, "u2": LABELS["u2"] + STATES}, 0, r"u2 has state \d+, but the network has 6"),
    "none": (FEATURES, without_labels(LABELS), STATES, "states: no frame of 4 utterances has a label to compare with"),
}


@pytest.mark.parametrize("case", OTHER_DEV)
def test_dev_data_that_do_not_fit_the_network_are_refused_before_the_first_step(
    tmp_path: Path, corpus: Corpus, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "training_step", lambda *_: pytest.fail("a step was made"))
    features, labels, states, message = OTHER_DEV[case]
    bins = next(iter(features.values())).shape[1]
    dev = TrainingData(
        write_features(tmp_path / "feats", features, bins), write_states(tmp_path / "states", labels, states)
    )
    with pytest.raises(UserError, match=message):
        train(CONFIG, corpus[0], dev, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sparse_labels_are_found_by_the_sample_that_is_evaluated(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAMPLE_FRAMES", 50)
    data, dev = corpus
    assert data.states is not None
    drawn = data.sample(50, CONFIG.seed).utterances
    labelled = next(utterance for utterance in data.utterances if utterance not in drawn)
    labels = {utterance: data.states.read(utterance)["state"] for utterance in data.utterances}
    rest = [utterance for utterance in labels if utterance != labelled]
    sparse = TrainingData(data.features, write_states(tmp_path / "sparse", without_labels(labels, *rest)))
    config = dataclasses.replace(CONFIG, epochs=1)
    own = TrainingData(data.features, data.states, [labelled])
    assert (
        train(config, sparse, dev, tmp_path / "out")["train_accuracy"]
        == evaluate(load_model(tmp_path / "out"), own).frame_accuracy
    )


def test_features_of_another_width_than_configured_are_refused(tmp_path: Path, corpus: Corpus) -> None:
    config = dataclasses.replace(CONFIG, net=dataclasses.replace(CONFIG.net, bins=40))
    with pytest.raises(UserError, match=r"net.bins is 40, but .* has 4 coefficients per frame"):
        train(config, *corpus, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", 0), ("learning_rate", 0.0), ("betas", (0.9,)), ("warmup", 1.0), ("chunk", 0), ("patience", -1)],
)
def test_a_configuration_out_of_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        dataclasses.replace(TrainConfig(), **{key: value})
