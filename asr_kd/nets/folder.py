"""Networks and ensembles of them as folders.

A network is ``config.yaml`` (what it is) and ``model.safetensors`` (weights, standardisation, priors); an ensemble is
``ensemble.yaml``, which lists the folders of its members.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save

from asr_kd.config import from_dict, load_config, save_config
from asr_kd.errors import UserError
from asr_kd.files import sha256, write_bytes
from asr_kd.nets.acoustic_model import AcousticModel
from asr_kd.nets.config import NetConfig
from asr_kd.nets.ensemble import Ensemble, EnsembleConfig

CONFIG, WEIGHTS, ENSEMBLE = "config.yaml", "model.safetensors", "ensemble.yaml"


def save_model(model: AcousticModel, folder: str | Path) -> None:
    """Write ``config.yaml`` and ``model.safetensors`` into ``folder``, each atomically."""
    save_config(model.config, Path(folder) / CONFIG)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(Path(folder) / WEIGHTS, save(tensors))


def load_model(folder: str | Path) -> AcousticModel:
    """The model that ``save_model`` wrote, on the CPU, in evaluation mode. Nothing is unpickled.

    Raises ``UserError`` where a file is missing, is not what its name says, or does not fit the other.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    model = AcousticModel(load_config(NetConfig, folder / CONFIG))
    if not path.is_file():
        raise UserError(f"{path}: no such file; {folder} should hold {CONFIG} and {WEIGHTS}: train it to the end")
    try:
        found = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or cut short: {error}") from None
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | found.keys()):
        expected = tuple(wanted[name].shape) if name in wanted else "nothing"
        actual = tuple(found[name].shape) if name in found else "nothing"
        if expected != actual:
            raise UserError(f"{path}: tensor {name!r}: found {actual}, but {CONFIG} beside it expects {expected}")
    model.load_state_dict(found)
    return model.eval()


def save_ensemble(
    folder: str | Path,
    members: Sequence[str | Path],
    mean: str = "arithmetic",
    weights: Sequence[float] = (),
    own: Sequence[Sequence[int]] = (),
    active: int = 1,
    whole: bool = False,
) -> Ensemble:
    """Make ``folder`` an ensemble of the networks in the folders ``members``, which stay where they are; see
    ``EnsembleConfig``.

    Raises ``UserError`` where a member is missing or damaged, or has other states or features than the first.
    """
    folder = Path(folder)
    check_no_network(folder)
    networks = [load_model(member) for member in members]
    places = tuple(os.path.relpath(Path(member).resolve(), folder.resolve()) for member in members)
    hashes = tuple(sha256(Path(member) / WEIGHTS) for member in members)
    values: dict[str, object] = {
        "members": list(places),
        "mean": mean,
        "weights": list(weights),
        "hashes": list(hashes),
    }
    if own:
        values |= {"own": [list(map(int, states)) for states in own], "active": active, "whole": whole}
    config = from_dict(EnsembleConfig, values, str(folder))
    ensemble = Ensemble(config, networks)
    save_config(config, folder / ENSEMBLE)
    return ensemble.eval()


def check_no_network(folder: str | Path) -> None:
    """Raise ``UserError`` where ``folder`` cannot become an ensemble, because it holds a network."""
    if (Path(folder) / WEIGHTS).exists():
        raise UserError(f"{folder}: holds a network; choose another folder for the ensemble")


def is_ensemble(folder: str | Path) -> bool:
    """Whether ``folder`` holds an ensemble."""
    return (Path(folder) / ENSEMBLE).is_file()


def open_model(folder: str | Path) -> AcousticModel | Ensemble:
    """The network or the ensemble in ``folder``, on the CPU, in evaluation mode.

    Raises ``UserError`` as ``load_model`` does, and where a member's weights are not those that the ensemble lists.
    """
    folder = Path(folder)
    if not is_ensemble(folder):
        return load_model(folder)
    config = load_config(EnsembleConfig, folder / ENSEMBLE)
    if len(config.hashes) != len(config.members):
        raise UserError(f"{folder / ENSEMBLE}: {len(config.hashes)} hashes for {len(config.members)} members")
    members = []
    for member, wanted in zip(config.members, config.hashes, strict=True):
        members.append(load_model(folder / member))
        if sha256(folder / member / WEIGHTS) != wanted:
            raise UserError(
                f"{folder / member / WEIGHTS}: not the weights that {folder / ENSEMBLE} lists; the member was trained"
                " again or damaged: make the ensemble again"
            )
    return Ensemble(config, members).eval()


def model_hash(folder: str | Path) -> str:
    """Hexadecimal SHA-256 of what the network or ensemble in ``folder`` computes."""
    folder = Path(folder)
    if is_ensemble(folder):
        return load_config(EnsembleConfig, folder / ENSEMBLE).content_hash
    return hashlib.sha256(f"{sha256(folder / CONFIG)} {sha256(folder / WEIGHTS)}".encode()).hexdigest()


def model_files(folder: str | Path) -> tuple[str, ...]:
    """The files that the network or ensemble in ``folder`` is made of, by their names within it."""
    if not is_ensemble(folder):
        return CONFIG, WEIGHTS
    members = load_config(EnsembleConfig, Path(folder) / ENSEMBLE).members
    return ENSEMBLE, *(f"{member}/{name}" for member in members for name in (CONFIG, WEIGHTS))


def copy_model(folder: str | Path, out: str | Path) -> None:
    """Copy a network, or an ensemble with its members, into the folder ``out``, which can then be moved."""
    folder, out = Path(folder), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not is_ensemble(folder):
        (out / ENSEMBLE).unlink(missing_ok=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / name, out / name)
        return
    (out / WEIGHTS).unlink(missing_ok=True)
    config = load_config(EnsembleConfig, folder / ENSEMBLE)
    for number, member in enumerate(config.members, 1):
        copy_model(folder / member, out / f"member{number}")
    names = [f"member{number}" for number in range(1, len(config.members) + 1)]
    members = [out / name for name in names]
    save_ensemble(out, members, config.mean, config.weights, config.own, config.active, config.whole)
