"""Model folders: what is saved is loaded, and anything else is refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel, NetConfig, load_model, save_model

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
    with pytest.raises(UserError, match="no such model folder"):
        load_model(tmp_path / "absent")


def test_a_cut_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="cut short"):
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
    with pytest.raises(UserError, match="'widht'; did you mean 'width'"):
        load_model(folder)
