"""Fused layers give what the modules give, in training, in bfloat16 on a CPU."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr_kd.nets import NetConfig, fused
from asr_kd.nets.tdnn import Tdnn

NET = NetConfig(kind="tdnn", width=48, bottleneck=12, dilations=(1, 3, 3), bins=10, states=20)


def learn(
    precision: str, monkeypatch: pytest.MonkeyPatch, modules: bool = False, seed: int = 0, **changes: object
) -> dict[str, Tensor]:
    """Output, gradients and buffers of a network after one pass forward and back."""
    with monkeypatch.context() as patch:
        if modules:
            patch.setattr(fused, "applies", lambda *_: False)
        torch.manual_seed(seed)
        network = Tdnn(NetConfig(**{**vars(NET), **changes}))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.add_(torch.rand_like(parameter) if "finish.1" in name else 0)
        x = torch.randn(7, 2 * network.left_context + 30, NET.bins)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(x, 3)
        (logits.float() * torch.linspace(-1, 1, NET.states)).square().sum().backward()
    assert [parameter.grad for parameter in network.parameters() if parameter.grad is None] == []
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"logits": logits.detach().float(), **found, **dict(network.named_buffers())}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    pairs = {name: (one[name].double(), other[name].double()) for name in one}
    return {name: float((a - b).norm() / a.norm().clamp(min=1e-9)) for name, (a, b) in pairs.items()}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_no_farther_from_fp32_than_the_modules(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    modules, found = [], []
    for seed in range(8):
        exact = learn("fp32", monkeypatch, seed=seed, dropout=dropout)
        modules.append(distance(exact, learn("bf16", monkeypatch, modules=True, seed=seed, dropout=dropout)))
        found.append(distance(exact, learn("bf16", monkeypatch, seed=seed, dropout=dropout)))
    far = {name: (np.mean([d[name] for d in modules]), np.mean([d[name] for d in found])) for name in found[0]}
    # A tenth in the gradients of the first layers: a unit whose sum is near 0 is open in one and closed in the other.
    assert max(usual for usual, _ in far.values()) < 0.3
    assert {name: pair for name, pair in far.items() if pair[1] > 3 * pair[0] + 1e-3} == {}
    assert np.mean([found for _, found in far.values()]) < 1.5 * np.mean([usual for usual, _ in far.values()])
    assert far["logits"][1] < 0.02


@pytest.mark.parametrize("dropout", [False, True])
def test_the_gradient_is_that_of_double_precision(dropout: bool) -> None:
    torch.manual_seed(0)
    norm, z, upward = nn.BatchNorm1d(16), torch.randn(5, 40, 16).bfloat16(), torch.randn(5, 40, 16).bfloat16()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    mask = (torch.rand(5, 1, 16) > 0.3) / 0.7 if dropout else None
    z.requires_grad_()
    out = fused.FusedFinish.apply(z, norm.weight, norm.bias, norm, mask)
    found = torch.autograd.grad(out, (z, norm.weight, norm.bias), upward)
    inputs = [x.detach().double().requires_grad_() for x in (z, norm.weight, norm.bias)]
    exact = nn.functional.batch_norm(
        inputs[0].relu().flatten(0, 1), None, None, inputs[1], inputs[2], training=True
    ).view_as(z)
    exact = exact if mask is None else exact * mask
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-6)
    for one, other in zip(found, torch.autograd.grad(exact, inputs, upward.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2**-8, atol=1e-5)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an item for each layer that is computed fused from now on."""
    seen: list[int] = []
    forward = fused.FusedLayer.forward

    def noting(*given: Any) -> Tensor:
        seen.append(1)
        return forward(*given)

    monkeypatch.setattr(fused.FusedLayer, "forward", noting)
    return seen


def test_the_layers_are_computed_here_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch)
    learn("bf16", monkeypatch)
    assert len(seen) == len(NET.dilations)
    learn("fp32", monkeypatch)
    learn("bf16", monkeypatch, norm="none")
    learn("bf16", monkeypatch, activation="gelu")
    assert len(seen) == len(NET.dilations)


def test_as_many_threads_as_one_likes(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    torch.set_num_threads(1)
    one = learn("bf16", monkeypatch, dropout=0.2)
    torch.set_num_threads(3)
    assert max(distance(one, learn("bf16", monkeypatch, dropout=0.2)).values()) < 0.02


def test_running_statistics_are_those_of_torch() -> None:
    torch.manual_seed(0)
    z = (3 * torch.randn(5, 40, 16) + 1).bfloat16()
    norms = nn.BatchNorm1d(16), nn.BatchNorm1d(16)
    for _ in range(3):
        out = fused.FusedFinish.apply(z, norms[0].weight, norms[0].bias, norms[0], None)
        other = norms[1](z.relu().flatten(0, 1).float()).view_as(z)
    torch.testing.assert_close(out.float(), other, rtol=0.01, atol=0.01)
    torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict())


def test_nan_is_not_lost() -> None:
    norm = nn.BatchNorm1d(4)
    z = torch.randn(2, 5, 4).bfloat16()
    z[1, 2, 3] = torch.nan
    out = fused.FusedFinish.apply(z, norm.weight, norm.bias, norm, None)
    assert out[..., 3].isnan().all()
    assert out[..., :3].isfinite().all()


def test_what_a_trained_network_says_is_what_its_modules_say(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = Tdnn(dataclasses.replace(NET, dropout=0.2))
    x = torch.randn(3, 2 * network.left_context + 40, NET.bins)
    for _ in range(50):
        network(2 * x + 1)  # which its running statistics follow
    network.eval()
    seen = watched(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = network(x, 3).float()
    assert len(seen) == len(NET.dilations)
    with torch.inference_mode():
        exact = network(x, 3)
    assert float((found - exact).norm() / exact.norm()) < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        network(x, 3).float().sum().backward()  # by the modules
    assert len(seen) == len(NET.dilations)
