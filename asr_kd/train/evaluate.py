"""How well a network predicts the states of frames."""

import contextlib
import dataclasses

import torch
from torch.nn import functional

from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel, Ensemble, logits_by_chunk
from asr_kd.train.data import TrainingData


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """``frame_accuracy`` (fraction), ``cross_entropy`` (nats a frame) and the ``frames`` they are means of."""

    frame_accuracy: float
    cross_entropy: float
    frames: int


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a network computes: ``fp32``, or ``bf16`` products from fp32 weights."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def evaluate(model: AcousticModel | Ensemble, data: TrainingData, precision: str = "fp32") -> Evaluation:
    """Frame accuracy and cross-entropy of ``model``, in evaluation mode, on every frame of ``data``."""
    was_training = model.training
    model.eval()
    correct, loss = 0, 0.0
    device = model.log_prior.device
    for utterance in data.utterances:
        frames = data.read(utterance)
        if frames.states is None:
            raise UserError(f"{data.features.path}: no labels to compare with; give their states")
        labels = torch.from_numpy(frames.states.astype("int64")).to(device)
        with autocast(device, precision):
            for logits in logits_by_chunk(model, frames.features):
                scores, truth = logits[0].float(), labels[: logits.shape[1]]
                correct += int((scores.argmax(-1) == truth).sum())
                loss += float(functional.cross_entropy(scores, truth, reduction="sum"))
                labels = labels[len(truth) :]
    model.train(was_training)
    return Evaluation(correct / data.total_frames, loss / data.total_frames, data.total_frames)
