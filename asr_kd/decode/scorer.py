"""Features -> log-likelihoods of every state, by a network or by Gaussian mixtures."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from asr_kd.errors import UserError, counted

GMM_BLOCK = 2048  # frames


class Scorer(Protocol):
    """What the search needs from an acoustic model.

    ``parameters`` counts trained numbers; ``log_prior`` ``[states]`` added to log-likelihoods gives log-posteriors up
    to a constant of the frame. ``device`` is what torch calls the device that computes.
    """

    device: str

    num_states: int
    dimension: int
    parameters: int
    log_prior: np.ndarray

    def blocks(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Natural log-likelihoods of ``[frames, dimension]``, in consecutive float32 blocks ``[some, states]``."""


class NetworkScorer:
    """log p(state | features) - log p(state): the log-likelihood up to a constant of the frame."""

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        from asr_kd.nets import num_parameters, open_model

        self.network, self.device = open_model(folder).to(device), device
        self.parameters = num_parameters(self.network)
        self.num_states, self.dimension = self.network.num_states, self.network.bins
        self.log_prior: np.ndarray = self.network.log_prior.cpu().numpy()

    def blocks(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """As ``Scorer``; memory is bounded by a block, whatever the length of the audio."""
        import torch

        from asr_kd.nets import log_prob_by_chunk

        pieces = log_prob_by_chunk(self.network, features)
        while True:
            with torch.inference_mode():  # entered for each piece: the caller's code runs between them
                piece = next(pieces, None)
                if piece is None:
                    return
                block = piece[0].sub_(self.network.log_prior)
            yield block.cpu().numpy()


@dataclasses.dataclass(frozen=True)
class NetworkScores:
    """The log-likelihoods of some states by the network in ``folder``, which each process loads once."""

    folder: str | Path
    device: str = "cpu"

    def __reduce__(self) -> tuple[type["NetworkScores"], tuple[str | Path, str]]:
        return NetworkScores, (self.folder, self.device)  # without the network

    @functools.cached_property
    def scorer(self) -> NetworkScorer:
        """The network on its device."""
        return NetworkScorer(self.folder, self.device)

    def __call__(self, features: np.ndarray, states: np.ndarray) -> np.ndarray:
        """``[frames, len(states)]`` of features ``[frames, dimension]``."""
        return np.concatenate([block[:, states] for block in self.scorer.blocks(features)])


class GmmScorer:
    """The log-likelihoods of Gaussian mixtures."""

    device = "cpu"

    def __init__(self, folder: str | Path) -> None:
        from asr_kd.hmm.gmm import Gmm

        self.gmm = Gmm.load(folder)
        self.num_states, self.dimension = self.gmm.num_states, self.gmm.transform.projection.shape[2]
        self.parameters = self.gmm.weights.size + self.gmm.means.size + self.gmm.variances.size
        self.log_prior = np.zeros(self.num_states, np.float32)

    def blocks(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """As ``Scorer``; the blocks are multiples of the GMM's own, so that the numbers do not depend on them."""
        frames = self.gmm.transform(np.asarray(features, np.float32))
        for start in range(0, len(frames), GMM_BLOCK):
            yield self.gmm.score(frames[start : start + GMM_BLOCK])


def load_scorer(kind: str, folder: str | Path, device: str = "cpu") -> Scorer:
    """The acoustic model in ``folder``; ``kind`` is ``network``, which runs on ``device``, or ``gmm``."""
    return NetworkScorer(folder, device) if kind == "network" else GmmScorer(folder)


def frames_right(block: np.ndarray, scorer: Scorer, states: np.ndarray) -> int:
    """How many frames of ``block`` have the state in ``states`` ``[frames]`` as their most probable one."""
    if len(block) != len(states):
        raise UserError(
            f"{counted(len(block), 'frame')} of features, {len(states):,} of states; both must come from the same audio"
        )
    return int(((block + scorer.log_prior).argmax(1) == states).sum())
