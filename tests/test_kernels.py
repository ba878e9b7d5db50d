"""What compiled kernels share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_kd import kernels
from asr_kd.targets.forms import Dense, Sampled, SoftTargets, TopK
from asr_kd.train.rows import objective


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_bfloat16_comes_back_and_float32_is_rounded_as_torch_rounds() -> None:
    every = torch.arange(1 << 16).int().to(torch.int16).view(torch.bfloat16)
    bits = torch.empty(1 << 16, dtype=torch.int32).numpy().view("uint32")
    kernels.load(kernels.bits_of(every), bits)
    wide = torch.from_numpy(bits.view("float32"))
    assert torch.equal(wide.nan_to_num(7e6), every.float().nan_to_num(7e6))

    some = torch.randn(100_000)
    narrow = torch.empty(100_000, dtype=torch.bfloat16)
    kernels.store(some.numpy().view("uint32"), kernels.bits_of(narrow))
    assert torch.equal(narrow, some.bfloat16())


def test_a_matrix_turned_round(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape: self.new_full(shape, float("nan")))
    for rows, columns in ((1, 1), (130, 67), (131, 300), (64, 300), (0, 5)):
        matrix = torch.randn(rows, columns).bfloat16()
        for number in (1, 3):
            torch.set_num_threads(number)
            turned = kernels.transposed(matrix)
            assert turned.stride(1) == 1
            assert torch.equal(turned, matrix.t())
            assert (turned @ torch.ones(rows, 40, dtype=torch.bfloat16)).isfinite().all()


TOLD = """
import hashlib, torch
from asr_kd.targets.forms import top_k
from asr_kd.train.distillation import cross_entropy
torch.set_num_threads(1)
logits = 4 * torch.randn(400, 500, generator=torch.Generator().manual_seed(0))
wanted = logits.clone().requires_grad_()
cross_entropy(wanted, torch.arange(400)).backward()
told = top_k(logits.log_softmax(-1), 20, (1.0, 1.7))
print([hashlib.sha256(each.numpy().tobytes()).hexdigest() for each in (wanted.grad, *told)])
"""


def test_the_process_that_compiles_and_one_that_finds_it_done_compute_the_same_bits(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert list(tmp_path.rglob("*.nbc"))


@pytest.mark.parametrize("states", [10, 14, 40])
def test_few_states_give_the_same_bits_wherever_scratch_memory_is(states: int) -> None:
    """Rows shorter than a loop of vector instructions; small arrays between the calls move the next ones."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(scale=3, size=(40, states)).astype(np.float32))
    dense = Dense(torch.from_numpy(rng.normal(size=(40, states)).astype(np.float32)).log_softmax(1))
    best, state = dense.log_prob.topk(3, 1)
    targets: list[SoftTargets] = [
        dense,
        TopK(state, best, torch.log1p(-best.exp().sum(1))),
        Sampled(state, torch.full((40, 3), 1 / 3)),
    ]
    labels, weights = torch.zeros(40, dtype=torch.long), torch.full((40, 2), 0.5)
    kept, found = [], []
    for _ in range(60):
        kept.append(np.zeros(rng.integers(1, 400)))
        gradients = [objective(logits, each, labels, 2.0, weights)[1] for each in targets]
        found.append(b"".join(gradient.numpy().tobytes() for gradient in gradients))
    assert len(set(found)) == 1
