"""What compiled kernels share."""

from collections.abc import Iterator

import pytest
import torch

from asr_kd import kernels


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


def test_a_matrix_turned_round(threads: None) -> None:
    for rows, columns in ((1, 1), (130, 67), (64, 300), (0, 5)):
        matrix = torch.randn(rows, columns).bfloat16()
        for number in (1, 3):
            torch.set_num_threads(number)
            turned = kernels.transposed(matrix)
            assert turned.is_contiguous()
            assert torch.equal(turned, matrix.t())
