"""The exponentials of the student's logits, which the objective of distillation needs at T and at 1.

They are summed over the states of each row, but for those that are *inside* (the k states of top-k targets), and
later spread into the gradient. All is relative to the greatest logit outside, so that no digits go to a large
constant, and the mass of the others is a sum: as 1 minus the rest it would lose its digits where it is small.

``TorchRows`` keeps the exponentials in a tensor, on any device and in any precision. ``FusedRows``, for float32 on a
CPU, makes them anew for the gradient: a row stays in the cache, and threads meet twice instead of at each operation.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from asr_kd.threads import compiled, in_threads


class TorchRows:
    """``logits [rows, states]`` at ``temperature``, but for the states ``inside [rows, k]``.

    ``top [rows, 1]``: what all is relative to, in logits over T. ``log_outside`` and ``log_outside_at_one``
    ``[rows, 1]``: logs of sums of exponentials. ``relative``: the logits over T, relative to ``top``, -inf inside.
    """

    def __init__(self, logits: Tensor, inside: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self.relative = logits / temperature
        self.top = _top(self.relative, inside)
        self.relative -= self.top
        self._outside = self.relative.exp()
        self.log_outside = self._outside.sum(1, keepdim=True).log_()

    @functools.cached_property
    def _at_one(self) -> Tensor:
        if self.temperature == 1:
            return self._outside
        if self.temperature == 2:  # the square of an exponential is cheaper than another one
            return self._outside.square()
        return (self.relative * self.temperature).exp_()

    @property
    def log_outside_at_one(self) -> Tensor:
        """See the class."""
        return self._at_one.sum(1, keepdim=True).log_()

    def spread(self, soft: Tensor, hard: Tensor | None, gradient: Tensor) -> None:
        """``gradient [rows, states]`` outside: ``soft`` times the exponentials at T plus ``hard`` times those at 1."""
        torch.mul(self._outside, soft, out=gradient)
        if hard is not None:
            gradient.addcmul_(self._at_one, hard)


def _top(relative: Tensor, inside: Tensor) -> Tensor:
    """The greatest value outside, where -inf is set inside; of all where all are inside."""
    if inside.shape[1] == relative.shape[1]:
        top = relative.amax(1, keepdim=True)
        relative.fill_(-math.inf)
        return top
    return relative.scatter_(1, inside, -math.inf).amax(1, keepdim=True)


class FusedRows:
    """As ``TorchRows``, without ``relative``."""

    def __init__(self, logits: Tensor, inside: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self._logits = logits.numpy()
        found = np.empty((3, len(logits)), np.float32)
        in_threads(_sums, self._logits, inside.numpy(), np.float32(temperature), found)
        self.top, outside, at_one = torch.from_numpy(found)[:, :, None]
        self.log_outside, self.log_outside_at_one = outside.log(), at_one.log()

    def spread(self, soft: Tensor, hard: Tensor | None, gradient: Tensor) -> None:
        """As ``TorchRows``; what it writes inside means nothing."""
        factors = torch.cat([self.top, soft, torch.zeros_like(soft) if hard is None else hard], 1).numpy()
        in_threads(_spread, self._logits, np.float32(self.temperature), factors, gradient.numpy())


LANES = 64  # maxima side by side, which the compiler makes one vector of


@compiled
def _exponentials(row, scale, top, result, bits):  # type: ignore[no-untyped-def]
    """``result = exp(scale row - top)`` to 2e-7, 0 below exp(-87). ``bits``, int32, is of use in here alone.

    2^n e^r with the polynomial for e^r of Moshier's Cephes library ("expf"), a form that compilers make vectors of.
    """
    for j in range(len(row)):
        x = scale * row[j] - top
        x = np.float32(-88) if x < np.float32(-87) else x
        n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        result[j] = p * r * r + r + np.float32(1)
        bits[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
    power = bits.view(np.float32)
    for j in range(len(row)):
        result[j] *= power[j]


@compiled
def _greatest(row):  # type: ignore[no-untyped-def]
    lanes = np.full(LANES, -np.inf, np.float32)
    whole = len(row) // LANES * LANES
    for j in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] = row[j + lane] if row[j + lane] > lanes[lane] else lanes[lane]
    top = lanes.max()
    for j in range(whole, len(row)):
        top = max(top, row[j])
    return top


@compiled
def _sums(logits, inside, temperature, found, begin, end):  # type: ignore[no-untyped-def]
    """``found [3, rows]``: top, and the sums of exponentials outside at T and at 1."""
    states = logits.shape[1]
    row, result, bits = np.empty(states, np.float32), np.empty(states, np.float32), np.empty(states, np.int32)
    scale = np.float32(1) / temperature
    for i in range(begin, end):
        row[:] = logits[i]
        if inside.shape[1] == states:
            top = _greatest(row)
            row[:] = -np.inf
        else:
            for k in range(inside.shape[1]):
                row[inside[i, k]] = -np.inf
            top = _greatest(row)
        _exponentials(row, scale, top * scale, result, bits)
        found[0, i] = top * scale
        total = np.float32(0)
        for j in range(states):
            total += result[j]
        found[1, i] = total
        total = np.float32(0)
        if temperature == 2:
            for j in range(states):
                total += result[j] * result[j]
        else:
            _exponentials(row, np.float32(1), top, result, bits)
            for j in range(states):
                total += result[j]
        found[2, i] = total


@compiled
def _spread(logits, temperature, factors, gradient, begin, end):  # type: ignore[no-untyped-def]
    """``factors [rows, 3]``: top, and what exponentials at T and at 1 are multiplied by."""
    states = logits.shape[1]
    result, at_one, bits = np.empty(states, np.float32), np.empty(states, np.float32), np.empty(states, np.int32)
    scale = np.float32(1) / temperature
    for i in range(begin, end):
        top, soft, hard = factors[i]
        out = gradient[i]
        _exponentials(logits[i], scale, top, result, bits)
        if hard == 0:
            for j in range(states):
                out[j] = soft * result[j]
        elif temperature == 2:
            for j in range(states):
                out[j] = result[j] * (soft + hard * result[j])
        else:
            _exponentials(logits[i], np.float32(1), top * temperature, at_one, bits)
            for j in range(states):
                out[j] = soft * result[j] + hard * at_one[j]
