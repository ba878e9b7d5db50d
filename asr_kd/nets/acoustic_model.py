"""Acoustic models: frames of features -> a score for each tied HMM state."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from asr_kd.errors import UserError
from asr_kd.nets.config import NetConfig
from asr_kd.nets.dnn import Dnn
from asr_kd.nets.layers import ByteDropout
from asr_kd.nets.tdnn import Tdnn

KINDS: dict[str, type[Dnn] | type[Tdnn]] = {"dnn": Dnn, "tdnn": Tdnn}
CHUNK = 1000  # frames scored at once; bounds the memory of long audio


class StateModel(Protocol):
    """The common interface of networks and ensembles: ``[batch, frames, bins]`` -> logits."""

    left_context: int
    right_context: int
    log_prior: Tensor
    normalised: bool  # whether its logits are log-probabilities

    @property
    def num_states(self) -> int:
        """Number of outputs."""

    @property
    def bins(self) -> int:
        """Width of a feature frame."""

    def __call__(self, features: Tensor, every: int = 1) -> Tensor:
        """Logits ``[batch, frames - left_context - right_context, states]``, or those of every ``every``-th frame."""


class AcousticModel(nn.Module):
    """Features ``[batch, frames, bins]`` -> logits ``[batch, frames - left_context - right_context, states]``.

    Output ``t`` belongs to frame ``t + left_context``; ``pad_edges`` gives an utterance as many outputs as it has
    frames. The model takes features as they are stored, and standardises them with the ``mean`` and ``std`` ``[bins]``
    of its training data. ``log_prior`` ``[states]`` is the natural log of the state frequencies of its training labels:
    ``log p(x|s)`` is ``log p(s|x) - log_prior`` up to a constant of the frame.
    """

    mean: Tensor
    std: Tensor
    log_prior: Tensor
    normalised = False

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        if not config.bins or not config.states:
            raise UserError(f"net.bins is {config.bins} and net.states is {config.states}; both must be above 0")
        self.config = config
        self.drop = ByteDropout(config.input_dropout)
        self.network = KINDS[config.kind](config)
        self.left_context, self.right_context = self.network.left_context, self.network.right_context
        self.register_buffer("mean", torch.zeros(config.bins))
        self.register_buffer("std", torch.ones(config.bins))
        self.register_buffer("log_prior", torch.full((config.states,), -float(np.log(config.states))))

    @property
    def num_states(self) -> int:
        """Number of outputs."""
        return self.config.states

    @property
    def bins(self) -> int:
        """Width of a feature frame."""
        return self.config.bins

    def forward(self, features: Tensor, every: int = 1) -> Tensor:
        """Logits; with ``every`` above 1 only those of outputs 0, every, 2 every, ..., at less cost."""
        standardised = torch.addcmul(-self.mean / self.std, features, 1 / self.std)
        logits: Tensor = self.network(self.drop(standardised), every)
        return logits


def num_parameters(model: nn.Module) -> int:
    """Number of trained weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def pad_edges(features: Tensor, left: int, right: int) -> Tensor:
    """``[..., frames, bins]`` with the first frame repeated ``left`` times before, the last ``right`` times after."""
    before, after = (
        edge.expand(*features.shape[:-2], number, -1)
        for edge, number in ((features[..., :1, :], left), (features[..., -1:, :], right))
    )
    return torch.cat([before, features, after], dim=-2)


def outputs_within(model: StateModel, features: Tensor, left: int, right: int, every: int = 1) -> Tensor:
    """The logits of the frames of ``[batch, frames, bins]`` that have ``left`` frames before and ``right`` after them.

    Models of different contexts thus score the same frames. ``left`` and ``right`` are at least the model's own.
    """
    first, last = left - model.left_context, features.shape[1] - (right - model.right_context)
    logits: Tensor = model(features[:, first:last], every)
    return logits


def logits_by_chunk(model: StateModel, features: np.ndarray, chunk: int = CHUNK) -> Iterator[Tensor]:
    """The logits of ``[frames, bins]``, or of utterances of equal length ``[batch, frames, bins]``, piece by piece.

    A piece is ``[batch, up to chunk, states]`` on the model's device; the batch of a single utterance is 1. Raises
    ``UserError`` for another number of bins.
    """
    features = features[None] if features.ndim == 2 else features
    frames, bins = features.shape[1:]
    if bins != model.bins:
        raise UserError(f"{bins} coefficients per frame; this network expects {model.bins}")
    if not frames:
        return
    device = model.log_prior.device
    padded = pad_edges(torch.from_numpy(features.astype(np.float32)), model.left_context, model.right_context)
    for start in range(0, frames, chunk):
        yield model(padded[:, start : min(start + chunk, frames) + model.left_context + model.right_context].to(device))


def log_prob_packed(model: StateModel, features: Sequence[np.ndarray]) -> list[Tensor]:
    """As ``log_posteriors`` for each of some utterances ``[frames, bins]``, on the model's device, in one pass.

    They lie one after the other, each between its repeated edge frames, so that no output mixes two of them. That is
    faster on a GPU, which a single utterance does not fill. Memory is that of all their frames.
    """
    left, right = model.left_context, model.right_context
    padded = [pad_edges(torch.from_numpy(each.astype(np.float32)), left, right) for each in features]
    logits = model(torch.cat(padded)[None].to(model.log_prior.device))[0]
    log_prob = logits if model.normalised else logits.float().log_softmax(-1)
    ends = np.cumsum([len(each) for each in padded])
    return [log_prob[end - len(own) : end - left - right] for end, own in zip(ends, padded, strict=True)]


def log_prob_by_chunk(model: StateModel, features: np.ndarray) -> Iterator[Tensor]:
    """Natural log of p(state | features), float32, as ``logits_by_chunk``."""
    for logits in logits_by_chunk(model, features):
        yield logits if model.normalised else logits.float().log_softmax(-1)


@torch.inference_mode()
def log_posteriors(model: StateModel, features: np.ndarray) -> np.ndarray:
    """Natural log of p(state | features) for one utterance: ``[frames, bins]`` -> float32 ``[frames, states]``.

    The model should be in evaluation mode, as ``load_model`` returns it. Besides the result, memory is that of
    ``CHUNK`` frames, whatever the length. Raises ``UserError`` for another number of bins.
    """
    result = np.empty((len(features), model.num_states), np.float32)
    done = 0
    for (log_prob,) in log_prob_by_chunk(model, features):
        result[done : done + len(log_prob)] = log_prob.cpu().numpy()
        done += len(log_prob)
    return result
