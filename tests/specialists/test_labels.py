"""A specialist's labels, its first network, and its correction; the command from clusters to a joint ensemble."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, write_arrays
from asr_kd.nets import (
    AcousticModel,
    Ensemble,
    load_model,
    log_posteriors,
    model_hash,
    open_model,
    save_ensemble,
    save_model,
)
from asr_kd.specialists import Specialist, begin_specialist, correct_dustbin, correct_own, own_share, write_labels
from asr_kd.specialists.labels import KEPT, KNOWN
from asr_kd.targets import Dense
from asr_kd.train import Sources, TrainingData, evaluate, train
from asr_kd.train.distillation import distillation_loss
from tests.train.conftest import BINS, CONFIG, NET, STATES, speech, write_features, write_states

OWN = np.array([1, 4])


@pytest.fixture
def states(tmp_path: Path) -> FrameStore:
    return write_states(tmp_path / "states", speech([400] * 5)[1])


def write(
    states: FrameStore, own: np.ndarray, num_states: int, out: Path, balanced: bool = True, **options: Any
) -> FrameStore:
    return write_labels(states, Specialist(own, num_states, **options), out, balanced)


def labels(store: FrameStore) -> np.ndarray:
    return np.concatenate([store.read(utterance)["state"] for utterance in store.utterances])


def test_own_states_keep_their_frames_and_others_as_many_in_the_dustbin(states: FrameStore, tmp_path: Path) -> None:
    before, found = labels(states), labels(store := write(states, OWN, STATES, tmp_path / "out"))
    assert np.array_equal(np.flatnonzero(found == 0), np.flatnonzero(before == 1))
    assert np.array_equal(np.flatnonzero(found == 1), np.flatnonzero(before == 4))
    own = np.isin(before, OWN).sum()
    assert (found == 2).sum() == pytest.approx(own, rel=0.15)
    assert store.config[KEPT] == pytest.approx(own / (len(before) - own))
    assert store.config["num_states"] == 3
    again = labels(write(states, OWN, STATES, tmp_path / "again", seed=1))
    assert not np.array_equal(found, again)  # other frames of the others
    every = labels(write(states, OWN, STATES, tmp_path / "every", balanced=False))
    assert np.array_equal(every == 2, ~np.isin(before, OWN))


def test_a_whole_specialist_has_no_labels_but_its_own(states: FrameStore, tmp_path: Path) -> None:
    before, store = labels(states), write(states, OWN, STATES, tmp_path / "out", whole=True)
    assert np.array_equal(labels(store), np.where(np.isin(before, OWN), before.astype(int), -1))
    assert (store.config["num_states"], store.config[KNOWN], store.config["own"]) == (STATES, 1.0, OWN.tolist())


def as_imported(path: Path, **speech: list[int]) -> FrameStore:
    """A store of states that does not record how many there are."""
    arrays = {utterance: {"state": np.array(states, np.int32)} for utterance, states in speech.items()}
    return write_arrays(path, StoreContent("states", {"state": TensorSpec("int32")}), arrays)


def test_frames_without_a_label_stay_so_and_do_not_count(tmp_path: Path) -> None:
    store = as_imported(tmp_path / "imported", u=[-1, 1, 0, 4, 2, -1, 3, 5])
    part = write(store, OWN, STATES, tmp_path / "part", balanced=False)
    assert (labels(part).tolist(), part.config["num_states"]) == ([-1, 0, 2, 1, 2, -1, 2, 2], 3)
    assert write(store, OWN, STATES, tmp_path / "balanced").config[KEPT] == 2 / 4
    whole = write(store, OWN, STATES, tmp_path / "whole", whole=True)
    assert (labels(whole).tolist(), whole.config["num_states"]) == ([-1, 1, -1, 4, -1, -1, -1, -1], STATES)
    assert own_share(whole) == pytest.approx(2 / 6)


def test_labels_of_other_states_than_the_generalists_are_refused(tmp_path: Path) -> None:
    store = as_imported(tmp_path / "imported", u=[1, 4, 0], v=[1, 6])
    with pytest.raises(UserError, match=r"imported: utterance v has state 6, but the generalist has 6 outputs"):
        write(store, OWN, STATES, tmp_path / "out")
    store = write_states(tmp_path / "seven", speech([20])[1], num_states=7)
    with pytest.raises(UserError, match=r"seven: labels of 7 states, but the generalist has 6 outputs"):
        write(store, OWN, STATES, tmp_path / "out")


def test_states_without_a_frame_are_left_to_the_generalist(tmp_path: Path) -> None:
    store = write_states(tmp_path / "few", {"u": np.array([0, 1, 2, 0, 2], np.uint16)})
    for whole in (False, True):
        before = write(store, np.array([1, 2, 4]), STATES, tmp_path / f"out{whole}", whole=whole)
        assert before.config["own"] == [1, 2]
    dev = write(store, np.array([1, 4]), STATES, tmp_path / "dev", balanced=False)  # judged on what it was trained for
    assert dev.config["own"] == [1, 4]
    with pytest.raises(
        UserError, match=r"only 1 of the specialist's 2 states \(\[1, 4\]\) have frames; expected at least 2"
    ):
        write(store, OWN, STATES, tmp_path / "out")
    with pytest.raises(UserError, match=r"the specialist has states \[1, 6\], but the generalist has states 0 to 5"):
        write(store, np.array([1, 6]), STATES, tmp_path / "out")


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
    with pytest.raises(UserError, match="6 of the generalist's 6 states leaves none"):
        begin_specialist(generalist(), np.arange(6))


def test_the_dustbin_counts_as_often_as_its_frames_are() -> None:
    model = begin_specialist(generalist(), OWN)
    features = torch.randn(1, 9, BINS)
    before = model(features).log_softmax(-1)
    correct_dustbin(model, 0.25)
    after = model(features).log_softmax(-1)
    odds = (after[..., 2] - after[..., 0]) - (before[..., 2] - before[..., 0])
    torch.testing.assert_close(odds, torch.full_like(odds, float(np.log(4))))


BELIEFS = np.array([[1, 28, 2, 4, 3, 2], [30, 1, 3, 2, 2, 2], [4, 6, 10, 4, 14, 2]]) / 40  # of three kinds of frames


def learnt(own_labels: np.ndarray, temperature: float, soft: float, hard: float) -> torch.Tensor:
    """Logits ``[3, states]`` for each kind of frame at the minimum of the objective; there are 40 of each in turn."""
    kind = torch.arange(3).repeat_interleave(40).repeat(len(own_labels) // 120)
    targets, before = Dense(torch.from_numpy(np.log(BELIEFS))[kind]), torch.from_numpy(own_labels).long()
    logits = torch.zeros(3, STATES, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = distillation_loss(logits[kind], targets, before, temperature, soft, hard)
        loss.backward()
        return loss

    search.step(closure)
    return logits.detach()


def corrected(
    tmp_path: Path, temperature: float = 1, soft: float = 1, hard: float = 1, unlabelled: int = 0
) -> torch.Tensor:
    """What a specialist that learnt all there is to learn says of each kind of frame once it is put right.

    Labels are each state as often as the generalist believes; ``unlabelled`` times as many frames have none."""
    before = np.repeat(np.tile(np.arange(STATES), 3), np.round(40 * BELIEFS).astype(int).ravel()).tolist()
    speech = {"u": before, **{f"v{i}": [-1] * len(before) for i in range(unlabelled)}}
    store = write(as_imported(tmp_path / "all", **speech), OWN, STATES, tmp_path / "own", whole=True)
    found = []
    for logits in learnt(labels(store), temperature, soft, hard):
        model = generalist()
        model.network.output.weight.data.zero_()
        model.network.output.bias.data.copy_(logits)
        correct_own(model, OWN, hard, soft, own_share(store))
        found.append(model(torch.randn(1, 5, BINS))[0, 0].detach().softmax(-1))
    return torch.stack(found)


@pytest.mark.parametrize("unlabelled", [0, 2])
@pytest.mark.parametrize(("hard", "soft"), [(1.0, 1.0), (0.5, 2.0)])
def test_what_labels_of_own_states_add_is_put_right(tmp_path: Path, hard: float, soft: float, unlabelled: int) -> None:
    found = corrected(tmp_path, 1, soft, hard, unlabelled)
    torch.testing.assert_close(found, torch.from_numpy(BELIEFS).float(), atol=1e-5, rtol=0)


def test_at_another_temperature_it_cannot_be_put_right(tmp_path: Path) -> None:
    """The odds of own states are wrong by another factor for each kind of frame, so that no other shift would do."""
    found, wanted = corrected(tmp_path, temperature=2), torch.from_numpy(BELIEFS)
    apart = found[:, OWN].sum(1).logit() - wanted[:, OWN].sum(1).logit()
    assert float(apart.max() - apart.min()) > 0.2


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
    given = ["--network", at["g"]]
    command = ["specialists", "cluster", at["clusters"], "--network", at["g"], "--feats", f"{tmp_path}/train/feats"]
    assert main([*command, "--k", "2"]) == 0
    assert (tmp_path / "clusters" / "states.tsv").read_text().count("\n") == 1 + STATES
    folders = []
    for number in ("0", "1"):
        folder = tmp_path / "special" / number
        kind = ["--whole"] if whole else ["--dev-states", f"{tmp_path}/dev/st"]
        command = ["specialists", "prepare", str(folder), "--number", number, "--states", f"{tmp_path}/train/st"]
        assert main([*command, *kind, "--clusters", at["clusters"], "--network", at["g"]]) == 0
        own = TrainingData(stores["train"][0], FrameStore(folder / "states"))
        if whole:
            task = dataclasses.replace(config, temperature=1.0, hard_weight=1.0)
            train(task, own, dev, folder / "net", sources=Sources(tmp_path / "g", begin=tmp_path / "g"))
        else:
            heard = TrainingData(stores["dev"][0], FrameStore(folder / "dev"))
            train(config, own, heard, folder / "net", sources=Sources(begin=folder / "begin"))
        folders.append(str(folder))
    assert main(["specialists", "join", at["joint"], *folders, *given]) == 0
    assert "a generalist and 2 specialists" in capsys.readouterr().out
    joint = open_model(at["joint"])
    assert isinstance(joint, Ensemble)
    believed = np.exp(log_posteriors(joint, data.read("u0").features))
    np.testing.assert_allclose(believed.sum(1), 1, atol=1e-4)
    assert evaluate(joint, dev).frame_accuracy > evaluate(load_model(at["g"]), dev).frame_accuracy - 0.02
    assert main(["specialists", "join", f"{tmp_path}/half", folders[0], *given]) == 0
    sound = every_byte(tmp_path / "joint")

    def refused(message: str, *options: str) -> None:
        for out in ("joint", "fresh"):
            assert main(["specialists", "join", f"{tmp_path}/{out}", *options]) == 1
            assert re.search(message, capsys.readouterr().err)
        assert every_byte(tmp_path / "joint") == sound
        assert not (tmp_path / "fresh").exists()

    refused("active is 3 for 2 specialists; expected 1 to 2", *folders, *given, "--active", "3")
    refused("a folder is given twice", folders[0], folders[0], *given)
    refused("prepared from a generalist other than .*0/net", *folders, "--network", f"{folders[0]}/net")
    write_states(tmp_path / "plain" / "states", speech([100], 0)[1])
    refused("plain/states: not the labels of a specialist", f"{tmp_path}/plain", *given)
    part = TrainingData(stores["train"][0], FrameStore(Path(folders[1]) / "states"), ["u0", "u1"])
    task, heard = (task, dev) if whole else (config, TrainingData(stores["dev"][0], FrameStore(folder / "dev")))
    (Path(folders[1]) / "net").rename(tmp_path / "kept")
    begin, teacher = (tmp_path / "g", tmp_path / "g") if whole else (folder / "begin", None)
    train(task, part, heard, Path(folders[1]) / "net", sources=Sources(teacher, begin=begin))
    refused("net/train.yaml: not trained on the frames and labels of .*1/states", *folders, *given)
    (tmp_path / "special" / "0" / "states").rename(tmp_path / "old")
    place, own_states = tmp_path / "special" / "0" / "states", np.array(joint.own[0])
    write(stores["train"][1], own_states, STATES, place, whole=not whole, generalist=model_hash(at["g"]))
    refused("some were prepared with --whole and some without", *folders, *given)


def every_byte(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def prepared(tmp_path: Path, *options: str) -> list[str]:
    """Clusters of a generalist, and the command that prepares the first one's specialist in ``s``."""
    save_model(generalist(), tmp_path / "g")
    feats, states = speech([100] * 8)
    write_features(tmp_path / "feats", feats)
    write_states(tmp_path / "st", states)
    command = ["specialists", "cluster", f"{tmp_path}/clusters", "--network", f"{tmp_path}/g"]
    assert main([*command, "--feats", f"{tmp_path}/feats", "--k", "2"]) == 0
    given = ["--clusters", f"{tmp_path}/clusters", "--network", f"{tmp_path}/g", "--number", "0", *options]
    return ["specialists", "prepare", f"{tmp_path}/s", *given, "--states", f"{tmp_path}/st"]


def test_what_prepare_refuses_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = prepared(tmp_path)
    as_imported(tmp_path / "others", u=[1, 6])
    for options, message in (
        ([], "give either --dev-states, for a specialist with a dustbin"),
        (
            ["--whole", "--dev-states", f"{tmp_path}/st"],
            "or --whole, for one that is evaluated on the dev states as they are",
        ),
        (["--dev-states", f"{tmp_path}/nowhere"], "nowhere: no such folder"),
        (["--dev-states", f"{tmp_path}/feats"], "feats: holds features; expected states"),
        (["--dev-states", f"{tmp_path}/others"], "others: utterance u has state 6, but the generalist has 6 outputs"),
        (["--dev-states", f"{tmp_path}/st", "--number", "2"], "--number 2: .*clusters has clusters 0 to 1"),
    ):
        assert main([*command, *options]) == 1
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "s").exists()
    (tmp_path / "clusters" / "clusters.yaml").write_text("network: [")
    assert main([*command, "--whole"]) == 1
    assert "clusters.yaml: not valid YAML" in capsys.readouterr().err


def test_states_that_the_speech_never_shows_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = prepared(tmp_path, "--dev-states", f"{tmp_path}/st")
    rows = [line.split() for line in (tmp_path / "clusters" / "states.tsv").read_text().splitlines()[1:]]
    own = [int(state) for number, state, _ in rows if number == "0"]
    assert len(own) > 2
    rare = {u: np.where(a == own[1], -1, a.astype(np.int32)) for u, a in speech([100] * 8)[1].items()}
    write_states(tmp_path / "rare", rare)
    assert main([*command, "--states", f"{tmp_path}/rare"]) == 0
    before = capsys.readouterr()
    assert (
        f"/s: the training set has no frames of states {own[1]}; the specialist gets the other {len(own) - 1}"
        in before.err
    )
    assert FrameStore(tmp_path / "s" / "states").config["own"] == own[:1] + own[2:]
    assert load_model(tmp_path / "s" / "begin").num_states == len(own)


def test_what_cluster_refuses_it_refuses_before_it_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(generalist(), tmp_path / "g")
    write_features(tmp_path / "feats", speech([10])[0])
    command = ["specialists", "cluster", f"{tmp_path}/clusters", "--network", f"{tmp_path}/g"]
    for options, message in (
        (["--k", "7"], "--k 7: expected 2 to 6"),
        (["--k", "2", "--size", "6"], "--size 6: expected 2 to 5"),
        (["--k", "2", "--frames", "0"], "--frames 0: expected at least 2"),
    ):
        assert main([*command, "--feats", f"{tmp_path}/feats", *options]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "clusters").exists()


def test_other_labels_are_replaced_by_force_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*prepared(tmp_path), "--dev-states", f"{tmp_path}/st"]
    assert main(command) == 0
    assert main([*command, "--seed", "1"]) == 1
    assert "--force to replace it" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--force"]) == 0
    assert [FrameStore(tmp_path / "s" / name).config["seed"] for name in ("states", "dev")] == [1, 1]


def test_join_puts_right_what_labels_add_where_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(prepared(tmp_path, "--whole")) == 0
    net, store = tmp_path / "s" / "net", FrameStore(tmp_path / "s" / "states")
    save_model(generalist(), net)
    data = {"states": store.content_hash, "frames": store.total_frames}
    before = {"teacher": "g", "temperature": 1.0, "soft_weight": 2.0, "hard_weight": 0.5, "train": data}
    command = ["specialists", "join", f"{tmp_path}/joint", f"{tmp_path}/s", "--network", f"{tmp_path}/g"]

    def joined(**others: object) -> int:
        (net / "train.yaml").write_text(yaml.safe_dump(before | others))
        return main(command)

    assert joined() == 0
    own, biases = store.config["own"], generalist().network.output.bias.detach()
    shift = biases - load_model(tmp_path / "joint" / "specialist1").network.output.bias.detach()
    share = (labels(store) >= 0).mean()
    expected = torch.where(torch.isin(torch.arange(STATES), torch.tensor(own)), np.log1p(0.25 / share), 0.0)
    torch.testing.assert_close(shift, expected.float())
    for others, message in (
        ({"temperature": 2.0}, "trained with temperature=2.0 and match='distribution'; .* for temperature=1"),
        ({"match": "logits"}, "match='logits'"),
        ({"train": data | {"frames": 700}}, "not trained on the frames and labels of .*s/states"),
        ({"train": data | {"states": "another"}}, "not trained on the frames and labels"),
        ({"soft_weight": 0.0}, "not trained on soft targets"),
        ({"hard_weight": [1]}, "not trained on soft targets"),
        ({"temperature": "warm"}, "temperature='warm'"),
        ({"train": [1]}, "expected the record of a training run"),
    ):
        assert joined(**others) == 1
        assert re.search(message, capsys.readouterr().err)


def test_an_ensemble_is_no_generalist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feats = write_features(tmp_path / "feats", speech([100] * 8)[0])
    save_model(generalist(), tmp_path / "g")
    save_ensemble(tmp_path / "both", [tmp_path / "g", tmp_path / "g"])
    command = ["specialists", "cluster", f"{tmp_path}/clusters", "--network", f"{tmp_path}/both"]
    assert main([*command, "--feats", str(feats.path), "--k", "2"]) == 1
    assert "both: an ensemble; specialists begin as copies of a single network" in capsys.readouterr().err
    assert not (tmp_path / "clusters").exists()


def test_clusters_of_another_network_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("g", 8), ("other", 9)):
        torch.manual_seed(seed)
        save_model(AcousticModel(dataclasses.replace(NET, bins=BINS, states=STATES)), tmp_path / name)
    feats = write_features(tmp_path / "feats", speech([100] * 8)[0])
    command = ["specialists", "cluster", f"{tmp_path}/clusters", "--network", f"{tmp_path}/g"]
    assert main([*command, "--feats", str(feats.path), "--k", "2"]) == 0
    given = ["--clusters", f"{tmp_path}/clusters", "--network", f"{tmp_path}/other", "--number", "0"]
    assert main(["specialists", "prepare", f"{tmp_path}/s", *given, "--states", "x", "--dev-states", "x"]) == 1
    assert "these are not clusters of" in capsys.readouterr().err
