"""The GPU's kernel of the tails of top-k targets against torch."""

import pytest
import torch

from asr_kd import gpu_kernels
from asr_kd.targets.forms import top_k
from asr_kd.targets.gpu_tails import tail_sums

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of Triton's interpreter, where values are masked


@pytest.mark.parametrize(("k", "block"), [(1, 2048), (20, 128), (300, 2048)])
def test_the_mass_of_all_other_states_is_summed(
    k: int, block: int, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "LARGEST_BLOCK", block)
    torch.manual_seed(0)
    log_prob, temperatures = (4 * torch.randn(4, 300)).log_softmax(1), (0.5, 1.0, 3.3)
    best, order = log_prob.topk(min(k + 1, 300))
    peak = best[:, -1]
    moved = log_prob.to(kernel_device), order[:, :k].to(kernel_device), peak.to(kernel_device)
    sums = tail_sums(*moved, temperatures)
    for column, temperature in enumerate(temperatures):
        exact = ((log_prob.double() - peak[:, None]) / temperature).exp().scatter(1, order[:, :k], 0.0).sum(1)
        torch.testing.assert_close(sums[:, column].cpu().double(), exact, rtol=1e-5, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("states", [300, 14_000])
def test_top_k_on_a_gpu_is_that_on_a_cpu(states: int) -> None:
    torch.manual_seed(0)
    log_prob = (4 * torch.randn(50, states)).log_softmax(1)
    log_prob[0, 3:] = -torch.inf
    for ours, expected in zip(
        top_k(log_prob.cuda(), 20, (1.0, 2.0, 5.0)), top_k(log_prob, 20, (1.0, 2.0, 5.0)), strict=True
    ):
        if ours.is_floating_point():
            torch.testing.assert_close(ours.cpu(), expected, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(ours.cpu()[1:], expected[1:])  # the first row has many equal values
