"""Re-estimation of Gaussian mixtures on frames with known states: statistics, update, splitting."""

import dataclasses
import heapq
import itertools

import numpy as np

from asr_kd.compiling import compiled, inlined
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.transform import WindowTransform
from asr_kd.parallel import Shared, parallel_threads

_MIN_OCCUPANCY = 10.0  # frames; a Gaussian with less is dropped, unless it is the last of its state
_MIN_SPLIT = 20.0  # frames for each Gaussian; a state with fewer gets no more Gaussians
_PERTURB = 0.1  # standard deviations by which the halves of a split Gaussian move apart, at random


@dataclasses.dataclass(frozen=True)
class GaussianSums:
    """Sums over the frames of each Gaussian, about its present mean.

    ``occupancy`` ``[gaussians]``, ``first`` and ``second`` ``[gaussians, dim]`` float64 and ``log_likelihood``, the
    sum over all frames.
    """

    occupancy: np.ndarray
    first: np.ndarray
    second: np.ndarray
    log_likelihood: float


def class_sums(frames: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count ``[classes]``, sum and sum of squares ``[classes, dim]`` (float64) of ``frames`` by label."""
    return _class_sums(frames, labels, classes)


def single_gaussians(
    frames: np.ndarray, states: np.ndarray, num_states: int, transform: WindowTransform, floor: np.ndarray
) -> Gmm:
    """One Gaussian for each state; a state without frames gets those of all frames."""
    count, first, second = class_sums(frames, states, num_states)
    empty = count == 0
    count[empty], first[empty], second[empty] = count.sum(), first.sum(0), second.sum(0)
    means = first / count[:, None]
    variances = np.maximum(second / count[:, None] - means**2, floor)
    weights = np.ones(num_states, np.float32)
    bounds = np.arange(num_states + 1, dtype=np.int32)
    return Gmm(transform, weights, means.astype(np.float32), variances.astype(np.float32), bounds)


def accumulate(gmm: Gmm, frames: Shared[np.ndarray], states: np.ndarray, jobs: int = 1) -> GaussianSums:
    """The E step: each frame's posteriors over the Gaussians of its state. The same sums for any ``jobs``.

    ``frames`` ``[frames, dim]`` are transformed; ``states`` ``[frames]``.
    """
    order = np.argsort(states, kind="stable")
    bounds = np.searchsorted(states[order], np.arange(gmm.num_states + 1))
    shares = np.searchsorted(bounds, np.linspace(0, len(states), 8 * jobs + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], shares, [gmm.num_states]])).tolist()
    precisions, parts = 1 / gmm.variances, []
    for low, high in itertools.pairwise(edges):
        own, gaussians = slice(bounds[low], bounds[high]), slice(gmm.bounds[low], gmm.bounds[high])
        model = gmm.means[gaussians], precisions[gaussians], gmm.constants[gaussians]
        counts = bounds[low : high + 1] - bounds[low], gmm.bounds[low : high + 1] - gmm.bounds[low]
        parts.append(_Part(frames, order[own], *model, *counts))
    with parallel_threads(jobs) as pool:
        sums = list(pool.map(_sums, parts))
    occupancy, first, second, likelihood = (np.concatenate(columns) for columns in zip(*sums, strict=True))
    return GaussianSums(occupancy, first, second, float(likelihood.sum()))


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some states: the frames ``order`` are theirs, and their Gaussians.

    ``frame_bounds`` and ``bounds`` ``[states + 1]``: the frames (among ``order``) and the Gaussians of each state.
    """

    frames: Shared[np.ndarray]
    order: np.ndarray
    means: np.ndarray
    precisions: np.ndarray
    constants: np.ndarray
    frame_bounds: np.ndarray
    bounds: np.ndarray


def _sums(part: _Part) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Occupancy, first and second order sums of the Gaussians, and the log-likelihood of each state's frames."""
    frames, order, states = part.frames.value, part.order, len(part.bounds) - 1
    if not frames.flags.writeable:  # arrays from another process are copied: for these, other code would be compiled
        frames, order = frames[order], np.arange(len(order))
    model = map(np.array, (part.frame_bounds, part.means, part.precisions, part.constants, part.bounds))
    occupancy, likelihood = np.zeros(len(part.means)), np.zeros(states)
    first, second = np.zeros(part.means.shape), np.zeros(part.means.shape)
    _accumulate(frames, order, *model, 0, states, occupancy, first, second, likelihood)
    return occupancy, first, second, likelihood


def update(gmm: Gmm, statistics: GaussianSums, floor: np.ndarray) -> Gmm:
    """The M step, with variances at least ``floor`` ``[dim]``; Gaussians with hardly any occupancy are dropped."""
    state = np.repeat(np.arange(gmm.num_states), np.diff(gmm.bounds))
    occupancy = statistics.occupancy
    best = np.zeros(gmm.num_states)
    np.maximum.at(best, state, occupancy)
    keep = (occupancy >= _MIN_OCCUPANCY) | (occupancy == best[state])
    keep[np.flatnonzero(keep)] &= ~_repeats(state[keep], occupancy[keep] < _MIN_OCCUPANCY)
    seen = occupancy > 0
    share = np.maximum(occupancy, 1e-10)[:, None]
    shift = statistics.first / share
    means = np.where(seen[:, None], gmm.means + shift, gmm.means)
    few = occupancy < _MIN_OCCUPANCY  # too few frames to estimate a variance
    variances = np.where(few[:, None], gmm.variances, np.maximum(statistics.second / share - shift**2, floor))
    kept = np.where(keep, np.maximum(occupancy, 1e-10), 0)
    weights = kept / np.bincount(state, kept)[state]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(state[keep], minlength=gmm.num_states))]).astype(np.int32)
    weights, means, variances = (array[keep].astype(np.float32) for array in (weights, means, variances))
    return Gmm(gmm.transform, weights, means, variances, bounds)


def _repeats(states: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Which of the Gaussians with low occupancy follow another one of the same state: ties for the state's best."""
    return low & (np.diff(states, prepend=-1) == 0)


def split(gmm: Gmm, occupancy: np.ndarray, target: int, power: float, rng: np.random.Generator) -> Gmm:
    """Split Gaussians until there are ``target``, allocated to the states by occupancy to the ``power``.

    ``occupancy`` ``[states]`` frames. In a state the heaviest Gaussian is split first, into two halves moved apart.
    """
    counts = _split_counts(np.diff(gmm.bounds), occupancy, target, power)
    weights, means, variances = [], [], []
    for state, count in enumerate(counts):
        own = slice(gmm.bounds[state], gmm.bounds[state + 1])
        heavy, centres, spreads = list(gmm.weights[own]), list(gmm.means[own]), list(gmm.variances[own])
        while len(heavy) < count:
            parent = int(np.argmax(heavy))
            heavy[parent] /= 2
            offset = _PERTURB * np.sqrt(spreads[parent]) * rng.standard_normal(gmm.means.shape[1], np.float32)
            heavy.append(heavy[parent])
            centres.append(centres[parent] + offset)
            centres[parent] = centres[parent] - offset
            spreads.append(spreads[parent])
        weights += heavy
        means += centres
        variances += spreads
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Gmm(gmm.transform, np.array(weights, np.float32), np.array(means), np.array(variances), bounds)


def _split_counts(counts: np.ndarray, occupancy: np.ndarray, target: int, power: float) -> list[int]:
    """Gaussians of each state: one at a time goes to the state with the most (occupancy ^ power) per Gaussian."""
    result = counts.tolist()
    queue = [(-(frames**power) / n, state) for state, (n, frames) in enumerate(zip(result, occupancy, strict=True))]
    heapq.heapify(queue)
    missing = target - sum(result)
    while missing > 0 and queue:
        _, state = heapq.heappop(queue)
        if occupancy[state] >= _MIN_SPLIT * (result[state] + 1):
            result[state] += 1
            missing -= 1
            heapq.heappush(queue, (-(occupancy[state] ** power) / result[state], state))
    return result


def mllt_statistics(gmm: Gmm, frames: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, float]:
    """The statistics for ``transform.mllt``: ``[dim, dim, dim]`` float64 and the sum of the posteriors."""
    order = np.argsort(states, kind="stable")
    bounds = np.searchsorted(states[order], np.arange(gmm.num_states + 1))
    precisions = 1 / gmm.variances
    return _mllt_statistics(frames, order, bounds, gmm.means, precisions, gmm.constants, gmm.bounds)


@compiled()
def _class_sums(frames, labels, classes):  # type: ignore[no-untyped-def]
    dim = frames.shape[1]
    count, first, second = np.zeros(classes), np.zeros((classes, dim)), np.zeros((classes, dim))
    for t in range(len(frames)):
        label = labels[t]
        count[label] += 1
        for d in range(dim):
            first[label, d] += frames[t, d]
            second[label, d] += np.float64(frames[t, d]) * frames[t, d]
    return count, first, second


@inlined(fastmath=True)
def _posteriors(frame, means, precisions, constants, low, high, posterior):  # type: ignore[no-untyped-def]
    """Fill ``posterior`` with those of the Gaussians ``low:high``; returns the frame's log-likelihood."""
    top = np.float32(-1e30)
    for g in range(low, high):
        distance = np.float32(0)
        for d in range(len(frame)):
            gap = frame[d] - means[g, d]
            distance += gap * gap * precisions[g, d]
        posterior[g - low] = constants[g] - np.float32(0.5) * distance
        top = max(top, posterior[g - low])
    total = np.float32(0)
    for k in range(high - low):
        posterior[k] = np.exp(posterior[k] - top)
        total += posterior[k]
    for k in range(high - low):
        posterior[k] /= total
    return top + np.log(total)


@compiled(fastmath=True)
def _accumulate(  # type: ignore[no-untyped-def]
    frames, order, frame_bounds, means, precisions, constants, bounds, state, end, occupancy, first, second, likelihood
):
    posterior = np.empty(np.max(np.diff(bounds)), np.float32)
    for s in range(state, end):
        for i in range(frame_bounds[s], frame_bounds[s + 1]):
            frame = frames[order[i]]
            likelihood[s] += _posteriors(frame, means, precisions, constants, bounds[s], bounds[s + 1], posterior)
            for g in range(bounds[s], bounds[s + 1]):
                weight = posterior[g - bounds[s]]
                if weight > np.float32(1e-5):
                    occupancy[g] += weight
                    for d in range(len(frame)):
                        gap = frame[d] - means[g, d]
                        first[g, d] += weight * gap
                        second[g, d] += weight * gap * gap


@compiled(fastmath=True)
def _mllt_statistics(frames, order, frame_bounds, means, precisions, constants, bounds):  # type: ignore[no-untyped-def]
    dim = means.shape[1]
    result = np.zeros((dim, dim, dim))
    count = 0.0
    posterior = np.empty(np.max(np.diff(bounds)), np.float32)
    scatter = np.empty((len(posterior), dim, dim))
    for s in range(len(bounds) - 1):
        low, high = bounds[s], bounds[s + 1]
        scatter[: high - low] = 0
        for i in range(frame_bounds[s], frame_bounds[s + 1]):
            frame = frames[order[i]]
            _posteriors(frame, means, precisions, constants, low, high, posterior)
            for g in range(low, high):
                weight = posterior[g - low]
                if weight > np.float32(0.01):
                    count += weight
                    gap = frame - means[g]
                    for d in range(dim):
                        scaled = weight * gap[d]
                        for e in range(dim):
                            scatter[g - low, d, e] += scaled * gap[e]
        for g in range(low, high):
            for row in range(dim):
                for d in range(dim):
                    for e in range(dim):
                        result[row, d, e] += precisions[g, row] * scatter[g - low, d, e]
    return result, count
