"""Diagonal Gaussian mixtures, one for each state, over linearly transformed windows of cepstra."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save

from asr_kd.compiling import compiled
from asr_kd.errors import UserError, counted
from asr_kd.files import check_folder, write_bytes
from asr_kd.hmm.transform import WindowTransform
from asr_kd.storage import local

_BLOCK = 256  # frames whose Gaussians are scored at once, so that the scores stay in the cache


@dataclasses.dataclass(frozen=True)
class Gmm:
    """The Gaussians of all states in flat arrays; state s owns ``bounds[s]:bounds[s + 1]``.

    - ``transform``: applied to the stored features first.
    - ``weights`` ``[gaussians]``, summing to one in each state; ``means``, ``variances`` ``[gaussians, dim]``; float32.
    - ``bounds`` ``[states + 1]`` int32.
    """

    transform: WindowTransform
    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    bounds: np.ndarray

    @property
    def num_states(self) -> int:
        """Number of states."""
        return len(self.bounds) - 1

    @property
    def num_gaussians(self) -> int:
        """Number of Gaussians of all states together."""
        return len(self.weights)

    @functools.cached_property
    def constants(self) -> np.ndarray:
        """Log of weight times the normaliser of each Gaussian, ``[gaussians]`` float32."""
        variances = self.variances.astype(np.float64)
        normaliser = -0.5 * np.log(2 * np.pi * variances).sum(1)
        return (np.log(self.weights.astype(np.float64)) + normaliser).astype(np.float32)

    def log_likelihoods(self, features: np.ndarray, states: np.ndarray | None = None) -> np.ndarray:
        """Natural log-likelihood of stored features ``[frames, cepstra]``: ``[frames, states]`` float32.

        ``states`` picks columns (all by default). ``UserError`` for features of another dimension.
        """
        return self.score(self.transform(features), states)

    def score(self, frames: np.ndarray, states: np.ndarray | None = None) -> np.ndarray:
        """``log_likelihoods`` of frames ``[frames, dim]`` that are transformed already."""
        states = np.arange(self.num_states) if states is None else states
        counts = np.diff(self.bounds)[states]
        bounds = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(bounds[-1]) + np.repeat(self.bounds[:-1][states] - bounds[:-1], counts)
        centre, matrix, constants = self._quadratic
        weights, constants = torch.from_numpy(matrix[rows]), constants[rows]
        centred = torch.from_numpy(frames - centre).T.contiguous()
        inputs = torch.cat([centred, centred * centred])
        result = np.empty((len(frames), len(states)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(frames), _BLOCK):
                scores = weights @ inputs[:, start : start + _BLOCK]
                tops = torch.empty(len(states), scores.shape[1])
                _subtract_greatest(scores.numpy(), constants, bounds, tops.numpy())
                sums = torch.empty_like(tops)
                _add_up(scores.exp_().numpy(), bounds, sums.numpy())
                result[start : start + _BLOCK] = sums.log_().add_(tops).T
        return result

    @functools.cached_property
    def _quadratic(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre, matrix ``[gaussians, 2 * dim]`` and constants, so that a product scores every Gaussian.

        Frames are centred first: their squares lose less to float32.
        """
        centre = np.average(self.means, axis=0, weights=self.weights)
        means, precisions = self.means - centre, 1 / self.variances.astype(np.float64)
        matrix = np.concatenate([means * precisions, -0.5 * precisions], 1).astype(np.float32)
        constants = self.constants - 0.5 * (means**2 * precisions).sum(1)
        return centre.astype(np.float32), matrix, constants.astype(np.float32)

    def save(self, folder: str | Path) -> None:
        """Write ``gmm.safetensors`` into ``folder``."""
        tensors = {
            "projection": self.transform.projection, "weights": self.weights, "means": self.means,
            "variances": self.variances, "bounds": self.bounds,
        }  # fmt: skip
        write_bytes(Path(folder) / "gmm.safetensors", save({k: np.ascontiguousarray(v) for k, v in tensors.items()}))

    @classmethod
    def load(cls, folder: str | Path) -> "Gmm":
        """Read what ``save`` wrote; ``UserError`` if it is missing or something else."""
        folder = local(folder)
        path = folder / "gmm.safetensors"
        advice = "give one from asr-kd hmm train, such as exp/hmm/lda"
        check_folder(folder, "gmm.safetensors", "an HMM folder with Gaussian mixtures", advice)
        try:
            tensors = load_file(path)
            transform = WindowTransform(tensors.pop("projection"))
            gmm = cls(transform, **tensors)
            sound = _is_sound(gmm)
        except Exception as error:
            raise UserError(f"{path}: not a Gaussian mixture model: {error}") from None
        if not sound:
            raise UserError(f"{path}: damaged: its numbers are not Gaussian mixtures; train this stage again")
        return gmm

    def check_fits(self, num_states: int, folder: str | Path) -> None:
        """``UserError`` unless the state space in the same ``folder`` has as many states."""
        if self.num_states != num_states:
            raise UserError(
                f"{folder}: gmm.safetensors has {counted(self.num_states, 'state')}, states.safetensors {num_states}:"
                " one of them is from another model"
            )


def _is_sound(gmm: Gmm) -> bool:
    """Whether every state has Gaussians, of positive weights and variances, all finite and of one shape."""
    bounds, count = gmm.bounds, len(gmm.weights)
    arrays = (gmm.transform.projection, gmm.weights, gmm.means, gmm.variances)
    if [array.ndim for array in arrays] != [3, 1, 2, 2] or any(array.dtype != np.float32 for array in arrays):
        return False
    if bounds.ndim != 1 or bounds.dtype != np.int32 or gmm.transform.projection.shape[1] % 2 == 0:
        return False
    if gmm.means.shape != gmm.variances.shape or gmm.means.shape != (count, len(gmm.transform.projection)):
        return False
    if bounds[0] != 0 or bounds[-1] != count or (np.diff(bounds.astype(np.int64)) < 1).any():
        return False
    positive = (gmm.weights > 0).all() and (gmm.variances > 0).all()
    values = (gmm.transform.projection, gmm.weights, gmm.means, gmm.variances)
    return bool(positive and all(np.isfinite(value).all() for value in values))


@compiled(fastmath=True)
def _subtract_greatest(scores, constants, bounds, tops):  # type: ignore[no-untyped-def]
    """``scores`` ``[gaussians, frames]`` plus constants, minus the state's maximum, which goes to ``tops``."""
    frames = scores.shape[1]
    for state in range(len(bounds) - 1):
        tops[state] = np.float32(-1e30)
        for g in range(bounds[state], bounds[state + 1]):
            for t in range(frames):
                scores[g, t] += constants[g]
                tops[state, t] = max(tops[state, t], scores[g, t])
        for g in range(bounds[state], bounds[state + 1]):
            for t in range(frames):
                scores[g, t] -= tops[state, t]


@compiled(fastmath=True)
def _add_up(scores, bounds, sums):  # type: ignore[no-untyped-def]
    """Sums over each state's Gaussians: ``[gaussians, frames]`` -> ``[states, frames]``."""
    for state in range(len(bounds) - 1):
        sums[state] = 0
        for g in range(bounds[state], bounds[state + 1]):
            for t in range(scores.shape[1]):
                sums[state, t] += scores[g, t]
