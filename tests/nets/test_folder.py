"""Model folders: what is saved is loaded, and anything else is refused by name."""

import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel, NetConfig, load_model, save_ensemble, save_model
from asr_kd.nets.folder import check_no_ensemble

CONFIG = NetConfig(bins=5, states=7, width=8, layers=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(AcousticModel(CONFIG), tmp_path)
    return tmp_path


def test_a_loaded_model_is_the_saved_one(tmp_path: Path) -> None:
    model = AcousticModel(CONFIG)
    model(torch.randn(9, 30, 5))
    model.log_prior.copy_(torch.randn(7))
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    features = torch.randn(1, 40, 5)
    assert not loaded.training
    assert torch.equal(loaded.log_prior, model.log_prior)
    assert torch.equal(loaded(features), model.eval()(features))


def test_the_same_model_has_the_same_bytes(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    save_model(load_model(folder), folder)
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        load_model(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such folder; expected a trained network"):
        load_model(tmp_path / "absent")


def test_another_kind_of_folder_is_named_with_the_networks_inside_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    with pytest.raises(UserError, match=r"student: not a trained network \(no config.yaml\); give the --out folder"):
        load_model(tmp_path / "student")
    save_model(load_model(folder), tmp_path / "student" / "seed1")
    with pytest.raises(UserError, match=r"student: not a trained network .*; give one inside it, such as .*/seed1"):
        load_model(tmp_path / "student")


def test_the_folder_of_an_ensemble_or_of_its_members_cannot_become_a_network(folder: Path, tmp_path: Path) -> None:
    check_no_ensemble(folder)
    save_ensemble(tmp_path / "both", [folder, folder])
    with pytest.raises(UserError, match="both: holds an ensemble; choose another folder for the network"):
        check_no_ensemble(tmp_path / "both")
    save_model(load_model(folder), tmp_path / "student" / "seed1")
    with pytest.raises(UserError, match="student: holds seed1, a network; choose another folder for this network"):
        check_no_ensemble(tmp_path / "student")


def test_a_cut_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="truncated"):
        load_model(folder)


def test_a_pickle_is_refused(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_model(folder)


def test_weights_of_another_shape_are_refused_by_name(folder: Path) -> None:
    save_model(AcousticModel(NetConfig(bins=5, states=9, width=8, layers=1)), folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"'log_prior': found \(9,\).*expects \(7,\)"):
        load_model(folder)


def test_a_foreign_tensor_is_refused_by_name(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), "zebra": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"'zebra': found \(2,\).*expects nothing"):
        load_model(folder)


def test_an_unknown_key_is_refused_with_the_nearest_one(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text() + "widht: 3\n")
    with pytest.raises(UserError, match="widht: unknown key; did you mean width"):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", 30_000), ("width", 2**40), ("layers", 10**9), ("left_context", 10**9), ("bins", 10**9),
        ("states", 2**40), ("dilations", "[9999999999]"), ("width", 10**30),
    ],
)  # fmt: skip
def test_a_configuration_of_a_huge_network_takes_no_memory(folder: Path, key: str, value: object) -> None:
    path = folder / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{key}:")]
    path.write_text("\n".join([*(line for line in lines if not line.startswith("- ")), f"{key}: {value}"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"config\.yaml|net\.{key}|net has|too few"):
        load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_by_name(folder: Path, value: float) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["network.output.bias"][3] = value
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"'network\.output\.bias' has a number that is NaN or infinite"):
        load_model(folder)


def test_huge_finite_weights_are_loaded(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["network.output.bias"][:] = 3e38  # their sum overflows
    save_file(tensors, path)
    assert load_model(folder).network.output.bias[0] > 2e38


@pytest.mark.parametrize(("name", "value"), [("std", 0.0), ("std", -1.0), ("network.hidden.0.1.1.running_var", -1.0)])
def test_a_deviation_that_cannot_be_divided_by_is_refused(folder: Path, name: str, value: float) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name][0] = value
    save_file(tensors, path)
    with pytest.raises(UserError, match=name):
        load_model(folder)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_weights_of_another_type_are_refused(folder: Path, kind: torch.dtype) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "mean": tensors["mean"].to(kind)}, path)
    with pytest.raises(UserError, match="'mean': found type"):
        load_model(folder)


def test_half_precision_weights_are_loaded(folder: Path) -> None:
    path, model = folder / "model.safetensors", load_model(folder)
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}
    save_file(half, path)
    assert torch.equal(load_model(folder).network.output.bias, model.network.output.bias.half().float())


def test_a_named_pipe_for_the_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(folder)


def test_the_number_of_weights_is_that_of_the_network() -> None:
    for config in (
        NetConfig(bins=5, states=7, width=8, layers=3),
        NetConfig("tdnn", bins=5, states=7, width=8, bottleneck=3),
    ):
        matrices = [parameter for parameter in AcousticModel(config).parameters() if parameter.ndim > 1]
        assert sum(matrix.numel() for matrix in matrices) == config.num_weights
