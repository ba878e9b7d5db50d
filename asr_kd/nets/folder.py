"""Networks and ensembles of them as folders.

A network is ``config.yaml`` (its shape) and ``model.safetensors`` (weights, standardisation, priors). An ensemble is
``ensemble.yaml``, which lists the folders of its members.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

from asr_kd.config import from_dict, load_config, save_config
from asr_kd.errors import UserError, counted
from asr_kd.files import check_folder, open_regular, sha256, write_bytes
from asr_kd.nets.acoustic_model import AcousticModel
from asr_kd.nets.config import NetConfig
from asr_kd.nets.ensemble import Ensemble, EnsembleConfig
from asr_kd.nets.tensors import read_tensors
from asr_kd.storage import local

LARGE = 1 << 26  # bytes of a network that are not allocated before the size of its file is compared
CONFIG, WEIGHTS, ENSEMBLE = "config.yaml", "model.safetensors", "ensemble.yaml"


def save_model(model: AcousticModel, folder: str | Path) -> None:
    """Write ``config.yaml`` and ``model.safetensors`` into ``folder``, each atomically."""
    save_config(model.config, Path(folder) / CONFIG)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(Path(folder) / WEIGHTS, save(tensors))


def load_model(folder: str | Path) -> AcousticModel:
    """The network that ``save_model`` wrote, on the CPU, in evaluation mode. Nothing is unpickled.

    Raises ``UserError`` if the folder holds an ensemble, a file is missing or damaged, or the two files disagree.
    """
    folder = local(folder)
    path = folder / WEIGHTS
    if is_ensemble(folder):
        raise UserError(f"{folder}: this is an ensemble; expected a single network: give one of its members")
    check_folder(folder, CONFIG, "a trained network", "give the --out folder of a finished asr-kd train")
    config = load_config(NetConfig, folder / CONFIG)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {folder} should hold {CONFIG} and {WEIGHTS}: finish its training")
    if path.stat().st_size < 2 * config.num_weights > LARGE:  # a weight takes at least 2 bytes
        raise UserError(
            f"{path}: {path.stat().st_size:,} bytes, too few for the {config.num_weights:,} weights in {CONFIG};"
            " the file is truncated or belongs to another network"
        )
    with _Uninitialised():
        model = AcousticModel(config)
    tensors = read_tensors(path, model.state_dict(), f"{CONFIG} beside it")
    _check_values(path, tensors)
    model.load_state_dict(tensors)
    return model.eval()


class _Uninitialised(TorchFunctionMode):
    """Within it, new layers get no random weights, which take most of the time of opening a network."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def _check_values(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ``UserError`` for a deviation or a variance that nothing can be divided by."""
    if not (tensors["std"] > 0).all():
        raise UserError(f"{path}: tensor 'std' has a standard deviation of 0 or less; expected numbers above 0")
    for name, tensor in tensors.items():
        if name.endswith("running_var") and not (tensor >= 0).all():
            raise UserError(f"{path}: tensor {name!r} has a variance below 0; expected 0 or more")


def save_ensemble(
    folder: str | Path,
    members: Sequence[str | Path],
    mean: str = "arithmetic",
    weights: Sequence[float] = (),
    own: Sequence[Sequence[int]] = (),
    active: int = 1,
    whole: bool = False,
) -> Ensemble:
    """Make ``folder`` an ensemble of the networks in the folders ``members``, which stay where they are.

    The other parameters are those of ``EnsembleConfig``. Raises ``UserError`` if a member is missing or damaged, or if
    its states or features differ from the first member's.
    """
    folder = Path(folder)
    check_no_network(folder)
    networks = [load_model(member) for member in members]
    values: dict[str, object] = {
        "members": [os.path.relpath(Path(member).resolve(), folder.resolve()) for member in members],
        "mean": mean,
        "weights": list(weights),
        "hashes": [sha256(Path(member) / WEIGHTS) for member in members],
    }
    if own:
        values |= {"own": [list(map(int, states)) for states in own], "active": active, "whole": whole}
    config = from_dict(EnsembleConfig, values, str(folder))
    ensemble = Ensemble(config, networks)
    save_config(config, folder / ENSEMBLE)
    return ensemble.eval()


def check_no_network(folder: str | Path) -> None:
    """Raise ``UserError`` if ``folder`` holds a network, so that it cannot become an ensemble."""
    if (Path(folder) / WEIGHTS).exists():
        raise UserError(f"{folder}: holds a network; choose another folder for the ensemble")


def check_no_ensemble(folder: str | Path) -> None:
    """Raise ``UserError`` if ``folder`` holds an ensemble, or networks of one, so that it cannot become a network."""
    folder = Path(folder)
    if is_ensemble(folder):
        raise UserError(f"{folder}: holds an ensemble; choose another folder for the network")
    if members := sorted(folder.glob(f"seed*/{CONFIG}")):
        raise UserError(f"{folder}: holds {members[0].parent.name}, a network; choose another folder for this network")


def is_ensemble(folder: str | Path) -> bool:
    """Whether ``folder`` holds an ensemble."""
    return (local(folder) / ENSEMBLE).is_file()


def open_model(folder: str | Path) -> AcousticModel | Ensemble:
    """The network or the ensemble in ``folder``, on the CPU, in evaluation mode.

    Raises ``UserError`` as ``load_model`` does, and if a member's weights are not those that the ensemble lists.
    """
    folder = local(folder)
    if not is_ensemble(folder):
        return load_model(folder)
    config = load_config(EnsembleConfig, folder / ENSEMBLE)
    if len(config.hashes) != len(config.members):
        raise UserError(
            f"{folder / ENSEMBLE}: {len(config.hashes)} hashes for {counted(len(config.members), 'member')}: the file"
            " is damaged; make the ensemble again"
        )
    loaded: dict[Path, AcousticModel] = {}  # a member that is listed twice is in memory once
    members = []
    for member, listed in zip(config.members, config.hashes, strict=True):
        place = (folder / member).resolve()
        if place not in loaded:
            loaded[place] = load_model(folder / member)
        if sha256(folder / member / WEIGHTS) != listed:
            raise UserError(
                f"{folder / member / WEIGHTS}: not the weights that {folder / ENSEMBLE} lists; the member was trained"
                " again or is damaged: make the ensemble again"
            )
        members.append(loaded[place])
    return Ensemble(config, members).eval()


def model_hash(folder: str | Path) -> str:
    """Hexadecimal SHA-256 of what the network or ensemble in ``folder`` computes."""
    folder = local(folder)
    if is_ensemble(folder):
        return load_config(EnsembleConfig, folder / ENSEMBLE).content_hash
    return hashlib.sha256(f"{sha256(folder / CONFIG)} {sha256(folder / WEIGHTS)}".encode()).hexdigest()


def model_files(folder: str | Path) -> tuple[str, ...]:
    """The files of the network or ensemble in ``folder``, which is complete in itself, by their names within it.

    Raises ``UserError`` if the ensemble lists a member outside of the folder.
    """
    if not is_ensemble(folder):
        return CONFIG, WEIGHTS
    members = load_config(EnsembleConfig, Path(folder) / ENSEMBLE).members
    for member in members:
        if not (Path(folder) / member).resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(
                f"{Path(folder) / ENSEMBLE}: member {member} is outside {folder}; expected all members inside it:"
                " build the model again"
            )
    return ENSEMBLE, *(f"{member}/{name}" for member in members for name in (CONFIG, WEIGHTS))


def copy_model(folder: str | Path, out: str | Path) -> None:
    """Copy a network, or an ensemble with its members, into the folder ``out``, which can then be moved.

    Raises ``UserError`` if a file is missing, or if a member of the ensemble is an ensemble itself.
    """
    folder, out = local(folder), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not is_ensemble(folder):
        (out / ENSEMBLE).unlink(missing_ok=True)
        _copy_network(folder, out)
        return
    (out / WEIGHTS).unlink(missing_ok=True)
    config = load_config(EnsembleConfig, folder / ENSEMBLE)
    members = [out / f"member{number}" for number in range(1, len(config.members) + 1)]
    for member, copy in zip(config.members, members, strict=True):
        if is_ensemble(folder / member):
            raise UserError(f"{folder / member}: an ensemble; a member of {folder / ENSEMBLE} must be a network")
        _copy_network(folder / member, copy)
    save_ensemble(out, members, config.mean, config.weights, config.own, config.active, config.whole)


def _copy_network(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        with open_regular(folder / name) as source, open(out / name, "wb") as target:
            shutil.copyfileobj(source, target)
