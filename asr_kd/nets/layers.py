"""The pieces that every kind of network is built from."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from asr_kd.kernels import transposed
from asr_kd.nets.config import NetConfig

WIDE = 1024
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": functools.partial(nn.ReLU, inplace=True),  # over a product's outputs, which its gradient does not need
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class Linear(nn.Linear):
    """As torch's, but faster in bfloat16 on a CPU, where the gradient of the weights is a product.

    A product of two transposed matrices takes twice as long as one of a single one. From ``WIDE`` inputs on that is
    more than it takes to transpose the gradient first.
    """

    def forward(self, x: Tensor) -> Tensor:
        wide = self.in_features >= WIDE and torch.is_grad_enabled()
        wide = wide and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        return _Product.apply(x, self.weight, self.bias) if wide else super().forward(x)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight = x.bfloat16(), weight.bfloat16()
        context.save_for_backward(x, weight)
        return functional.linear(x, weight, bias.bfloat16())

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        rows = gradient.flatten(0, -2).contiguous()
        of_weight = transposed(rows) @ x.flatten(0, -2)
        of_x = gradient @ weight if context.needs_input_grad[0] else None
        return of_x, of_weight.float(), rows.sum(0).float()


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of ``[..., width]`` over all dimensions but the last.

    In training, ranks that are joined by ``torch.distributed`` normalise by the statistics of the whole batch and have
    the same running statistics. Each rank must call as often as the others; its part of a batch may be empty.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self.training and distributed.is_available() and distributed.is_initialized():
            return self._together(rows.to(self.weight.dtype)).to(x.dtype).view_as(x)
        if self.training and len(rows) == 1:  # the variance is 0, and so is what is normalised
            return torch.addcmul(self.bias, rows * 0, self.weight).to(x.dtype).view_as(x)
        return super().forward(rows).view_as(x)

    def _together(self, rows: Tensor) -> Tensor:
        """As ``nn.BatchNorm1d`` of the ``rows [frames, width]`` of all ranks; ``nn.SyncBatchNorm`` needs a GPU."""
        sums = _SumOverProcesses.apply(torch.cat([rows.sum(0), rows.new_full((1,), len(rows))]))
        number = sums[-1].detach()
        mean = sums[:-1] / number
        centred = rows - mean
        variance = _SumOverProcesses.apply(centred.square().sum(0)) / number
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (number / (number - 1).clamp(min=1)), self.momentum)
        return torch.addcmul(self.bias, centred, self.weight * (variance + self.eps).rsqrt())


class _SumOverProcesses(torch.autograd.Function):
    """The sum of the tensors of all ranks, in each of them; the gradient is such a sum too."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


class ByteDropout(nn.Dropout):
    """Dropout to the nearest 1/256; in ``[examples, frames, width]`` all frames of an example lose the same units.

    If each frame had its own mask, its neighbours would reveal what the mask hides (Povey et al. 2018, section 3.3). On
    a CPU ``nn.Dropout`` draws a 64-bit number for each element, which is a quarter of a training step; here it is a
    random byte.
    """

    def forward(self, x: Tensor) -> Tensor:
        mask = self.mask(x.shape, x.dtype, x.device)
        return x if mask is None else x * mask

    def mask(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """The factors for values of this shape, in a shape that broadcasts to it; None if nothing is dropped."""
        dropped = min(round(256 * self.p), 255)
        if not self.training or not dropped:
            return None
        drawn = (shape[0], 1, shape[2]) if len(shape) == 3 else tuple(shape)
        if device.type != "cpu":
            return functional.dropout(torch.ones(drawn, dtype=dtype, device=device), self.p)
        number = math.prod(drawn)
        words = torch.empty(-(-number // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[:number].view(drawn) >= dropped
        return keep.to(dtype) * (256 / (256 - dropped))


def finish(config: NetConfig) -> nn.Sequential:
    """The rest of a hidden layer after its linear part: activation, normalisation, dropout; ``[..., width]``."""
    modules: list[nn.Module] = [ACTIVATIONS[config.activation]()]
    if config.norm == "batch":
        modules.append(FrameBatchNorm(config.width))
    elif config.norm == "layer":
        modules.append(nn.LayerNorm(config.width))
    if config.dropout:
        modules.append(ByteDropout(config.dropout))
    return nn.Sequential(*modules)


def dropout_mask(finished: nn.Sequential, x: Tensor) -> Tensor | None:
    """The mask, in the shape of ``x``, of the dropout at the end of ``finished``; None if there is none."""
    last = finished[-1]
    return last.mask(x.shape, x.dtype, x.device) if isinstance(last, ByteDropout) else None
