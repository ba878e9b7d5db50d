"""The mass of all but the best states on a GPU, at several temperatures in one pass over memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from asr_kd.gpu_kernels import by_rows, kernels


def tail_sums(log_prob: Tensor, state: Tensor, peak: Tensor, temperatures: Sequence[float]) -> Tensor:
    """The sums ``[frames, temperatures]`` of exp((log_prob - peak) / T) over all but the states ``[frames, k]``.

    ``log_prob [frames, states]`` has a type that ``gpu_kernels.serves``; ``peak [frames]`` is finite.
    """
    of_temperatures = torch.tensor(temperatures, dtype=torch.float32, device=log_prob.device)
    return _tail_sums(log_prob.contiguous(), state.contiguous(), peak.contiguous(), of_temperatures)


@torch.library.custom_op("asr_kd::tail_sums", mutates_args=())
def _tail_sums(log_prob: Tensor, state: Tensor, peak: Tensor, temperatures: Tensor) -> Tensor:
    sums, chosen = _like(log_prob, state, peak, temperatures), state.shape[1]
    by_rows(
        kernels("targets.triton_tails").tail_sums,
        log_prob,
        state,
        peak,
        temperatures,
        sums,
        CHOSEN=chosen,
        TEMPERATURES=len(temperatures),
        ALL=chosen == log_prob.shape[1],
    )
    return sums


@_tail_sums.register_fake
def _like(log_prob: Tensor, _state: Tensor, _peak: Tensor, temperatures: Tensor) -> Tensor:
    return log_prob.new_empty(len(log_prob), len(temperatures), dtype=torch.float32)
