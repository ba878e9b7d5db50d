"""A specialist's labels, its first network, and its correction; the command from clusters to a joint ensemble."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.nets import AcousticModel, Ensemble, load_model, log_posteriors, open_model, save_model
from asr_kd.specialists import KEPT, begin_specialist, correct_dustbin, correct_own, write_labels
from asr_kd.train import TrainingData, evaluate, train
from tests.train.conftest import BINS, CONFIG, NET, STATES, speech, write_features, write_states

OWN = np.array([1, 4])


@pytest.fixture
def states(tmp_path: Path) -> FrameStore:
    return write_states(tmp_path / "states", speech([400] * 5)[1])


def labels(store: FrameStore) -> np.ndarray:
    return np.concatenate([store.read(utterance)["state"] for utterance in store.utterances])


def test_own_states_keep_their_frames_and_others_as_many_in_the_dustbin(states: FrameStore, tmp_path: Path) -> None:
    told, found = labels(states), labels(store := write_labels(states, OWN, tmp_path / "out"))
    assert np.array_equal(np.flatnonzero(found == 0), np.flatnonzero(told == 1))
    assert np.array_equal(np.flatnonzero(found == 1), np.flatnonzero(told == 4))
    own = np.isin(told, OWN).sum()
    assert (found == 2).sum() == pytest.approx(own, rel=0.15)
    assert store.config[KEPT] == pytest.approx(own / (len(told) - own))
    assert store.config["num_states"] == 3
    again = labels(write_labels(states, OWN, tmp_path / "again", seed=1))
    assert not np.array_equal(found, again)  # other frames of the others
    every = labels(write_labels(states, OWN, tmp_path / "every", balanced=False))
    assert np.array_equal(every == 2, ~np.isin(told, OWN))


def test_a_whole_specialist_has_no_labels_but_its_own(states: FrameStore, tmp_path: Path) -> None:
    told, store = labels(states), write_labels(states, OWN, tmp_path / "out", whole=True)
    assert np.array_equal(labels(store), np.where(np.isin(told, OWN), told.astype(int), -1))
    assert (store.config["num_states"], store.config[KEPT], store.config["own"]) == (STATES, 1.0, OWN.tolist())


def test_states_without_a_frame_are_left_to_the_generalist(tmp_path: Path) -> None:
    store = write_states(tmp_path / "few", {"u": np.array([0, 1, 2, 0, 2], np.uint16)})
    for whole in (False, True):
        told = write_labels(store, np.array([1, 2, 4]), tmp_path / f"out{whole}", whole=whole)
        assert told.config["own"] == [1, 2]
    dev = write_labels(store, np.array([1, 4]), tmp_path / "dev", balanced=False)  # judged on what it was trained for
    assert dev.config["own"] == [1, 4]
    with pytest.raises(UserError, match=r"frames of 1 of the specialist's 2 states \(\[1, 4\]\); expected at least 2"):
        write_labels(store, OWN, tmp_path / "out")
    with pytest.raises(UserError, match=r"states \[1, 6\] of a specialist; .* has states 0 to 5"):
        write_labels(store, np.array([1, 6]), tmp_path / "out")


def generalist() -> AcousticModel:
    torch.manual_seed(3)
    model = AcousticModel(dataclasses.replace(NET, bins=BINS, states=STATES)).eval()
    model.log_prior.copy_(torch.randn(STATES).log_softmax(0))
    return model


def test_it_begins_as_the_generalist() -> None:
    whole, part = generalist(), begin_specialist(generalist(), OWN)
    features = torch.randn(1, 9, BINS)
    torch.testing.assert_close(part(features)[..., :2], whole(features)[..., OWN])
    assert float(part.log_prior.exp().sum()) == pytest.approx(1)
    whole.network.output.weight.data[:] = whole.network.output.weight.data[:1].clone()
    whole.network.output.bias.data[:] = 0.5  # all logits are equal
    even = begin_specialist(whole, OWN)(features).softmax(-1)
    torch.testing.assert_close(even[..., 2], torch.full_like(even[..., 2], 4 / 6))
    with pytest.raises(UserError, match="6 states of a network of 6: nothing is left"):
        begin_specialist(generalist(), np.arange(6))


def test_the_dustbin_counts_as_often_as_its_frames_are() -> None:
    model = begin_specialist(generalist(), OWN)
    features = torch.randn(1, 9, BINS)
    before = model(features).log_softmax(-1)
    correct_dustbin(model, 0.25)
    after = model(features).log_softmax(-1)
    odds = (after[..., 2] - after[..., 0]) - (before[..., 2] - before[..., 0])
    torch.testing.assert_close(odds, torch.full_like(odds, float(np.log(4))))


def test_labels_of_own_states_do_not_count_twice() -> None:
    """The optimum of labels on own frames and soft targets on all, for one x, is put right exactly."""
    belief = torch.tensor([0.1, 0.15, 0.2, 0.3, 0.15, 0.1])  # pi = 0.15 + 0.15 of OWN; their labels are as believed
    for hard, soft in ((1.0, 1.0), (0.5, 2.0)):
        wanted = soft * belief
        wanted[OWN] += hard * belief[OWN]
        model = generalist()
        model.network.output.weight.data.zero_()
        model.network.output.bias.data.copy_((wanted / wanted.sum()).log())
        correct_own(model, OWN, hard, soft)
        found = model(torch.randn(1, 9, BINS)).softmax(-1)
        torch.testing.assert_close(found, belief.expand_as(found))


@pytest.mark.parametrize("whole", [False, True])
def test_from_clusters_to_an_ensemble_that_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    stores = {}
    for name, seed in (("train", 0), ("dev", 1)):
        features, states = speech([100] * 8, seed)
        stores[name] = write_features(tmp_path / name / "feats", features), write_states(tmp_path / name / "st", states)
    data, dev = (TrainingData(*stores[name]) for name in ("train", "dev"))
    config = dataclasses.replace(CONFIG, epochs=2)
    train(config, data, dev, tmp_path / "g")
    at = {name: str(tmp_path / name) for name in ("g", "clusters", "joint")}
    given = ["--clusters", at["clusters"], "--network", at["g"]]
    command = ["specialists", "cluster", at["clusters"], "--network", at["g"], "--feats", f"{tmp_path}/train/feats"]
    assert main([*command, "--k", "2"]) == 0
    assert (tmp_path / "clusters" / "states.tsv").read_text().count("\n") == 1 + STATES
    folders = []
    for number in ("0", "1"):
        folder = tmp_path / "special" / number
        command = ["specialists", "prepare", str(folder), *given, "--number", number, *(["--whole"] if whole else [])]
        assert main([*command, "--states", f"{tmp_path}/train/st", "--dev-states", f"{tmp_path}/dev/st"]) == 0
        own = TrainingData(stores["train"][0], FrameStore(folder / "states"))
        if whole:
            lesson = dataclasses.replace(config, temperature=1.0, hard_weight=1.0)
            train(lesson, own, dev, folder / "net", teacher=tmp_path / "g", begin=tmp_path / "g")
        else:
            heard = TrainingData(stores["dev"][0], FrameStore(folder / "dev"))
            train(config, own, heard, folder / "net", begin=folder / "begin")
        folders.append(str(folder))
    assert main(["specialists", "join", at["joint"], *folders, *given]) == 0
    assert "a generalist and 2 specialists" in capsys.readouterr().out
    joint = open_model(at["joint"])
    assert isinstance(joint, Ensemble)
    believed = np.exp(log_posteriors(joint, data.read("u0").features))
    np.testing.assert_allclose(believed.sum(1), 1, atol=1e-4)
    assert evaluate(joint, dev).frame_accuracy > evaluate(load_model(at["g"]), dev).frame_accuracy - 0.02
    command = ["specialists", "join", f"{tmp_path}/half", folders[0], *given]
    assert main(command) == 0
    (tmp_path / "special" / "0" / "states").rename(tmp_path / "kept")
    write_labels(stores["train"][1], np.array(joint.own[0]), tmp_path / "special" / "0" / "states", whole=not whole)
    assert main([*command[:3], *folders, *given]) == 1
    assert "some were prepared with --whole and some without" in capsys.readouterr().err


def test_clusters_of_another_network_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("g", 8), ("other", 9)):
        torch.manual_seed(seed)
        save_model(AcousticModel(dataclasses.replace(NET, bins=BINS, states=STATES)), tmp_path / name)
    feats = write_features(tmp_path / "feats", speech([100] * 8)[0])
    command = ["specialists", "cluster", f"{tmp_path}/clusters", "--network", f"{tmp_path}/g"]
    assert main([*command, "--feats", str(feats.path), "--k", "2"]) == 0
    given = ["--clusters", f"{tmp_path}/clusters", "--network", f"{tmp_path}/other", "--number", "0"]
    assert main(["specialists", "prepare", f"{tmp_path}/s", *given, "--states", "x", "--dev-states", "x"]) == 1
    assert "clusters of what another network than" in capsys.readouterr().err
