"""The objective on a GPU against a double-precision reference on the CPU."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from asr_kd.targets import Dense, Sampled, SoftTargets, TopK
from asr_kd.train.distillation import cross_entropy, distillation_loss, logit_matching_loss
from tests.train.test_distillation import outside, reference

pytestmark = pytest.mark.gpu
FRAMES = 120
FORMS = ("dense", "sampled", "topk-1", "topk-7", "topk-all")
GPU = torch.device("cuda")
# Relative to the largest element of the gradient: a few units in the last place of the logits' type.
TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 1e-2}


def soft_targets(form: str, states: int, temperature: float) -> SoftTargets:
    """As the objective gets them from a store, with values in float16 there."""
    log_prob = (3 * torch.randn(FRAMES, states)).log_softmax(1)
    if form == "dense":
        return Dense(log_prob.half())
    if form == "sampled":
        drawn = torch.multinomial((log_prob / temperature).softmax(1), min(7, states), replacement=True)
        return Sampled(drawn, torch.full(drawn.shape, 1 / drawn.shape[1]).half().float())
    k = states if form == "topk-all" else min(int(form.removeprefix("topk-")), states)
    values, chosen = log_prob.topk(k)
    tail = outside(log_prob.double() / temperature, chosen).logsumexp(1)
    return TopK(chosen, values.half().float(), tail.half().float())


def chosen_rows(targets: SoftTargets, rows: Tensor) -> Any:
    """The targets of some frames."""
    return type(targets)(*(getattr(targets, field.name)[rows] for field in dataclasses.fields(targets)))


def on_gpu(targets: SoftTargets) -> Any:
    return type(targets)(*(getattr(targets, field.name).to(GPU) for field in dataclasses.fields(targets)))


def compare(
    logits: Tensor,
    targets: SoftTargets,
    labels: Tensor,
    frames: Tensor,
    temperature: float,
    weights: tuple[float, float],
) -> None:
    """Loss and gradient of both."""
    expected_leaf = logits.double().requires_grad_()
    expected = reference(expected_leaf, targets, labels, temperature, 0.0, weights[1])
    if frames.any():
        some = expected_leaf[frames], chosen_rows(targets, frames), labels[frames]
        expected = expected + reference(*some, temperature, weights[0], 0.0)
    (of_expected,) = torch.autograd.grad(expected, expected_leaf)
    leaf = logits.to(GPU).requires_grad_()
    loss = distillation_loss(leaf, on_gpu(targets), labels.to(GPU), temperature, *weights, frames.to(GPU))
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.dtype == logits.dtype
    assert gradient.isfinite().all()
    torch.testing.assert_close(loss.detach().double().cpu(), expected.detach(), rtol=2e-5, atol=5e-7 * temperature**2)
    within = TOLERANCE[logits.dtype] * max(float(of_expected.abs().max()), 1e-3)  # of 1 state it is 0
    torch.testing.assert_close(gradient.double().cpu(), of_expected, rtol=TOLERANCE[logits.dtype], atol=within)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_are_the_reference_s(form: str, kind: torch.dtype) -> None:
    for states in (1, 33, 14_000):
        for temperature in (0.5, 1.0, 2.0, 7.3, 50.0) if states < 14_000 else (2.0,):
            logits = torch.randn(FRAMES, states).to(kind)
            labels, frames = torch.randint(-1, states, (FRAMES,)), torch.rand(FRAMES) < 0.9
            targets = soft_targets(form, states, temperature)
            for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.5)) if states == 33 else ((1.0, 0.5),):
                compare(logits, targets, labels, frames, temperature, weights)


@pytest.mark.parametrize("form", FORMS)
def test_frames_without_labels_and_without_targets_count_for_nothing(form: str) -> None:
    logits, targets = torch.randn(FRAMES, 33), soft_targets(form, 33, 2.0)
    none, all_frames = torch.full((FRAMES,), -1), torch.ones(FRAMES, dtype=torch.bool)
    compare(logits, targets, none, all_frames, 2.0, (1.0, 0.5))
    compare(logits, targets, torch.randint(33, (FRAMES,)), ~all_frames, 2.0, (1.0, 0.5))
    leaf = logits.to(GPU).requires_grad_()
    loss = distillation_loss(leaf, on_gpu(targets), none.to(GPU), 2.0, 1.0, 0.5, (~all_frames).to(GPU))
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert float(loss.detach()) == 0
    assert not gradient.any()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("form", FORMS)
def test_large_logits_give_finite_numbers(form: str, kind: torch.dtype) -> None:
    for temperature in (0.5, 1.0, 50.0):
        logits = (1e4 * torch.randn(FRAMES, 33)).to(kind)
        labels, targets = torch.randint(-1, 33, (FRAMES,)), soft_targets(form, 33, temperature)
        expected = reference(logits.double(), targets, labels, temperature, 1.0, 0.5)
        leaf = logits.to(GPU).requires_grad_()
        loss = distillation_loss(leaf, on_gpu(targets), labels.to(GPU), temperature, 1.0, 0.5)
        (gradient,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(loss.detach().double().cpu(), expected, rtol=1e-4, atol=0)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_cross_entropy_is_that_of_double_precision(kind: torch.dtype, smoothing: float) -> None:
    for states in (33, 14_000):
        logits, labels = torch.randn(FRAMES, states).to(kind), torch.randint(-1, states, (FRAMES,))
        precise, leaf = logits.double().requires_grad_(), logits.to(GPU).requires_grad_()
        expected = torch.nn.functional.cross_entropy(precise, labels, ignore_index=-1, label_smoothing=smoothing)
        loss = cross_entropy(leaf, labels.to(GPU), smoothing)
        (of_expected,), (gradient,) = torch.autograd.grad(expected, precise), torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(loss.detach().double().cpu(), expected.detach(), rtol=1e-5, atol=1e-6)
        within = TOLERANCE[kind] * float(of_expected.abs().max())
        torch.testing.assert_close(gradient.double().cpu(), of_expected, rtol=TOLERANCE[kind], atol=within)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_matching_logits_is_that_of_double_precision(kind: torch.dtype) -> None:
    for states, size in ((33, 1.0), (33, 1e4), (14_000, 1.0)):
        logits, labels = (size * torch.randn(FRAMES, states)).to(kind), torch.randint(-1, states, (FRAMES,))
        targets, frames = Dense((3 * torch.randn(FRAMES, states)).log_softmax(1)), torch.rand(FRAMES) < 0.9
        precise, leaf = logits.double().requires_grad_(), logits.to(GPU).requires_grad_()
        expected = logit_matching_loss(precise, targets, labels, 1.0, 0.5, frames)
        loss = logit_matching_loss(leaf, on_gpu(targets), labels.to(GPU), 1.0, 0.5, frames.to(GPU))
        (of_expected,), (gradient,) = torch.autograd.grad(expected, precise), torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(loss.detach().double().cpu(), expected.detach(), rtol=1e-5, atol=1e-5)
        within = TOLERANCE[kind] * float(of_expected.abs().max())
        torch.testing.assert_close(gradient.double().cpu(), of_expected, rtol=TOLERANCE[kind], atol=within)
