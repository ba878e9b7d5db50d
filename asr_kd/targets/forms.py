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
GROUP = 16  # states whose greatest is found by one vector instruction or two
HALVINGS = 20  # at most, of the span in which the least of the best must be
PIECE = 1024  # states whose powers are added up at once
MOST_PRODUCTS = 64  # the greatest power that is made of products; each adds half a unit in the last place


def top_k(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` best states of ``log_prob`` ``[frames, states]`` at T = 1, best first.

    Returns ``state`` and ``log_prob`` ``[frames, k]``, and ``log_tail`` ``[frames, temperatures]``: the log of the mass
    of all other states of softmax(log_prob / T), summed over these states and not as 1 minus the rest.
    """
    parts = [_top_k(rows, k, temperatures) for rows in log_prob.split(max(1, BLOCK // log_prob.shape[1]))]
    states, values, peak, sums = (torch.cat(each) for each in zip(*parts, strict=True))
    divisors = torch.tensor(temperatures, dtype=values.dtype, device=values.device)
    outside = peak / divisors + sums.log()
    inside = (values[:, :, None] / divisors).logsumexp(1)
    return states, values, outside - torch.logaddexp(outside, inside)


def _top_k(log_prob: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """State and log-probability of the best, the greatest log-probability of the others ``[frames, 1]``, and the sums
    ``[frames, temperatures]`` of exp((log_prob - that) / T) over the others.

    For frames that fit into a processor's cache, where these steps are many times faster.
    """
    best, order = _best(log_prob, min(k + 1, log_prob.shape[1]))
    values, states = best[:, :k], order[:, :k]
    # Not all of the rest underflows beside its greatest; finite, since -inf less itself is no number.
    peak, highest = best[:, -1:].clamp(min=torch.finfo(best.dtype).min), max(temperatures)
    rest = log_prob.sub(peak).div_(highest).exp_().scatter_(1, states, 0.0)
    return states, values, peak, _sums_of_powers(rest, [highest / temperature for temperature in temperatures])


def _best(log_prob: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As ``log_prob.topk(k, dim=1)``; on a CPU in a third of its time, and of equal states the first ones."""
    if log_prob.device.type != "cpu" or log_prob.dtype != torch.float32:
        best, order = log_prob.topk(k, dim=1)
        return best, order
    values, states = np.empty((len(log_prob), k), np.float32), np.empty((len(log_prob), k), np.int64)
    _select(log_prob.contiguous().numpy(), values, states)
    return torch.from_numpy(values), torch.from_numpy(states)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _select(rows, values, states):  # type: ignore[no-untyped-def]
    """The greatest of each row in order, without NaN. A number that k of the maxima of groups reach is a lower bound of
    them: passes of vector instructions, and few elements that are looked at one by one."""
    k, size = values.shape[1], rows.shape[1]
    groups = size // GROUP
    maxima = np.empty(groups, rows.dtype)
    for i in range(len(rows)):
        row, best, order, held = rows[i], values[i], states[i], 0
        for group in range(groups):
            most = row[group * GROUP]
            for state in range(group * GROUP + 1, (group + 1) * GROUP):
                most = max(most, row[state])
            maxima[group] = most
        bound = _bound(maxima, k)
        for group in range(groups + 1):
            if group == groups or maxima[group] >= bound:
                for state in range(group * GROUP, min((group + 1) * GROUP, size)):
                    if row[state] >= bound:
                        held = _insert(row[state], state, best, order, held)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _bound(maxima, k):  # type: ignore[no-untyped-def]
    """A number that at least ``k`` of ``maxima`` reach, and as a rule few more."""
    nothing = np.float32(-np.inf)
    if len(maxima) < k:
        return nothing
    high = nothing
    for value in maxima:
        high = max(high, value)
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


@njit(cache=True, nogil=True)
def _reaching(maxima, bound):  # type: ignore[no-untyped-def]
    count = 0
    for value in maxima:
        count += value >= bound
    return count


@njit(cache=True, nogil=True)
def _insert(value, state, best, order, held):  # type: ignore[no-untyped-def]
    """Put a value, if it is among the greatest, where it belongs in ``best``; the number that is held now."""
    k = len(best)
    if held == k and not value > best[k - 1]:
        return held
    place = held if held < k else k - 1
    while place and value > best[place - 1]:
        best[place], order[place] = best[place - 1], order[place - 1]
        place -= 1
    best[place], order[place] = value, state
    return min(held + 1, k)


def _sums_of_powers(base: Tensor, exponents: Sequence[float]) -> Tensor:
    """``(base ** exponent).sum(1)`` of ``[frames, states]`` for each exponent: ``[frames, exponents]``.

    On a CPU small whole ones are products of shared squares, which take a tenth of the time of exponentials.
    """
    sums = base.new_empty(len(base), len(exponents))
    fast = base.device.type == "cpu" and base.dtype == torch.float32
    whole = [i for i, e in enumerate(exponents) if fast and e == int(e) and e <= MOST_PRODUCTS]
    if whole:
        products = np.zeros((len(base), len(whole)), np.float32)
        _add_powers(base.numpy(), np.array([exponents[i] for i in whole], np.int64), products)
        sums[:, whole] = torch.from_numpy(products)
    for i in set(range(len(exponents))) - set(whole):
        sums[:, i] = (base ** exponents[i]).sum(1)
    return sums


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def _add_powers(base, exponents, sums):  # type: ignore[no-untyped-def]
    """In pieces that stay, with all their powers, in a processor's first cache."""
    square, power = np.empty(PIECE, np.float32), np.empty((len(exponents), PIECE), np.float32)
    for i in range(len(base)):
        for begin in range(0, base.shape[1], PIECE):
            count = min(PIECE, base.shape[1] - begin)
            for j in range(count):
                square[j] = base[i, begin + j]
            bit, last = 1, exponents.max()
            while bit <= last:
                for e in range(len(exponents)):
                    if exponents[e] & bit:
                        sums[i, e] += _multiply(power[e], square, count, exponents[e], bit)
                bit *= 2
                if bit <= last:
                    for j in range(count):
                        square[j] *= square[j]


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def _multiply(power, square, count, exponent, bit):  # type: ignore[no-untyped-def]
    """A step of raising to a power: ``power`` times ``square``; the sum of it, where it is the last step."""
    first, last = not exponent & (bit - 1), exponent < 2 * bit
    total = np.float32(0)
    if first and last:
        for j in range(count):
            total += square[j]
    elif last:
        for j in range(count):
            total += power[j] * square[j]
    elif first:
        for j in range(count):
            power[j] = square[j]
    else:
        for j in range(count):
            power[j] *= square[j]
    return total


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
