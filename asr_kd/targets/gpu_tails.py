"""The mass of all but the best states on a GPU, at several temperatures in one pass over memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from asr_kd.gpu_kernels import by_rows, kernels, operator, power_of_two


def tail_sums(log_prob: Tensor, state: Tensor, peak: Tensor, temperatures: Sequence[float]) -> Tensor:
    """The sums ``[frames, temperatures]`` of exp((log_prob - peak) / T) over all but the states ``[frames, k]``.

    ``log_prob [frames, states]`` has a type that ``gpu_kernels.serves``; ``peak [frames]`` is finite.
    """
    of_temperatures = torch.tensor(temperatures, dtype=torch.float32, device=log_prob.device)
    return _tail_sums(log_prob.contiguous(), state.contiguous(), peak.contiguous(), of_temperatures)


def _sums(log_prob: Tensor, _state: Tensor, _peak: Tensor, temperatures: Tensor) -> Tensor:
    return log_prob.new_empty(len(log_prob), len(temperatures), dtype=torch.float32)


@operator("tail_sums(Tensor log_prob, Tensor state, Tensor peak, Tensor temperatures) -> Tensor", _sums)
def _tail_sums(log_prob: Tensor, state: Tensor, peak: Tensor, temperatures: Tensor) -> Tensor:
    sums, kernel, count = _sums(log_prob, state, peak, temperatures), kernels("targets.triton_tails"), len(temperatures)
    widths = {"CHOSEN": state.shape[1], "TEMPERATURES": count, "SLOTS": power_of_two(count)}
    by_rows(kernel.tail_sums, log_prob, state, peak, temperatures, sums, **widths)
    return sums
