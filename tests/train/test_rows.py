"""The objective a row at a time against the double-precision reference."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.kernels import bits_of
from asr_kd.targets import Dense, Sampled, SoftTargets, TopK
from asr_kd.train import reference, rows

ROWS, STATES = 37, 150  # neither is a multiple of what vectors or threads take at once
KINDS = ["dense", "top_k", "all", "sampled", "none"]


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def targets_of(kind: str, temperature: float) -> SoftTargets:
    log_prob = (5 * torch.randn(ROWS, STATES)).log_softmax(1)
    if kind == "dense":
        return Dense(log_prob.half())
    if kind in ("sampled", "none"):
        state = torch.randint(STATES, (ROWS, 12 if kind == "sampled" else 0))
        return Sampled(state, torch.rand(state.shape))
    values, state = log_prob.topk(STATES if kind == "all" else 5)
    others = (log_prob / temperature).log_softmax(1).scatter(1, state, -torch.inf)
    return TopK(state.int(), values.half(), others.logsumexp(1))


def weights_of(hard: bool) -> Tensor:
    weights = torch.rand(ROWS, 2) * torch.tensor([1.0, float(hard)])
    weights[3] = 0
    return weights


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0, 50.0])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_reference(threads: int, temperature: float, scale: float, kind: str) -> None:
    torch.manual_seed(threads)
    logits, labels = scale * torch.randn(ROWS, STATES), torch.randint(STATES, (ROWS,))
    for hard in (True, False):
        arguments = targets_of(kind, temperature), labels, temperature, weights_of(hard)
        loss, gradient = rows.objective(logits, *arguments)
        exact_loss, exact = reference.objective(logits.double(), *arguments)
        torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-6, atol=2e-6 / min(temperature, 1))
        tolerance = 1e-6 * max(1, scale / min(temperature, 1))  # the digits that a logit in float32 has
        torch.testing.assert_close(gradient.double(), exact, rtol=tolerance, atol=tolerance)
        assert not gradient[3].any()


def test_bfloat16_is_what_rounding_makes_of_float32(threads: int) -> None:
    logits, labels = torch.randn(ROWS, STATES).bfloat16(), torch.randint(STATES, (ROWS,))
    arguments = targets_of("top_k", 2.0), labels, 2.0, weights_of(True)
    loss, gradient = rows.objective(logits, *arguments)
    wide_loss, wide = rows.objective(logits.float(), *arguments)
    assert gradient.dtype == torch.bfloat16
    assert loss == wide_loss
    assert torch.equal(gradient, wide.bfloat16())


def test_every_float16_among_the_targets_is_read_as_what_it_is() -> None:
    halves = torch.arange(1 << 16).int().to(torch.int16).view(torch.float16)
    bits = torch.empty(1 << 16, dtype=torch.int32)
    rows._load_targets(bits_of(halves), bits_of(bits.view(torch.float32)))
    assert torch.equal(bits.view(torch.float32).nan_to_num(7e6), halves.float().nan_to_num(7e6))


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_its_row_alone(value: float, kind: str) -> None:
    logits = torch.randn(ROWS, STATES)
    logits[4, 8] = value
    loss, gradient = rows.objective(logits, targets_of(kind, 2.0), torch.zeros(ROWS).long(), 2.0, weights_of(True))
    assert not loss.isfinite()
    assert (~gradient.isfinite()).any(1).nonzero()[:, 0].tolist() == [4]


@pytest.mark.parametrize("said", [float("nan"), float("-inf")])
def test_a_teacher_that_says_no_number_spoils_the_loss_and_one_that_excludes_a_state_does_not(said: float) -> None:
    log_prob = torch.randn(ROWS, STATES).log_softmax(1)
    log_prob[4, 8] = said
    for dense in (log_prob, log_prob.half()):
        arguments = Dense(dense), torch.zeros(ROWS).long(), 2.0, weights_of(True)
        loss, gradient = rows.objective(torch.randn(ROWS, STATES), *arguments)
        assert bool(loss.isfinite()) == math.isinf(said)
        assert bool(gradient.isfinite().all()) == math.isinf(said)


@pytest.mark.parametrize("wrong", [-1, STATES, 1 << 40])
def test_a_state_that_the_student_lacks_is_an_error(wrong: int) -> None:
    logits, labels = torch.randn(ROWS, STATES), torch.zeros(ROWS).long()
    state = torch.zeros(ROWS, 1).long()
    state[5] = wrong
    for targets in (TopK(state, torch.zeros(ROWS, 1), torch.zeros(ROWS)), Sampled(state, torch.ones(ROWS, 1))):
        with pytest.raises(UserError, match=f"soft target is state {wrong}; the student has states 0 to 149"):
            rows.objective(logits, targets, labels, 2.0, weights_of(True))
    labels[3] = wrong
    if wrong != -1:
        with pytest.raises(UserError, match=f"label is state {wrong}"):
            rows.objective(logits, targets_of("dense", 2.0), labels, 2.0, weights_of(True))


def test_targets_of_another_shape_are_an_error() -> None:
    state, values = torch.zeros(ROWS, 3).long(), torch.zeros(ROWS, 3)
    logits, labels, weights = torch.randn(ROWS, STATES), torch.zeros(ROWS).long(), weights_of(True)
    wrong: list[SoftTargets] = [
        Dense(torch.zeros(ROWS, STATES - 1)),
        Dense(torch.zeros(ROWS - 1, STATES)),
        Sampled(state[1:], values[1:]),
        Sampled(state, values[:, 1:]),
        TopK(state, values[:, 1:], values[:, 0]),
        TopK(state, values, values[1:, 0]),
    ]
    for targets in wrong:
        with pytest.raises(ValueError, match="expected"):
            rows.objective(logits, targets, labels, 2.0, weights)
    right = TopK(state, values, values[:, 0])
    for few, some in ((labels[1:], weights), (labels, weights[1:])):
        with pytest.raises(ValueError, match="expected"):
            rows.objective(logits, right, few, 2.0, some)
