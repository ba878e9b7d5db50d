"""Layers: batch normalisation over processes is torch's."""

from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn

from asr_kd.nets import layers
from asr_kd.nets.layers import FrameBatchNorm


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """This process, joined to no other."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("group_of_one")
def test_batch_norm_over_processes_is_that_of_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weights = 3 * torch.randn(20, 5) + 7, torch.randn(20, 5)
    norms = FrameBatchNorm(5), nn.BatchNorm1d(5)
    results = []
    for norm in norms:
        norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
        with torch.no_grad():
            norm.weight.copy_(torch.arange(1, 6))
        inputs = x.to(dtype).requires_grad_()
        for _ in range(3):
            output = norm(inputs)
        (output * weights).sum().backward()
        results.append((output, inputs.grad, norm.weight.grad, norm.bias.grad, norm.state_dict()))
    torch.testing.assert_close(*results)
    norms[0].eval()
    torch.testing.assert_close(norms[0](x.to(dtype)), norms[1].eval()(x.to(dtype)))


def test_a_wide_linear_layer_in_bfloat16_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for wide in (0, 10**9):
        monkeypatch.setattr(layers, "WIDE", wide)
        torch.manual_seed(0)
        layer, x = layers.Linear(70, 30), torch.randn(5, 9, 70, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        assert out.dtype == torch.bfloat16
        (out.float() * torch.linspace(-1, 1, 30)).square().sum().backward()
        results.append([out, x.grad, layer.weight.grad, layer.bias.grad])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.detach().abs().max()))
