"""The objective of distillation against a double-precision reference that holds every tensor in full."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from asr_kd.targets import Dense, Sampled, SoftTargets, TopK
from asr_kd.train.distillation import cross_entropy, distillation_loss
from asr_kd.train.reference import divergence

FRAMES, STATES, CHOSEN = 50, 60, 7
KINDS = ("dense", "top_k", "sampled")


def targets_of(kind: str, temperature: float, chosen: int = CHOSEN) -> SoftTargets:
    random = torch.Generator().manual_seed(0)
    log_prob = (3 * torch.randn(FRAMES, STATES, generator=random)).log_softmax(1)
    if kind == "dense":
        return Dense(log_prob)
    if kind == "sampled":
        drawn = torch.multinomial((log_prob / temperature).softmax(1), chosen, True, generator=random)
        return Sampled(drawn, torch.full(drawn.shape, 1 / chosen))
    values, states = log_prob.topk(chosen)
    return TopK(states.int(), values, outside(log_prob.double() / temperature, states).logsumexp(1).float())


def outside(scaled: Tensor, states: Tensor) -> Tensor:
    """The log-softmax of ``scaled`` but for ``states``, which are -inf."""
    return scaled.log_softmax(1).scatter(1, states.long(), -math.inf)


def reference(
    logits: Tensor, targets: SoftTargets, labels: Tensor, temperature: float, soft: float, hard: float
) -> Tensor:
    soft_term = divergence((logits / temperature).log_softmax(1), targets, temperature).mean()
    entropy = functional.cross_entropy(logits, labels, ignore_index=-1) if (labels >= 0).any() else logits.sum() * 0
    return soft * temperature**2 * soft_term + hard * entropy


def both(
    logits: Tensor, targets: SoftTargets, labels: Tensor, temperature: float, soft: float, hard: float
) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradient, ours and the reference's."""
    results = []
    for function, dtype in ((distillation_loss, logits.dtype), (reference, torch.float64)):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        loss = function(leaf, targets, labels, temperature, soft, hard)
        (gradient,) = torch.autograd.grad(loss, leaf)
        results.append((loss.detach().double(), gradient.double()))
    return results


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(4)


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(-1, STATES, (FRAMES,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.3, 8.0, 50.0])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_the_references(kind: str, temperature: float, labels: Tensor) -> None:
    logits = torch.randn(FRAMES, STATES, generator=torch.Generator().manual_seed(2))
    for soft, hard in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.5)):
        ours, expected = both(logits, targets_of(kind, temperature), labels, temperature, soft, hard)
        # Single precision resolves a divergence to 1e-7 nats, which T^2 enlarges.
        torch.testing.assert_close(ours[0], expected[0], rtol=1e-6, atol=1e-7 * temperature**2)
        torch.testing.assert_close(ours[1], expected[1], rtol=1e-4, atol=3e-6 * float(expected[1].abs().max()))


def test_the_reference_is_torchs_kl_div() -> None:
    student, teacher = torch.randn(2, FRAMES, STATES).double()
    ours = divergence((student / 2).log_softmax(1), Dense(teacher.log_softmax(1)), 2.0)
    expected = functional.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_loss(kind: str, labels: Tensor) -> None:
    targets = targets_of(kind, 2.0)
    precise = {f.name: getattr(targets, f.name) for f in dataclasses.fields(targets)}
    precise = {name: value.double() if value.is_floating_point() else value for name, value in precise.items()}
    logits = torch.randn(FRAMES, STATES, dtype=torch.float64, requires_grad=True)
    arguments: tuple[Any, ...] = (type(targets)(**precise), labels, 2.0, 1.0, 0.5)
    assert torch.autograd.gradcheck(lambda leaf: distillation_loss(leaf, *arguments), (logits,))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 50.0])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_any_size_give_finite_numbers(kind: str, temperature: float, labels: Tensor) -> None:
    logits = 1e4 * torch.randn(FRAMES, STATES, generator=torch.Generator().manual_seed(3))
    ours, expected = both(logits, targets_of(kind, temperature), labels, temperature, 1.0, 0.5)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=0)
    assert ours[1].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_linear_in_both_weights(kind: str, labels: Tensor) -> None:
    logits, targets = torch.randn(FRAMES, STATES), targets_of(kind, 2.0)
    soft, hard, none, mixed = (
        distillation_loss(logits, targets, labels, 2.0, *weights) for weights in ((1, 0), (0, 1), (0, 0), (0.3, 0.7))
    )
    assert none == 0
    torch.testing.assert_close(mixed, 0.3 * soft + 0.7 * hard)
    torch.testing.assert_close(hard, functional.cross_entropy(logits, labels, ignore_index=-1))


def test_all_states_as_top_k_are_the_dense_form(labels: Tensor) -> None:
    logits = torch.randn(FRAMES, STATES)
    whole = both(logits, targets_of("top_k", 2.0, STATES), labels, 2.0, 1.0, 0.5)[0]
    dense = both(logits, targets_of("dense", 2.0), labels, 2.0, 1.0, 0.5)[0]
    torch.testing.assert_close(whole, dense)


def test_top_k_is_at_most_the_divergence_of_all_states_and_grows_with_k(labels: Tensor) -> None:
    logits = torch.randn(FRAMES, STATES)
    losses = [
        float(distillation_loss(logits, targets_of("top_k", 2.0, k), labels, 2.0, 1.0, 0.0)) for k in (1, 7, 30, 60)
    ]
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(float(distillation_loss(logits, targets_of("dense", 2.0), labels, 2.0, 1, 0)))


def test_a_student_that_equals_its_teachers_is_not_moved() -> None:
    targets = targets_of("top_k", 4.0)
    logits = targets_of("dense", 4.0).log_prob.clone().requires_grad_()  # type: ignore[union-attr]
    loss = distillation_loss(logits, targets, torch.full((FRAMES,), -1), 4.0, 1.0, 0.5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert abs(loss) < 1e-5
    assert gradient.abs().max() < 1e-6


def test_states_drawn_at_random_pull_as_all_states_do_in_the_mean(labels: Tensor) -> None:
    logits, dense = torch.randn(FRAMES, STATES), targets_of("dense", 2.0)
    expected = both(logits, dense, labels, 2.0, 1.0, 0.0)[0][1]
    drawn = both(logits, targets_of("sampled", 2.0, 20_000), labels, 2.0, 1.0, 0.0)[0][1]
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_rows_that_are_no_frames_and_frames_without_a_label_count_for_nothing(labels: Tensor) -> None:
    logits, targets = torch.randn(FRAMES, STATES, requires_grad=True), targets_of("top_k", 2.0)
    frames = torch.arange(FRAMES) < 30
    some = distillation_loss(logits, targets, labels.where(frames, -1), 2.0, 1.0, 0.5, frames)
    (gradient,) = torch.autograd.grad(some, logits)
    assert not gradient[30:].any()
    assert isinstance(targets, TopK)
    first = TopK(targets.state[:30], targets.log_prob[:30], targets.log_tail[:30])
    torch.testing.assert_close(some, distillation_loss(logits[:30], first, labels[:30], 2.0, 1.0, 0.5))
    none = distillation_loss(logits, targets, torch.full((FRAMES,), -1), 2.0, 0.0, 1.0)
    assert none == 0


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_half_precision_get_a_gradient_of_their_kind(kind: str, labels: Tensor) -> None:
    logits = torch.randn(FRAMES, STATES).bfloat16()
    ours, expected = both(logits, targets_of(kind, 2.0), labels, 2.0, 1.0, 0.5)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-2, atol=1e-2 * float(expected[1].abs().max()))


def test_a_multiple_of_the_loss_has_that_multiple_of_the_gradient_however_often_it_is_asked_for(labels: Tensor) -> None:
    logits = torch.randn(FRAMES, STATES, requires_grad=True)
    loss = distillation_loss(logits, targets_of("top_k", 2.0), labels, 2.0, 1.0, 0.5)
    once = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(3 * loss, logits, retain_graph=True)[0], 3 * once)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cross_entropy_is_torchs(dtype: torch.dtype, smoothing: float, labels: Tensor) -> None:
    logits = torch.randn(FRAMES, STATES).to(dtype).requires_grad_()
    ours = cross_entropy(logits, labels, smoothing)
    wide = logits.detach().double().requires_grad_()
    exact = functional.cross_entropy(wide, labels, ignore_index=-1, label_smoothing=smoothing)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)
    assert cross_entropy(logits, torch.full_like(labels, -1), smoothing) == 0
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(
        torch.autograd.grad(ours, logits)[0].double(), *torch.autograd.grad(exact, wide), rtol=tolerance, atol=1e-7
    )
