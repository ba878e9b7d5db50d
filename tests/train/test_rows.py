"""The exponentials fused over rows against the same in torch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from asr_kd.train.rows import FusedRows, TorchRows

ROWS, STATES = 37, 70  # neither is a multiple of what vectors or threads take at once


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def parts(rows: TorchRows | FusedRows, soft: Tensor, hard: Tensor | None) -> list[Tensor]:
    gradient = torch.full((ROWS, STATES), float("nan"))
    rows.spread(soft, hard, gradient)
    return [rows.top, rows.log_outside, rows.log_outside_at_one, gradient]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0, 50.0])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("chosen", [0, 5])
def test_fused_rows_are_those_of_torch(threads: int, temperature: float, scale: float, chosen: int) -> None:
    torch.manual_seed(threads)
    logits = scale * torch.randn(ROWS, STATES)
    inside = torch.rand(ROWS, STATES).argsort(1)[:, :chosen]
    soft, hard = torch.rand(2, ROWS, 1)
    for weight in (hard, None):
        fused = parts(FusedRows(logits, inside, temperature), soft, weight)
        exact = parts(TorchRows(logits.double(), inside, temperature), soft.double(), weight)
        for found, wanted in zip(fused, exact, strict=True):
            if found.shape == logits.shape:  # what is inside means nothing
                found.scatter_(1, inside, 0)
                wanted.scatter_(1, inside, 0)
            tolerance = 1e-6 * max(1, scale / min(temperature, 1))  # the digits that a logit in float32 has
            torch.testing.assert_close(found.double(), wanted.double(), rtol=tolerance, atol=tolerance)


def test_a_row_with_no_state_outside_is_relative_to_its_greatest_logit(threads: int) -> None:
    logits = torch.randn(ROWS, STATES) + threads
    inside = torch.arange(STATES).expand(ROWS, -1)
    for rows in (FusedRows(logits, inside, 2.0), TorchRows(logits, inside, 2.0)):
        torch.testing.assert_close(rows.top[:, 0], logits.amax(1) / 2)
        assert rows.log_outside.isneginf().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_its_row_alone(value: float) -> None:
    logits = torch.randn(ROWS, STATES)
    logits[4, 8] = value
    rows = FusedRows(logits, torch.zeros(ROWS, 0, dtype=torch.int64), 2.0)
    assert (~rows.log_outside.isfinite() | ~rows.top.isfinite()).nonzero()[:, 0].tolist() == [4]
