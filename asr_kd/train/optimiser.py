"""The optimiser, its learning rate, and the limit on the norms of the weights."""

import inspect
import math

import torch
from torch import Tensor, nn

from asr_kd.nets import AcousticModel
from asr_kd.train.config import TrainConfig


class AdamW(torch.optim.AdamW):
    """Torch's AdamW, without the decorators of its methods, which import ``torch.compile`` for 4 seconds to no use."""

    grad_scale: Tensor | None = None  # on a GPU ``step`` divides gradients by it

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


def make_optimiser(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW whose weight decay leaves vectors alone: biases and normalisation."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.learning_rate, betas=(config.betas[0], config.betas[1]), fused=True)


def gradient_norm(optimiser: torch.optim.Optimizer) -> Tensor:
    """The norm of all gradients together."""
    return nn.utils.get_total_norm([weight.grad for weight in _weights(optimiser) if weight.grad is not None])


def clip_gradients(optimiser: torch.optim.Optimizer, norm: Tensor, largest: float) -> None:
    """Scale down the gradients, whose norm is ``norm``, to the norm ``largest``.

    On a GPU the optimiser's step does it, without a pass of its own and without waiting for ``norm``.
    """
    if norm.device.type != "cpu":
        assert isinstance(optimiser, AdamW)
        optimiser.grad_scale = (norm / largest).clamp(min=1)
    elif norm > largest:
        nn.utils.clip_grads_with_norm_(_weights(optimiser), largest, norm)


def _weights(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimiser.param_groups for weight in group["params"]]


def learning_rate(done: float, config: TrainConfig) -> float:
    """The learning rate after the fraction ``done`` of the training: a linear rise, then the decay to zero."""
    if done < config.warmup:
        return config.learning_rate * done / config.warmup
    left = 1 - (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (left if config.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left))


@torch.no_grad()
def limit_norms(model: AcousticModel, largest: float) -> None:
    """Scale down the weights into each hidden unit whose norm is above ``largest``."""
    output = model.network.output.weight
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter is not output:
            norms = torch.linalg.vector_norm(parameter, dim=1, keepdim=True)
            # torch.renorm would write all of them, every time; on a GPU that is faster than to wait for the largest.
            if norms.device.type != "cpu" or norms.max() > largest:
                parameter.mul_((largest / norms).clamp_(max=1))
