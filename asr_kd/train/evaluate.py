"""Frame accuracy and cross-entropy of a network."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asr_kd.errors import UserError
from asr_kd.frames.plan import alike
from asr_kd.nets import AcousticModel, Ensemble, autocast, logits_by_chunk
from asr_kd.targets.teacher import TOGETHER, check_features, check_labels
from asr_kd.train.frame_data import TrainingData


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """``frame_accuracy`` (fraction) and ``cross_entropy`` (nats per frame), means over the labelled ``frames``."""

    frame_accuracy: float
    cross_entropy: float
    frames: int


def check_fits(data: TrainingData, bins: int, num_states: int, network: str = "the network") -> None:
    """Raise ``UserError`` unless a ``network`` of ``bins`` and ``num_states`` can be evaluated on ``data``.

    Its features must have this width, its labels these states, and at least one frame must have a label.
    """
    check_features(data.features, bins, network)
    check_labels(data.states, num_states, network)
    if not data.state_counts(num_states).any():
        raise _unlabelled(data)


@torch.inference_mode()
def evaluate(model: AcousticModel | Ensemble, data: TrainingData, precision: str = "fp32") -> Evaluation:
    """Frame accuracy and cross-entropy of ``model``, in evaluation mode, on all labelled frames of ``data``."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(
        3, dtype=torch.float64, device=model.log_prior.device
    )  # read once, since reading waits for a GPU
    for _, logits, labels in outputs(model, data, precision):
        truth = _known(labels, data)
        loss = functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum", ignore_index=-1)
        sums += torch.stack([(logits.argmax(-1) == truth).sum(), (truth >= 0).sum(), loss])
    model.train(was_training)
    correct, frames, nats = sums.tolist()
    if not frames:
        raise _unlabelled(data)
    return Evaluation(correct / frames, nats / frames, int(frames))


@torch.inference_mode()
def predict(model: AcousticModel | Ensemble, data: TrainingData) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each utterance, its labels and the most probable states by ``model``, in evaluation mode, ``[frames]`` each."""
    for utterances, pieces in itertools.groupby(outputs(model, data), lambda piece: piece[0]):
        both = [(_known(labels, data), logits.argmax(-1)) for _, logits, labels in pieces]
        truth, found = (torch.cat(part, dim=1).cpu().numpy() for part in zip(*both, strict=True))
        yield from zip(utterances, truth, found, strict=True)


@torch.inference_mode()
def probabilities(model: AcousticModel | Ensemble, data: TrainingData) -> Iterator[np.ndarray]:
    """The posteriors of ``model``, in evaluation mode, for some frames of ``data`` at a time, ``[frames, states]``."""
    for _, logits, _ in outputs(model, data):
        yield logits.flatten(0, 1).softmax(-1).cpu().numpy()


def outputs(
    model: AcousticModel | Ensemble, data: TrainingData, precision: str = "fp32"
) -> Iterator[tuple[list[str], Tensor, Tensor | None]]:
    """Logits ``[utterances, frames, states]`` in float32, and labels if there are any, in pieces.

    A piece has utterances of equal length; the utterances come in their order.
    """
    device = model.log_prior.device
    for utterances in alike(data.utterances, data.frame_counts, TOGETHER):
        runs, count = list(data.runs(utterances)), len(utterances)
        features = np.concatenate([run.features for run in runs]).reshape(count, -1, data.bins)
        states = [run.states for run in runs if run.states is not None]
        labels = None
        if states:
            labels = torch.from_numpy(np.concatenate(states).astype("int64").reshape(count, -1)).to(device)
        begin = 0
        with autocast(device, precision):
            for logits in logits_by_chunk(model, features):
                end = begin + logits.shape[1]
                yield utterances, logits.float(), None if labels is None else labels[:, begin:end]
                begin = end


def _known(labels: Tensor | None, data: TrainingData) -> Tensor:
    if labels is None:
        raise _unlabelled(data)
    return labels


def _unlabelled(data: TrainingData) -> UserError:
    if data.states is None:
        return UserError(f"{data.features.path}: no labels to compare with; give their states (--states)")
    return UserError(
        f"{data.states.path}: no frame of {len(data.utterances):,} utterances has a label to compare with; give other"
        " states, or other utterances"
    )
