"""The GPU's kernel of an ensemble's mean against torch."""

import pytest
import torch

from asr_kd import gpu_kernels
from asr_kd.nets.gpu_mean import add_softmax_

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of Triton's interpreter, where values are masked


@pytest.mark.parametrize(
    ("dtype", "block", "scale"), [(torch.float32, 128, 1.0), (torch.float32, 2048, 1e4), (torch.bfloat16, 2048, 1.0)]
)
def test_shares_of_distributions_are_added(
    dtype: torch.dtype, block: int, scale: float, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "LARGEST_BLOCK", block)
    torch.manual_seed(0)
    members = [(scale * torch.randn(2, 3, 301)).to(dtype) for _ in range(2)]
    mean = torch.zeros(2, 3, 301, device=kernel_device)
    with torch.inference_mode():
        add_softmax_(mean, members[0].to(kernel_device), 0.25)
        add_softmax_(mean, members[1].to(kernel_device), 0.75)
    exact = 0.25 * members[0].double().softmax(-1) + 0.75 * members[1].double().softmax(-1)
    torch.testing.assert_close(mean.cpu().double(), exact, rtol=1e-5, atol=1e-7)
