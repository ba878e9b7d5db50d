"""The optimiser is torch's, without torch's compiler."""

import subprocess
import sys

import torch
from torch import nn

from asr_kd.train.optimiser import AdamW


def learn(kind: type[torch.optim.AdamW], steps: int = 5, resumed: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 4)
    optimiser = kind(network.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    for step in range(steps):
        if resumed and step == 2:
            state, optimiser = optimiser.state_dict(), kind(network.parameters(), lr=0.5)
            optimiser.load_state_dict(state)
        optimiser.zero_grad()
        network(x).square().sum().backward()
        optimiser.step()
    return [parameter.detach() for parameter in network.parameters()]


def test_steps_are_those_of_torch() -> None:
    expected = learn(torch.optim.AdamW)
    torch.testing.assert_close(learn(AdamW), expected, rtol=0, atol=0)
    torch.testing.assert_close(learn(AdamW, resumed=True), expected, rtol=0, atol=0)


def test_training_imports_no_compiler() -> None:
    program = """
import sys
import torch
from asr_kd.train.optimiser import AdamW
parameter = torch.nn.Parameter(torch.zeros(2, 2))
optimiser = AdamW([parameter], fused=True)
parameter.sum().backward()
optimiser.step()
optimiser.zero_grad()
optimiser.load_state_dict(optimiser.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
