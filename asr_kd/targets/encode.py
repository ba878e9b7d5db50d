"""Log-probabilities of every state -> the tensors of a target store."""

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.forms import LEAST, sample, top_k

# Log-probabilities per block: 16 MB in float32, plus several times that for intermediate results; on a GPU, whose
# kernels take as long to start as small ones run, 512 MB.
BLOCK, GPU_BLOCK = 1 << 22, 1 << 27


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: more threads would add in another order and change the bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def encode(log_prob: Tensor, config: TargetConfig, random: np.random.Generator) -> dict[str, np.ndarray]:
    """``log_prob`` ``[frames, states]`` (natural log, T = 1) in the form of ``config``.

    Raises ``UserError`` where a value is NaN or a frame's distribution is empty.
    """
    check_finite(log_prob)
    rows = max(1, (BLOCK if log_prob.device.type == "cpu" else GPU_BLOCK) // log_prob.shape[1])
    parts = [_encode(log_prob[i : i + rows], config, random) for i in range(0, len(log_prob), rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def draws_of(utterance: str, seed: int) -> np.random.Generator:
    """The random numbers of one utterance, the same in any process and order."""
    return np.random.default_rng([seed, *hashlib.sha256(utterance.encode()).digest()[:16]])


def check_finite(log_prob: Tensor) -> None:
    """``UserError`` naming the first frame of ``[frames, states]`` with a NaN, or with no possible state."""
    best = log_prob.amax(1)  # NaN if any value is NaN
    if not torch.isfinite(best).all():
        frame = int((~torch.isfinite(best)).nonzero()[0, 0])
        raise UserError(
            f"the teacher's log-probabilities of frame {frame} are not finite (the largest is {float(best[frame])});"
            " check the features and the teacher's weights"
        )


def _encode(log_prob: Tensor, config: TargetConfig, random: np.random.Generator) -> dict[str, np.ndarray]:
    if config.form == "dense":
        return {"log_prob": _half(log_prob)}
    k = config.states_kept(log_prob.shape[1])
    if config.form == "sampled":
        start = torch.from_numpy(random.random(len(log_prob)))
        prob = (log_prob / config.temperatures[0]).softmax(1)
        state, weight = sample(prob, k, start.to(prob.device))
        return {"target_state": state.int().cpu().numpy(), "weight": weight.half().cpu().numpy()}
    state, values, tails = top_k(log_prob, k, config.temperatures)
    return {"target_state": state.int().cpu().numpy(), "log_prob": _half(values), "log_tail": _half(tails)}


def _half(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.clamp(min=LEAST).half().cpu().numpy()
    return array
