"""The three forms of soft targets: what each stores of the teacher's distribution, and how it is computed.

- ``Dense``: the log-probability of every state.
- ``TopK``: those of the k most probable states, and the total mass of all others at each requested temperature.
- ``Sampled``: states and weights, drawn at one temperature so that the mean over draws is the distribution.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr_kd import gpu_kernels
from asr_kd.compiling import compiled, inlined
from asr_kd.kernels import exponentials
from asr_kd.targets.gpu_tails import tail_sums

LEAST = -60_000.0  # a log-probability of -inf in float16, which stores hold finite


@dataclasses.dataclass(frozen=True)
class Dense:
    """``log_prob`` ``[frames, states]``: natural log of the teacher's probabilities at T = 1."""

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
    """``state`` and ``weight`` ``[frames, draws]``: states drawn at the temperature of the objective; a state may occur
    twice. The weights of a frame add up to 1 on average."""

    state: Tensor
    weight: Tensor


SoftTargets = Dense | TopK | Sampled
GROUP = 16  # states whose maximum takes one or two vector instructions
HALVINGS = 20  # at most, in the bisection for the smallest of the k best
PIECE = 1024  # states whose powers are summed at once
MOST_PRODUCTS = 64  # the largest power computed by products; each product adds half a unit in the last place


def top_k(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` best states of ``log_prob`` ``[frames, states]`` at T = 1, best first.

    Returns ``state`` and ``log_prob`` ``[frames, k]``, and ``log_tail`` ``[frames, temperatures]``: the log of the mass
    of all other states of softmax(log_prob / T), summed over these states and not as 1 minus the rest.
    """
    compiled = log_prob.device.type == "cpu" and log_prob.dtype == torch.float32
    best, order, sums = (_best_and_sums if compiled else _best_and_sums_by_torch)(log_prob, k, temperatures)
    divisors = torch.tensor(temperatures, dtype=best.dtype, device=best.device)
    values, peak = best[:, :k], _finite(best[:, -1:])
    outside = peak / divisors + sums.log()
    inside = (values[:, :, None] / divisors).logsumexp(1)
    return order[:, :k], values, outside - torch.logaddexp(outside, inside)


def _finite(peak: Tensor) -> Tensor:
    """The largest log-probability outside the k best, finite: -inf minus itself would be NaN."""
    return peak.clamp(min=torch.finfo(peak.dtype).min)


def _best_and_sums_by_torch(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` best log-probabilities and the next one, where there is one, their states, and the sums
    ``[frames, temperatures]`` of exp((log_prob - that) / T) over all but the ``k`` best."""
    best, order = log_prob.topk(min(k + 1, log_prob.shape[1]), dim=1)
    if gpu_kernels.serves(log_prob):
        return best, order, tail_sums(log_prob, order[:, :k], _finite(best[:, -1]), temperatures)
    relative = log_prob - _finite(best[:, -1:])
    sums = [(relative / temperature).exp_().scatter_(1, order[:, :k], 0.0).sum(1) for temperature in temperatures]
    return best, order, torch.stack(sums, 1)


def _best_and_sums(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_best_and_sums_by_torch``, in a fifth of its time; among equal states, the first ones win.

    Exponentials at temperatures that divide the highest one are powers of the exponentials at the highest, computed
    as products in a tenth of the time.
    """
    rows, held = log_prob.contiguous().numpy(), min(k + 1, log_prob.shape[1])
    best, order = np.empty((len(rows), held), np.float32), np.empty((len(rows), held), np.int64)
    ratios = [max(temperatures) / temperature for temperature in temperatures]
    powers, products = _chain([int(ratio) for ratio in ratios if ratio == int(ratio) <= MOST_PRODUCTS])
    places = np.array([powers.index(int(ratio)) if ratio in powers else -1 for ratio in ratios])
    sums = np.empty((len(rows), len(temperatures)), np.float32)
    _of_rows(rows, k, np.array(temperatures), places, products, best, order, sums)
    return torch.from_numpy(best), torch.from_numpy(order), torch.from_numpy(sums)


def _chain(powers: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """An addition chain to ``powers``: numbers from 1 on, and the places of two that add up to each further one."""
    chain, products = [1], list[tuple[int, int]]()
    for power in sorted(set(powers) - {1}):
        while power not in chain:
            pairs = [(i, j) for i in range(len(chain)) for j in range(i + 1) if chain[i] + chain[j] <= power]
            i, j = max(pairs, key=lambda pair: chain[pair[0]] + chain[pair[1]])
            chain.append(chain[i] + chain[j])
            products.append((i, j))
    return chain, np.array(products, np.int64).reshape(-1, 2)


@compiled()
def _of_rows(rows, k, temperatures, places, products, best, order, sums):  # type: ignore[no-untyped-def]
    size, highest = rows.shape[1], temperatures.max()
    maxima, candidates = np.empty(size // GROUP, np.float32), np.empty(size + 1, np.int64)
    base, bits = np.empty(size, np.float32), np.empty(size, np.int32)
    powers, totals = np.empty((len(products) + 1, PIECE), np.float32), np.empty(len(products) + 1, np.float32)
    for i in range(len(rows)):
        _select(rows[i], best[i], order[i], maxima, candidates)
        peak = best[i, -1]
        if peak == -np.inf:  # no other state is possible, and -inf minus itself is NaN
            sums[i] = 0
            continue
        for e in range(len(places)):
            if places[e] < 0:
                sums[i, e] = _sum_outside(rows[i], peak, temperatures[e], order[i, :k], base, bits)
        totals[0] = _sum_outside(rows[i], peak, highest, order[i, :k], base, bits)
        _sum_powers(base, products, powers, totals)
        for e in range(len(places)):
            if places[e] >= 0:
                sums[i, e] = totals[places[e]]


@inlined()
def _sum_outside(row, peak, temperature, chosen, result, bits):  # type: ignore[no-untyped-def]
    """The sum of ``result``, exp((row - peak) / T) but 0 for those that are ``chosen``."""
    scale = np.float32(1 / temperature)
    exponentials(row, scale, peak * scale, result, bits)
    for state in chosen:
        result[state] = 0
    return _sum(result)


@inlined(fastmath={"reassoc", "nsz"})
def _sum(row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(len(row)):
        total += row[j]
    return total


@inlined(fastmath={"nnan", "nsz"})
def _select(row, best, order, maxima, candidates):  # type: ignore[no-untyped-def]
    """The greatest of a row in order, without NaN. A number that as many of the maxima of groups reach is a lower bound
    of them: passes of vector instructions, and few elements that are looked at one by one."""
    size, groups = len(row), len(maxima)
    for group in range(groups):
        most = row[group * GROUP]
        for state in range(group * GROUP + 1, (group + 1) * GROUP):
            most = max(most, row[state])
        maxima[group] = most
    bound = _bound(maxima, len(best))
    found = 0
    for group in range(groups + 1):
        if group == groups or maxima[group] >= bound:
            for state in range(group * GROUP, min((group + 1) * GROUP, size)):
                candidates[found] = state  # without a branch, which would be mispredicted
                found += row[state] >= bound
    held = 0
    for state in candidates[:found]:
        held = _insert(row[state], state, best, order, held)


@inlined(fastmath={"nnan", "nsz"})
def _bound(maxima, k):  # type: ignore[no-untyped-def]
    """A number that at least ``k`` of ``maxima`` reach, and usually few more."""
    nothing = np.float32(-np.inf)
    if len(maxima) < k:
        return nothing
    high = nothing
    for group in range(len(maxima)):
        high = max(high, maxima[group])
    step, above, low = np.float32(1), high, high - np.float32(1)
    reached = _reaching(maxima, low)
    while reached < k:
        if step > 1e30:
            return nothing
        step *= np.float32(2)
        above, low = low, high - step
        reached = _reaching(maxima, low)
    for _ in range(HALVINGS):
        if reached <= k + k // 8:
            break
        middle = (low + above) / np.float32(2)
        reach = _reaching(maxima, middle)
        if reach < k:
            above = middle
        else:
            low, reached = middle, reach
    return low


@inlined()
def _reaching(maxima, bound):  # type: ignore[no-untyped-def]
    count = np.int32(0)
    for group in range(len(maxima)):
        count += np.int32(maxima[group] >= bound)
    return count


@inlined()
def _insert(value, state, best, order, held):  # type: ignore[no-untyped-def]
    """Insert a value into the sorted ``best`` if it is among the largest; returns how many are held."""
    k = len(best)
    if held == k and not value > best[k - 1]:
        return held
    place = held if held < k else k - 1
    while place and value > best[place - 1]:
        best[place], order[place] = best[place - 1], order[place - 1]
        place -= 1
    best[place], order[place] = value, state
    return min(held + 1, k)


@inlined(fastmath={"reassoc", "nsz"})
def _sum_powers(base, products, powers, totals):  # type: ignore[no-untyped-def]
    """``totals`` but the first: sums of the powers of ``base`` that ``products`` make, in pieces that stay, with all
    their powers, in the first cache."""
    totals[1:] = 0
    for begin in range(0, len(base), PIECE):
        count = min(PIECE, len(base) - begin)
        for j in range(count):
            powers[0, j] = base[begin + j]
        for number in range(len(products)):
            one, other, product = powers[products[number, 0]], powers[products[number, 1]], powers[number + 1]
            total = np.float32(0)
            for j in range(count):
                product[j] = one[j] * other[j]
                total += product[j]
            totals[number + 1] += total


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
