"""Where training stands, as one safetensors file that appears whole or not at all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from asr_kd.errors import UserError
from asr_kd.files import write_bytes
from asr_kd.nets import AcousticModel


@dataclasses.dataclass
class Position:
    """Everything besides the weights and the optimiser's moments that going on needs.

    Batches, masks, dropout and learning rate are functions of the seed and of ``epoch``, ``batch`` and ``step``, so
    there is no random state to keep. ``loss_sum`` over ``frames`` and ``correct`` of ``counted`` predictions add up
    over the running epoch; ``history`` has the metrics of each evaluation, and ``best`` the index of the one whose
    weights are kept.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    frames: int = 0
    correct: int = 0
    counted: int = 0
    seconds: float = 0.0
    best: int = -1
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def save_checkpoint(path: Path, model: AcousticModel, optimiser: torch.optim.Optimizer, position: Position) -> None:
    """Write weights, the optimiser's state of each parameter, and the position."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, tensor in optimiser.state[parameter].items():
            tensors[f"optimiser/{name}/{key}"] = tensor
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(content, {"position": json.dumps(dataclasses.asdict(position))}))


def load_checkpoint(path: Path, model: AcousticModel, optimiser: torch.optim.Optimizer) -> Position:
    """Put the weights and moments at ``path`` into ``model`` and ``optimiser``; returns the position.

    Raises ``UserError`` for a file that is no checkpoint of this network.
    """
    try:
        with safetensors.safe_open(path, "pt") as stream:
            position = Position(**json.loads(stream.metadata()["position"]))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a checkpoint of this network ({error}); delete it to start anew") from None
    for name, parameter in model.named_parameters():
        prefix = f"optimiser/{name}/"
        moments = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        optimiser.state[parameter] = {key: tensor.to(parameter.device) for key, tensor in moments.items()}
    return position
