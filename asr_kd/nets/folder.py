"""A network as a folder: ``config.yaml`` (what it is) and ``model.safetensors`` (weights, standardisation, priors)."""

from pathlib import Path

import safetensors
from safetensors.torch import load_file, save

from asr_kd.config import load_config, save_config
from asr_kd.errors import UserError
from asr_kd.files import write_bytes
from asr_kd.nets.config import NetConfig
from asr_kd.nets.model import AcousticModel

CONFIG, WEIGHTS = "config.yaml", "model.safetensors"


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
