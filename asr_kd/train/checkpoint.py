"""A checkpoint: all that a training run needs to resume, as one safetensors file that is replaced atomically."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from asr_kd.config import from_dict, shown
from asr_kd.errors import UserError, counted
from asr_kd.files import parse_json, write_bytes
from asr_kd.nets import AcousticModel
from asr_kd.nets.tensors import read_metadata, read_tensors

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, each in the shape of its parameter


@dataclasses.dataclass
class Position:
    """Where a training run stands: all of its state but the weights and the optimiser's moments.

    Batches, masks, dropout and learning rate are functions of the seed and of ``epoch``, ``batch`` and ``step``, so
    that no random state is kept. ``loss_sum`` over ``frames``, and ``correct`` of ``counted`` predictions, add up over
    the current epoch. ``history`` has the metrics of each evaluation; ``best`` is the index of the one whose weights
    are kept, -1 before the first.
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


def save_checkpoint(
    path: Path, model: AcousticModel, optimiser: torch.optim.Optimizer, position: Position, run: str = ""
) -> None:
    """Write weights, the optimiser's state of each parameter, the position, and the training ``run``."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, tensor in optimiser.state[parameter].items():
            tensors[f"optimiser/{name}/{key}"] = tensor
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(content, {"position": json.dumps(dataclasses.asdict(position)), "run": run}))


def load_checkpoint(
    path: Path, model: AcousticModel, optimiser: torch.optim.Optimizer, epochs: int, run: str = ""
) -> Position:
    """Put the weights and moments at ``path`` into ``model`` and ``optimiser``; returns the position.

    Raises ``UserError`` for a file that is no checkpoint of this network, of a training run of ``epochs``, or of this
    ``run`` (where both are known).
    """
    try:
        metadata = read_metadata(path)
        if "position" not in metadata:
            raise UserError(f"{path}: it does not record the position in training")
        if run and metadata.get("run", "") not in ("", run):
            raise UserError(f"{path}: it does not belong to the training run of the train.yaml beside it")
        position = from_dict(Position, _object(metadata["position"]), "damaged position")
        _check_position(position, epochs)
        tensors = read_tensors(path, _expected(model), "the network to train")
    except UserError as error:
        detail = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{path}: not a checkpoint of this training run ({detail}); delete it to start from the beginning"
        ) from None
    model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        moments = {key: tensors[f"optimiser/{name}/{key}"] for key in ("step", *MOMENTS)}
        optimiser.state[parameter] = {key: tensor.to(parameter.device) for key, tensor in moments.items()}
    return position


def _expected(model: AcousticModel) -> dict[str, Tensor]:
    """Tensors in the shapes and types of a checkpoint of ``model``."""
    expected = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        expected[f"optimiser/{name}/step"] = torch.zeros(())
        expected |= {f"optimiser/{name}/{moment}": parameter for moment in MOMENTS}
    return expected


def _object(text: str) -> dict[str, Any]:
    value = parse_json(text, "damaged position")
    if not isinstance(value, dict):
        raise UserError(f"damaged position: expected an object, found {shown(value)}")
    return value


def _check_position(position: Position, epochs: int) -> None:
    """Raise ``UserError`` unless the numbers agree with each other, so that training can resume from them."""
    for key in ("step", "epoch", "batch", "frames", "correct", "counted", "seconds"):
        if getattr(position, key) < 0:
            raise UserError(f"damaged position: {key} is {getattr(position, key)}; expected 0 or more")
    if position.epoch > epochs:
        raise UserError(f"damaged position: epoch is {position.epoch} of {epochs}")
    if (position.batch == 0) != (position.frames == 0):
        raise UserError(
            f"damaged position: {counted(position.frames, 'frame')} in {position.batch} batches of this epoch"
        )
    for number, entry in enumerate(position.history):
        accuracy = entry.get("dev_accuracy")
        if not isinstance(accuracy, int | float) or not math.isfinite(accuracy):
            raise UserError(f"damaged position: evaluation {number} has no finite dev_accuracy")
    if not -1 <= position.best < len(position.history) or (position.history and position.best < 0):
        raise UserError(f"damaged position: best is evaluation {position.best} of {len(position.history)}")
    if position.epoch == epochs and not position.history:
        raise UserError(f"damaged position: all {epochs} epochs are done, but there was no evaluation")
