"""The three forms of soft targets: what each stores of the teachers' distribution, and how it is made.

- ``Dense``: the log-probability of every state.
- ``TopK``: those of the k most probable states, and the mass of all others at each temperature that is asked for.
- ``Sampled``: states and weights, drawn at one temperature so that the mean over draws is the distribution.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
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


def top_k(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` best states of ``log_prob`` ``[frames, states]`` at T = 1, best first.

    Returns ``state`` and ``log_prob`` ``[frames, k]``, and ``log_tail`` ``[frames, temperatures]``: the log of the mass
    of all other states of softmax(log_prob / T), summed over these states and not as 1 minus the rest.
    """
    values, states = log_prob.topk(k, dim=1)
    rest = log_prob.scatter(1, states, -math.inf)
    tails = []
    for temperature in temperatures:
        outside = (rest / temperature).logsumexp(1)
        inside = (values / temperature).logsumexp(1)
        tails.append(outside - torch.logaddexp(outside, inside))
    return states, values, torch.stack(tails, 1)


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
