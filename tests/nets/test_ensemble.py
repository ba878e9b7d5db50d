"""Ensembles: the mean of the members' distributions, whatever their kind and context; folders; mistakes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.nets import (
    AcousticModel,
    Ensemble,
    NetConfig,
    autocast,
    copy_model,
    load_model,
    log_posteriors,
    model_files,
    model_hash,
    open_model,
    save_ensemble,
    save_model,
)
from asr_kd.nets.joint import active_specialists, joint

DNN = NetConfig(bins=4, states=7, width=12, layers=2, left_context=5, right_context=2)
TDNN = NetConfig(kind="tdnn", bins=4, states=7, width=12, bottleneck=4, dilations=(1, 3))


def network(folder: Path, config: NetConfig, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AcousticModel(config)
    model.log_prior.copy_(torch.randn(config.states).log_softmax(0))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    save_model(model, folder)
    return folder


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    return [network(tmp_path / "m1", DNN, 1), network(tmp_path / "m2", TDNN, 2), network(tmp_path / "m3", DNN, 3)]


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5), (1.0, 0.0, 3.0)])
@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_it_scores_as_the_mean_of_its_members(
    members: list[Path], tmp_path: Path, mean: str, weights: tuple[float, ...]
) -> None:
    save_ensemble(tmp_path / "e", members, mean, weights)
    features = np.random.default_rng(0).normal(size=(1203, 4)).astype(np.float32)
    each = np.stack([log_posteriors(open_model(member), features) for member in members]).astype(np.float64)
    share = np.array(weights or (1, 1, 1), float)
    share /= share.sum()
    if mean == "arithmetic":
        expected = np.log(np.tensordot(share, np.exp(each), 1))
    else:
        expected = np.tensordot(share, each, 1)
        expected -= np.log(np.exp(expected).sum(1, keepdims=True))
    np.testing.assert_allclose(log_posteriors(open_model(tmp_path / "e"), features), expected, atol=2e-5)
    copy_model(tmp_path / "e", tmp_path / "copy")
    assert model_hash(tmp_path / "copy") == model_hash(tmp_path / "e")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mean_in_one_pass_is_that_of_torch(members: list[Path], tmp_path: Path, precision: str) -> None:
    save_ensemble(tmp_path / "e", members[::2])
    model, features = open_model(tmp_path / "e"), torch.randn(3, 40, 4)
    with autocast("cpu", precision):
        by_torch = model(features)  # which goes backward, if need be
        with torch.no_grad():
            in_one_pass = model(features)
    assert in_one_pass.dtype == torch.float32
    torch.testing.assert_close(in_one_pass, by_torch.detach(), rtol=0, atol=1e-6)


def test_its_prior_is_the_mean_of_the_priors(members: list[Path], tmp_path: Path) -> None:
    ensemble = save_ensemble(tmp_path / "e", members, "geometric", (2, 1, 1))
    priors = [open_model(member).log_prior.double().exp() for member in members]
    torch.testing.assert_close(ensemble.log_prior.double().exp(), (2 * priors[0] + priors[1] + priors[2]) / 4)


def test_every_other_frame_is_the_same_as_all_frames_thinned(members: list[Path], tmp_path: Path) -> None:
    ensemble = save_ensemble(tmp_path / "e", members)
    features = torch.randn(2, 40, 4)
    with torch.no_grad():
        torch.testing.assert_close(ensemble(features, 3), ensemble(features)[:, ::3])


def test_a_copy_is_the_same_ensemble_without_the_members(members: list[Path], tmp_path: Path) -> None:
    save_ensemble(tmp_path / "e", members, "geometric", (1, 2, 3))
    copy_model(tmp_path / "e", tmp_path / "copy")
    expected, wanted = open_model(tmp_path / "e"), model_hash(tmp_path / "e")
    for member in members:
        (member / "model.safetensors").unlink()
    (tmp_path / "copy").rename(tmp_path / "moved")
    found = open_model(tmp_path / "moved")
    assert isinstance(found, Ensemble)
    assert model_hash(tmp_path / "moved") == wanted
    assert all((tmp_path / "moved" / name).is_file() for name in model_files(tmp_path / "moved"))
    features = torch.randn(1, 30, 4)
    with torch.no_grad():
        torch.testing.assert_close(found(features), expected(features), rtol=0, atol=0)


def test_what_an_ensemble_computes_decides_its_hash(members: list[Path], tmp_path: Path) -> None:
    for name, mean, weights in (("a", "arithmetic", ()), ("b", "geometric", ()), ("c", "arithmetic", (1, 1, 2))):
        save_ensemble(tmp_path / name, members, mean, weights)
    save_ensemble(tmp_path / "d", members, "arithmetic", (2, 2, 2))
    hashes = {name: model_hash(tmp_path / name) for name in "abcd"}
    assert len(set(hashes.values())) == 3
    assert hashes["a"] == hashes["d"]


def test_a_member_that_was_trained_again_is_refused(members: list[Path], tmp_path: Path) -> None:
    save_ensemble(tmp_path / "e", members)
    network(members[1], TDNN, 9)
    with pytest.raises(UserError, match="not the weights that .*ensemble.yaml lists"):
        open_model(tmp_path / "e")


@pytest.mark.parametrize(
    ("change", "message"), [({"states": 8}, "8 states from 4 bins; expected 7"), ({"bins": 5}, "from 5 bins")]
)
def test_a_member_of_other_states_or_features_is_refused(
    members: list[Path], tmp_path: Path, change: dict[str, int], message: str
) -> None:
    other = network(tmp_path / "other", NetConfig(**{**DNN.__dict__, **change}), 4)
    with pytest.raises(UserError, match=message):
        save_ensemble(tmp_path / "e", [*members, other])
    assert not (tmp_path / "e" / "ensemble.yaml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "1,2"], "--weights 1,2: 2 weights for 3 networks"),
        (["--weights", "0,0,0"], "not all 0"),
        (["--weights", "1,two,3"], "expected numbers separated by commas"),
        (["--weights", "1,-1,3"], "0 or more"),
    ],
)
def test_a_mistake_is_one_line(
    members: list[Path], tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "ensemble", str(tmp_path / "e"), *map(str, members), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_joint_ensemble_is_its_joint_inference_and_can_be_moved(members: list[Path], tmp_path: Path) -> None:
    own = [[0, 2, 5], [1, 3]]
    special = [
        network(tmp_path / f"s{number}", replace(TDNN, states=len(states) + 1), number)
        for number, states in enumerate(own)
    ]
    save_ensemble(tmp_path / "e", [members[0], *special], "joint", own=own, active=2)
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    log_p, *log_r = (torch.from_numpy(log_posteriors(open_model(m), features)) for m in (members[0], *special))
    states = [np.array(each) for each in own]
    expected = joint(log_p, log_r, states, active_specialists(log_p, states, 2))
    np.testing.assert_allclose(log_posteriors(open_model(tmp_path / "e"), features), expected, atol=1e-5)
    torch.testing.assert_close(open_model(tmp_path / "e").log_prior, open_model(members[0]).log_prior)
    copy_model(tmp_path / "e", tmp_path / "copy")
    assert model_hash(tmp_path / "copy") == model_hash(tmp_path / "e")
    one = save_ensemble(tmp_path / "e1", [members[0], *special], "joint", own=own, active=1)
    assert one.active == 1
    assert model_hash(tmp_path / "e1") != model_hash(tmp_path / "e")


def test_whole_specialists_answer_for_all_states_and_others_are_their_dustbin(
    members: list[Path], tmp_path: Path
) -> None:
    own = [np.array([0, 3]), np.array([1, 3, 4])]
    save_ensemble(tmp_path / "e", members, "joint", own=[states.tolist() for states in own], active=2, whole=True)
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    general, *said = [torch.from_numpy(log_posteriors(open_model(member), features)) for member in members]
    told = []
    for log_r, states in zip(said, own, strict=True):
        others = [state for state in range(7) if state not in states]
        told.append(torch.cat([log_r[:, states], log_r[:, others].exp().sum(1, keepdim=True).log()], 1))
    expected = joint(general, told, own, active_specialists(general, own, 2))
    np.testing.assert_allclose(log_posteriors(open_model(tmp_path / "e"), features), expected, atol=2e-5)


def test_a_joint_ensemble_of_the_wrong_parts_is_refused(members: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m2: 7 states from 4 bins; expected 3 from 4"):
        save_ensemble(tmp_path / "e", members[:2], "joint", own=[[0, 2]])
    with pytest.raises(UserError, match=r"3 members with the states of 1 specialist"):
        save_ensemble(tmp_path / "e", members, "joint", own=[[0, 2]])
    with pytest.raises(UserError, match=r"specialist 0 has states 2 to 7; the generalist has 7"):
        save_ensemble(tmp_path / "e", members[:2], "joint", own=[[2, 7]])
    for active in (0, 2):
        with pytest.raises(UserError, match=f"active is {active} for 1 specialist;"):
            save_ensemble(tmp_path / "e", members[:2], "joint", own=[[0, 2]], active=active)
    with pytest.raises(UserError, match=r"states of specialists are only for mean: joint"):
        save_ensemble(tmp_path / "e", members[:2], own=[[2, 6]])


def test_an_ensemble_is_no_member_and_no_network(members: list[Path], tmp_path: Path) -> None:
    save_ensemble(tmp_path / "e", members)
    for use in (
        lambda: save_ensemble(tmp_path / "f", [members[0], tmp_path / "e"]),
        lambda: load_model(tmp_path / "e"),
    ):
        with pytest.raises(UserError, match="e: this is an ensemble; expected a single network"):
            use()


@pytest.mark.parametrize("member", [".", "../e", "../f"])
def test_an_ensemble_that_lists_itself_is_refused(members: list[Path], tmp_path: Path, member: str) -> None:
    for name in ("e", "f"):
        save_ensemble(tmp_path / name, members)
        path = tmp_path / name / "ensemble.yaml"
        path.write_text(path.read_text().replace("../m2", member if name == "e" else "../e"))
    for use in (lambda: open_model(tmp_path / "e"), lambda: copy_model(tmp_path / "e", tmp_path / "copy")):
        with pytest.raises(UserError, match="an ensemble"):
            use()


def test_a_movable_ensemble_has_its_members_inside(members: list[Path], tmp_path: Path) -> None:
    save_ensemble(tmp_path / "e", members)
    with pytest.raises(UserError, match=r"member \.\./m1 is outside"):
        model_files(tmp_path / "e")


def test_a_member_that_is_listed_twice_is_in_memory_once(members: list[Path], tmp_path: Path) -> None:
    save_ensemble(tmp_path / "e", [members[0], members[0]])
    found = open_model(tmp_path / "e")
    assert isinstance(found, Ensemble)
    assert found.members[0] is found.members[1]


@pytest.mark.parametrize("text", ['members: [m1, "a\\0b"]', "members: ['']", f"members: [{'a' * 5000}]"])
def test_a_member_that_is_no_path_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ensemble.yaml").write_text(text)
    with pytest.raises(UserError, match="expected the path of a folder"):
        open_model(tmp_path)
    (tmp_path / "ensemble.yaml").write_text(f"members: [{', '.join(['m'] * 1001)}]")
    with pytest.raises(UserError, match="1,001 members"):
        open_model(tmp_path)
