"""The layers of a time-delay network in bfloat16 on a CPU, in few passes over memory.

A layer of ``asr_kd.nets.tdnn`` is two matrix products and thirty operations that each read and write all outputs. On a
processor with bfloat16 products these operations dominate a training step. Here a layer is a single autograd operation:
the products, one pass for the taps, and two passes for ReLU, normalisation, dropout and bypass, both forward and
backward. Within a pass numbers are float32; between passes they are rounded to bfloat16, as between the operations of
the modules.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from asr_kd.kernels import bits_of, in_threads, load, row_kernel, store


def applies(x: Tensor, finish: nn.Sequential) -> bool:
    """Whether this module computes what follows a product on ``x``: ReLU and batch normalisation.

    Only in training, or without gradients: gradients through running statistics are not implemented.
    """
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and len(finish) > 1
        and isinstance(finish[0], nn.ReLU)
        and isinstance(finish[1], nn.BatchNorm1d)
        and (finish.training or not torch.is_grad_enabled())
        and not (distributed.is_available() and distributed.is_initialized())
    )


@dataclasses.dataclass(frozen=True)
class _Finished:
    """``relu(z)`` normalised over its rows, times ``mask``, plus ``bypass`` times the middle rows of ``x``."""

    z: Tensor  # [examples, rows, width] bfloat16
    mean: np.ndarray  # of relu(z), [width] float64
    inverse: np.ndarray  # of its standard deviation
    weight: np.ndarray
    mask: np.ndarray  # [examples or 1, width] float32
    bypass: float

    @classmethod
    def forward(
        cls, z: Tensor, norm: nn.BatchNorm1d, mask: Tensor | None, x: Tensor, bypass: float
    ) -> tuple[Tensor, "_Finished"]:
        """The layer's output, and what ``backward`` needs."""
        mean, variance = _statistics(z, norm)
        inverse = 1 / np.sqrt(variance + norm.eps)
        weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        scale, shift = weight * inverse, bias - weight * inverse * mean
        kept = np.ones((1, z.shape[2]), np.float32) if mask is None else mask.float().flatten(1).numpy()
        out = torch.empty_like(z)
        affine = np.stack([scale, shift]).astype(np.float32)
        in_threads(_finish, bits_of(z), bits_of(x), affine, kept, np.float32(bypass), bits_of(out))
        return out, cls(z, mean, inverse, weight, kept, bypass)

    def backward(self, gradient: Tensor, of_x: Tensor) -> tuple[Tensor, ...]:
        """Gradients of ``z``, of the bias added to it, and of the normalisation's weight and bias.

        ``of_x``, in the shape of ``x``, receives the gradient through the bypass.
        """
        examples, rows, width = self.z.shape
        sums = np.empty((examples, 2, width), np.float32)
        in_threads(_sums_back, bits_of(gradient), bits_of(self.z), self.mask, sums)
        of_bias, products = sums.sum(0, dtype=np.float64)
        of_weight = (products - self.mean * of_bias) * self.inverse
        # With n = (relu(z) - mean) inverse: scale (g - mean(g) - n mean(g n)), as a g + b relu(z) + c.
        scale = self.weight * self.inverse
        of_relu = -scale * of_weight * self.inverse / (examples * rows)
        constant = -scale * of_bias / (examples * rows) - of_relu * self.mean
        line = np.stack([scale, of_relu, constant]).astype(np.float32)
        of_z, added = torch.empty_like(self.z), np.empty((examples, width), np.float32)
        in_threads(
            _finish_back, bits_of(gradient), bits_of(self.z), line, self.mask, np.float32(self.bypass), bits_of(of_z),
            bits_of(of_x), added,
        )  # fmt: skip
        of_vectors = (torch.from_numpy(each.astype(np.float32)) for each in (added.sum(0), of_weight, of_bias))
        return of_z, *of_vectors


class FusedLayer(torch.autograd.Function):
    """``FactoredLayer.forward`` of its ``x [examples, frames, width]`` and parameters; ``mask`` is dropout's."""

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        narrow: Tensor,
        widen: Tensor,
        bias: Tensor,
        weight: Tensor,
        shift: Tensor,
        norm: nn.BatchNorm1d,
        mask: Tensor | None,
        dilation: int,
        bypass: float,
    ) -> Tensor:
        """See the class; ``weight`` and ``shift`` are those of ``norm``."""
        examples, frames, width = x.shape
        x, narrow, widen = x.bfloat16().contiguous(), narrow.bfloat16(), widen.bfloat16()
        taps = (x.flatten(0, 1) @ narrow.t()).unflatten(0, (examples, frames))
        pairs = taps.new_empty(examples, frames - 2 * dilation, len(narrow))
        in_threads(_pair, bits_of(taps), bits_of(pairs))
        z = torch.addmm(bias.bfloat16(), pairs.flatten(0, 1), widen.t()).view(examples, -1, width)
        out, context.finished = _Finished.forward(z, norm, mask, x, bypass)
        context.save_for_backward(x, narrow, widen, pairs)
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        x, narrow, widen, pairs = context.saved_tensors
        of_x = torch.empty_like(x)
        of_z, of_bias, of_weight, of_shift = context.finished.backward(gradient.contiguous(), of_x)
        of_z = of_z.flatten(0, 1)
        of_taps = x.new_empty(*x.shape[:2], len(narrow))
        in_threads(_unpair, bits_of((of_z @ widen).view_as(pairs)), bits_of(of_taps))
        of_taps = of_taps.flatten(0, 1)
        of_x.flatten(0, 1).addmm_(of_taps, narrow)
        of_narrow = (of_taps.t() @ x.flatten(0, 1)).float()
        of_widen = (of_z.t() @ pairs.flatten(0, 1)).float()
        return of_x, of_narrow, of_widen, of_bias, of_weight, of_shift, None, None, None, None


class FusedFinish(torch.autograd.Function):
    """What follows the product of a layer without bypass: ``z [examples, rows, width]`` -> the same shape."""

    @staticmethod
    def forward(
        context: Any, z: Tensor, weight: Tensor, shift: Tensor, norm: nn.BatchNorm1d, mask: Tensor | None
    ) -> Tensor:
        """See the class; ``weight`` and ``shift`` are those of ``norm``."""
        z = z.bfloat16().contiguous()
        out, context.finished = _Finished.forward(z, norm, mask, z[:0], 0.0)
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        of_z, _, of_weight, of_shift = context.finished.backward(gradient.contiguous(), gradient[:0])
        return of_z, of_weight, of_shift, None, None


def _statistics(z: Tensor, norm: nn.BatchNorm1d) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance ``[width]`` that relu(z) is normalised by, float64: in training its own, which ``norm`` follows
    as torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    if not norm.training:
        return norm.running_mean.double().numpy(), norm.running_var.double().numpy()
    examples, rows, width = z.shape
    number = examples * rows
    sums = np.empty((examples, 2, width), np.float32)
    in_threads(_sums, bits_of(z), sums)
    mean, square = sums.sum(0, dtype=np.float64) / number
    variance = square - mean**2
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(torch.from_numpy(mean).float(), norm.momentum)
    norm.running_var.lerp_(torch.from_numpy(variance * (number / max(number - 1, 1))).float(), norm.momentum)
    return mean, variance


@row_kernel
def _pair(taps, pairs, begin, end):  # type: ignore[no-untyped-def]
    """``taps``: two numbers for each unit of the bottleneck, for the frame itself and for the one ``dilation`` before.

    A unit is the sum of both; ``pairs`` has the units of two frames that are ``dilation`` apart.
    """
    half, rows = taps.shape[2] // 2, pairs.shape[1]
    dilation = (taps.shape[1] - rows) // 2
    bits = np.empty((3, 2 * half), np.uint32)
    one, two, three = bits[0].view(np.float32), bits[1].view(np.float32), bits[2].view(np.float32)
    for i in range(begin, end):
        for t in range(rows):
            for place in range(3):
                load(taps[i, t + place * dilation], bits[place])
            for j in range(half):
                one[j] += two[half + j]
            for j in range(half):
                one[half + j] = two[j] + three[half + j]
            store(bits[0], pairs[i, t])


@row_kernel
def _unpair(pairs, taps, begin, end):  # type: ignore[no-untyped-def]
    """From the gradient of ``pairs`` that of ``taps``."""
    half, rows = taps.shape[2] // 2, pairs.shape[1]
    dilation = (taps.shape[1] - rows) // 2
    bits, other = np.empty(half, np.uint32), np.empty(half, np.uint32)
    unit, second = bits.view(np.float32), other.view(np.float32)
    for i in range(begin, end):
        taps[i, :dilation, half:] = 0
        taps[i, rows + dilation :, :half] = 0
        for t in range(rows + dilation):
            bits[:] = 0
            if t < rows:
                load(pairs[i, t, :half], bits)
            if t >= dilation:
                load(pairs[i, t - dilation, half:], other)
                for j in range(half):
                    unit[j] += second[j]
            store(bits, taps[i, t, :half])
            taps[i, t + dilation, half:] = taps[i, t, :half]


@row_kernel
def _sums(z, sums, begin, end):  # type: ignore[no-untyped-def]
    """``sums [examples, 2, width]``: of relu(z), and of its square."""
    width = z.shape[2]
    bits = np.empty(width, np.uint32)
    value = bits.view(np.float32)
    for i in range(begin, end):
        sums[i] = 0
        for t in range(z.shape[1]):
            load(z[i, t], bits)
            for j in range(width):
                x = value[j] if value[j] > 0 else value[j] * np.float32(0)  # NaN stays NaN
                sums[i, 0, j] += x
                sums[i, 1, j] += x * x


@row_kernel
def _finish(z, x, affine, mask, bypass, out, begin, end):  # type: ignore[no-untyped-def]
    width, dilation = z.shape[2], (x.shape[1] - z.shape[1]) // 2
    bits, other = np.empty(width, np.uint32), np.zeros(width, np.uint32)
    value, passed = bits.view(np.float32), other.view(np.float32)
    scale, shift = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(begin, end):
        kept = mask[i % len(mask)]
        for j in range(width):
            scale[j], shift[j] = affine[0, j] * kept[j], affine[1, j] * kept[j]
        for t in range(z.shape[1]):
            load(z[i, t], bits)
            if bypass != 0:
                load(x[i, t + dilation], other)
            for j in range(width):
                value[j] = max(value[j], np.float32(0)) * scale[j] + shift[j] + bypass * passed[j]
            store(bits, out[i, t])


@row_kernel
def _sums_back(gradient, z, mask, sums, begin, end):  # type: ignore[no-untyped-def]
    """``sums [examples, 2, width]``: of the gradient behind the mask, and of its product with relu(z)."""
    width = z.shape[2]
    bits, other = np.empty(width, np.uint32), np.empty(width, np.uint32)
    value, slope = bits.view(np.float32), other.view(np.float32)
    for i in range(begin, end):
        kept = mask[i % len(mask)]
        sums[i] = 0
        for t in range(z.shape[1]):
            load(z[i, t], bits)
            load(gradient[i, t], other)
            for j in range(width):
                sums[i, 0, j] += slope[j]
                sums[i, 1, j] += slope[j] * max(value[j], np.float32(0))
        for j in range(width):
            sums[i, 0, j] *= kept[j]
            sums[i, 1, j] *= kept[j]


@row_kernel
def _finish_back(gradient, z, line, mask, bypass, of_z, of_x, added, begin, end):  # type: ignore[no-untyped-def]
    """``line [3, width]``: what the gradient and relu(z) are multiplied by, and a constant, where z is above 0."""
    width, dilation = z.shape[2], (of_x.shape[1] - z.shape[1]) // 2
    bits, other = np.empty(width, np.uint32), np.empty(width, np.uint32)
    value, slope = bits.view(np.float32), other.view(np.float32)
    scale = np.empty(width, np.float32)
    for i in range(begin, end):
        kept = mask[i % len(mask)]
        added[i] = 0
        for j in range(width):
            scale[j] = line[0, j] * kept[j]
        if bypass != 0:
            of_x[i, :dilation] = 0
            of_x[i, z.shape[1] + dilation :] = 0
        for t in range(z.shape[1]):
            load(z[i, t], bits)
            load(gradient[i, t], other)
            for j in range(width):
                below = scale[j] * slope[j] + line[1, j] * value[j] + line[2, j]
                value[j] = below if value[j] > 0 else np.float32(0)
                added[i, j] += value[j]
            store(bits, of_z[i, t])
            if bypass != 0:
                for j in range(width):
                    slope[j] *= bypass
                store(other, of_x[i, t + dilation])
