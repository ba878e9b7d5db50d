"""The three forms of soft targets: what each stores of the teachers' distribution, and how it is made.

- ``Dense``: the log-probability of every state.
- ``TopK``: those of the k most probable states, and the mass of all others at each temperature that is asked for.
- ``Sampled``: states and weights, drawn at one temperature so that the mean over draws is the distribution.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

LEAST = -60_000.0  # a log-probability of -inf in float16, which stores hold finite


@dataclasses.dataclass(frozen=True)
class Dense:
    """``log_prob`` ``[frames, states]``: natural log of the teachers' probabilities at T = 1."""

    log_prob: Tensor


@dataclasses.dataclass(frozen=True)
class TopK:
    """The k most probable states of each frame, all different.

    ``state`` ``[frames, k]``, ``log_prob`` ``[frames, k]`` at T = 1, and ``log_tail`` ``[frames]``: the log of the mass
    that ``p_T`` gives to all other states, at the temperature of the objective (-inf: none).
    """

    state: Tensor
    log_prob: Tensor
    log_tail: Tensor


@dataclasses.dataclass(frozen=True)
class Sampled:
    """``state`` and ``weight`` ``[frames, draws]``: states drawn at the temperature of the objective; a state may come
    twice. The weights of a frame add up to 1 in the mean."""

    state: Tensor
    weight: Tensor


SoftTargets = Dense | TopK | Sampled
BLOCK = 1 << 17  # log-probabilities worked on at once: half a megabyte
MOST_PRODUCTS = 64  # the greatest power that is made of products; each adds half a unit in the last place


def top_k(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` best states of ``log_prob`` ``[frames, states]`` at T = 1, best first.

    Returns ``state`` and ``log_prob`` ``[frames, k]``, and ``log_tail`` ``[frames, temperatures]``: the log of the mass
    of all other states of softmax(log_prob / T), summed over these states and not as 1 minus the rest.
    """
    parts = [_top_k(rows, k, temperatures) for rows in log_prob.split(max(1, BLOCK // log_prob.shape[1]))]
    states, values, tails = (torch.cat(each) for each in zip(*parts, strict=True))
    return states, values, tails


def _top_k(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """``top_k`` of frames that fit into a processor's cache, where these steps are many times faster."""
    best, order = _best(log_prob, min(k + 1, log_prob.shape[1]))
    values, states = best[:, :k], order[:, :k]
    # The greatest of the rest, so that not all of it underflows; finite, since -inf less itself is no number.
    peak, highest = best[:, -1:].clamp(min=torch.finfo(best.dtype).min), max(temperatures)
    rest = log_prob.sub(peak).div_(highest).exp_().scatter_(1, states, 0.0)
    tails = []
    for temperature in temperatures:
        outside = peak[:, 0] / temperature + _power(rest, highest / temperature).sum(1).log()
        inside = (values / temperature).logsumexp(1)
        tails.append(outside - torch.logaddexp(outside, inside))
    return states, values, torch.stack(tails, 1)


def _best(log_prob: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As ``log_prob.topk(k, dim=1)``; on a CPU in a third of its time, and of equal states the first ones."""
    if log_prob.device.type != "cpu" or log_prob.dtype != torch.float32:
        best, order = log_prob.topk(k, dim=1)
        return best, order
    values, states = np.empty((len(log_prob), k), np.float32), np.empty((len(log_prob), k), np.int64)
    _select(log_prob.contiguous().numpy(), values, states)
    return torch.from_numpy(values), torch.from_numpy(states)


@njit(cache=True, nogil=True)
def _select(rows, values, states):  # type: ignore[no-untyped-def]
    """The greatest of each row in order: few elements get past the least of the best so far."""
    k = values.shape[1]
    for i in range(len(rows)):
        row, best, order, held = rows[i], values[i], states[i], 0
        for state in range(len(row)):
            value = row[state]
            if held == k and not value > best[k - 1]:
                continue
            place = held if held < k else k - 1
            while place and value > best[place - 1]:
                best[place], order[place] = best[place - 1], order[place - 1]
                place -= 1
            best[place], order[place] = value, state
            held = min(held + 1, k)


def _power(base: Tensor, exponent: float) -> Tensor:
    """``base ** exponent``; small whole exponents by products, which take a tenth of the time of an exponential."""
    if exponent != int(exponent) or exponent > MOST_PRODUCTS:
        return base**exponent
    result, left, square = None, int(exponent), base
    while left:
        if left % 2:
            result = square if result is None else result * square
        left //= 2
        square = square * square if left else square
    assert result is not None  # the exponent is at least 1
    return result


def sample(prob: Tensor, draws: int, start: Tensor) -> tuple[Tensor, Tensor]:
    """``draws`` different states of each frame of ``prob`` ``[frames, states]``, and weights whose mean is ``prob``.

    A state of at least the probability t is drawn for certain and weighs what it is; one of less is drawn with
    probability p / t and weighs t, where t makes ``draws`` states in all. No other unbiased choice of as many states
    has a smaller sum of variances (Cohen, Duffield, Kaplan, Lund and Thorup, "Efficient stream sampling for
    variance-optimal estimation of subset sums", 2011), and the weights add up to 1 exactly. ``start`` ``[frames]``
    uniform in [0, 1): systematic sampling (Madow 1949) needs one random number for a frame. Returns ``state`` and
    ``weight`` ``[frames, draws]``.
    """
    prob = prob.double().clamp(min=1e-30)  # so that there are enough states that can be drawn
    prob = prob / prob.sum(1, keepdim=True)
    best, places = prob.topk(draws, dim=1)
    others = prob.scatter(1, places, 0).sum(1, keepdim=True)
    left = others + best.flip(1).cumsum(1).flip(1)  # mass of all but the best 0, 1, 2, ...
    limits = left / torch.arange(draws, 0, -1, device=prob.device)  # t, were the best 0, 1, 2, ... certain
    certain = (best > limits).int().cumprod(1).sum(1, keepdim=True).clamp(max=draws - 1)
    limit = limits.gather(1, certain)
    sums = (prob / limit).clamp(max=1).cumsum(1)
    sums *= draws / sums[:, -1:]
    steps = (sums + start[:, None].double().clamp(1e-9, 1 - 1e-9)).floor()
    chosen = steps.diff(dim=1, prepend=torch.zeros_like(steps[:, :1])) > 0
    state = chosen.nonzero()[:, 1].view(-1, draws)
    return state, torch.maximum(prob.gather(1, state), limit)
