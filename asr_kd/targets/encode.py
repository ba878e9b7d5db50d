"""Log-probabilities of every state -> the tensors of a target store."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.forms import LEAST, sample, top_k


def encode(log_prob: Tensor, config: TargetConfig, random: np.random.Generator) -> dict[str, np.ndarray]:
    """``log_prob`` ``[frames, states]`` (natural log, T = 1) in the form of ``config``.

    Raises ``UserError`` where a value is NaN or a frame's distribution is empty.
    """
    _check(log_prob)
    if config.form == "dense":
        return {"log_prob": _half(log_prob)}
    if config.form == "sampled":
        start = torch.from_numpy(random.random(len(log_prob)))
        prob = (log_prob / config.temperatures[0]).softmax(1)
        state, weight = sample(prob, config.k, start.to(prob.device))
        return {"target_state": state.int().cpu().numpy(), "weight": weight.half().cpu().numpy()}
    state, values, tails = top_k(log_prob, config.k, config.temperatures)
    return {"target_state": state.int().cpu().numpy(), "log_prob": _half(values), "log_tail": _half(tails)}


def draws_of(utterance: str, seed: int) -> np.random.Generator:
    """The random numbers of one utterance: whoever computes it, in whatever order, draws the same."""
    return np.random.default_rng([seed, *hashlib.sha256(utterance.encode()).digest()[:16]])


def _half(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.clamp(min=LEAST).half().cpu().numpy()
    return array


def _check(log_prob: Tensor) -> None:
    best = log_prob.amax(1)  # NaN where any is
    if not torch.isfinite(best).all():
        frame = int((~torch.isfinite(best)).nonzero()[0, 0])
        raise UserError(
            f"the teacher's log-probabilities of frame {frame} are not finite (the greatest is {float(best[frame])});"
            " look at the features, or at the teacher's weights"
        )
