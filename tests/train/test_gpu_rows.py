"""The GPU's kernels of the objective against the double-precision reference, by Triton's interpreter or on a GPU."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asr_kd import gpu_kernels
from asr_kd.targets import Dense, Sampled, SoftTargets, TopK
from asr_kd.train import gpu_rows, reference
from asr_kd.train.distillation import _weights, distillation_loss, logit_matching_loss

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter, where values are masked


@dataclasses.dataclass(frozen=True)
class Case:
    """What one call of the objective is given; ``scale`` is that of the logits."""

    kind: str
    rows: int
    states: int
    chosen: int
    temperature: float
    scale: float
    dtype: torch.dtype
    hard: bool
    seed: int

    def targets(self) -> SoftTargets:
        log_prob = (5 * torch.randn(self.rows, self.states)).log_softmax(1)
        if self.kind == "dense":
            return Dense(log_prob.half())
        if self.kind == "sampled":
            state = torch.randint(self.states, (self.rows, self.chosen))  # with repetitions
            return Sampled(state, torch.rand(state.shape) / max(self.chosen, 1))
        values, state = log_prob.topk(self.chosen)
        others = (log_prob / self.temperature).log_softmax(1).scatter(1, state, -math.inf)
        return TopK(state.int(), values.half(), others.logsumexp(1))

    def inputs(self) -> tuple[Tensor, SoftTargets, Tensor, float, Tensor]:
        torch.manual_seed(self.seed)
        logits = (self.scale * torch.randn(self.rows, self.states)).to(self.dtype)
        labels = torch.randint(-1, self.states, (self.rows,))
        weights = torch.rand(self.rows, 2) * torch.tensor([1.0, float(self.hard)])
        weights[:, 1] *= labels >= 0
        weights[::7] = 0
        return logits, self.targets(), labels, self.temperature, weights


def on(device: str, *values: Any) -> Iterator[Any]:
    """Each tensor, and each dataclass of tensors, on ``device``."""
    for value in values:
        if isinstance(value, Dense | TopK | Sampled):
            yield type(value)(*on(device, *vars(value).values()))
        else:
            yield value.to(device) if isinstance(value, Tensor) else value


def computed(case: Case, device: str) -> tuple[Tensor, Tensor]:
    loss, gradient = gpu_rows.objective(*on(device, *case.inputs(), case.hard))
    assert gradient.dtype == case.dtype
    return loss.double().cpu(), gradient.double().cpu()


def check(case: Case, device: str) -> None:
    """Within a few units in the last place of float32, and the gradient within one of its type.

    The interpreter has no fused operations, so that large logits lose digits, and cuts instead of rounding to bfloat16.
    """
    logits, *others = case.inputs()
    loss, gradient = computed(case, device)
    exact_loss, exact = reference.objective(logits.double(), *others)  # type: ignore[arg-type]
    # Single precision resolves a divergence to 1e-7 nats for each row.
    torch.testing.assert_close(loss, exact_loss, rtol=3e-6, atol=2e-6 * case.rows)
    rounding = {torch.float32: 2e-5, torch.bfloat16: 2**-7 if device == "cpu" else 2**-8, torch.float16: 2**-10}
    unfused = 1e-6 * case.scale / min(case.temperature, 1) if device == "cpu" else 0.0
    relative, absolute = 1.01 * rounding[case.dtype] + unfused, 3e-6 * max(1, 1 / case.temperature) + unfused
    torch.testing.assert_close(gradient, exact, rtol=relative, atol=absolute)
    assert not gradient[::7].any()


def random_case(seed: int) -> Case:
    random = np.random.default_rng(seed)
    states = int(random.choice([1, 2, 3, 31, 32, 33, 128, 129, 300, 700]))
    kind = ("top_k", "dense", "sampled")[seed % 3]
    most = states if kind == "top_k" else 20
    chosen = random.choice([1, min(7, most), min(20, most), most, int(random.integers(kind == "top_k", most + 1))])
    return Case(
        kind=kind,
        rows=int(random.integers(1, 6)),
        states=states,
        chosen=int(chosen),
        temperature=float(random.choice([0.5, 1.0, 2.0, 3.3, 8.0, 50.0])),
        scale=float(random.choice([1.0, 100.0, 1e4])),
        dtype=(torch.float32, torch.bfloat16)[int(random.integers(2))],
        hard=bool(random.integers(4)),
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(30))
def test_kernels_compute_the_reference(seed: int, kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 2:  # more states than a program holds in registers
        monkeypatch.setattr(gpu_kernels, "LARGEST_BLOCK", 128)
    check(random_case(seed), kernel_device)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "temperature"), [(torch.float32, 3.3), (torch.bfloat16, 2.0), (torch.float16, 1.0)], ids=str
)
@pytest.mark.parametrize("states", [9999, 14_000, 40_000])
@pytest.mark.parametrize("kind", ["top_k", "dense", "sampled"])
def test_rows_of_many_states_are_the_references(kind: str, states: int, dtype: torch.dtype, temperature: float) -> None:
    check(Case(kind, 100, states, 20, temperature, 3.0, dtype, True, states), "cuda")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.3])
def test_a_vanishing_mass_outside_the_best_states_keeps_its_digits(temperature: float, kernel_device: str) -> None:
    logits, targets, labels, _, weights = Case("top_k", 3, 300, 5, temperature, 1.0, torch.float32, True, 1).inputs()
    assert isinstance(targets, TopK)
    logits.scatter_(1, targets.state.long(), 200 + torch.rand(3, 5))
    loss, gradient = gpu_rows.objective(*on(kernel_device, logits, targets, labels, temperature, weights))
    exact_loss, exact = reference.objective(logits.double(), targets, labels, temperature, weights)
    torch.testing.assert_close(loss.cpu().double(), exact_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.cpu().double(), exact, rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["top_k", "dense", "sampled"])
@pytest.mark.parametrize("far", [-300.0, 300.0])
def test_blocks_far_above_or_below_the_first_keep_their_digits(
    far: float, kind: str, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "LARGEST_BLOCK", 128)
    logits, targets, labels, _, weights = Case(kind, 3, 300, 5, 1.0, 1.0, torch.float32, True, 1).inputs()
    logits[:, 128:] += far
    loss, gradient = gpu_rows.objective(*on(kernel_device, logits, targets, labels, 1.0, weights))
    exact_loss, exact = reference.objective(logits.double(), targets, labels, 1.0, weights)
    torch.testing.assert_close(loss.cpu().double(), exact_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.cpu().double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("block", "scale"), [(2048, 1.0), (128, 1e4)])
def test_cross_entropy_is_torchs(
    smoothing: float, block: int, scale: float, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "LARGEST_BLOCK", block)
    torch.manual_seed(0)
    logits, labels = scale * torch.randn(5, 300), torch.tensor([3, -1, 0, 299, 7])
    weights = torch.stack([torch.zeros(5), 0.2 * (labels >= 0)], 1)
    loss, gradient = gpu_rows.cross_entropy(*on(kernel_device, logits, labels, weights, smoothing))
    leaf = logits.double().requires_grad_()
    exact = 0.2 * functional.cross_entropy(leaf, labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(loss.cpu().double(), exact.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.cpu().double(), *torch.autograd.grad(exact, leaf), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("block", "scale"), [(2048, 1.0), (128, 1e4)])
def test_logit_matching_is_that_of_double_precision(
    dtype: torch.dtype, block: int, scale: float, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "LARGEST_BLOCK", block)
    torch.manual_seed(0)
    logits, targets = (scale * torch.randn(5, 300)).to(dtype), Dense((9 * torch.randn(5, 300)).log_softmax(1).half())
    labels, frames = torch.tensor([3, -1, 0, 299, -1]), torch.tensor([1, 1, 0, 1, 0]).bool()
    leaf = logits.double().requires_grad_()
    exact = logit_matching_loss(leaf, targets, labels, 1.0, 0.5, frames)
    weights = torch.stack([1.0 * frames / 3, 0.5 * (labels >= 0) / 3], 1)
    loss, gradient = gpu_rows.logit_matching(*on(kernel_device, logits, targets, labels, weights))
    torch.testing.assert_close(loss.cpu().double(), exact.detach(), rtol=1e-6, atol=0)
    rounding = 2e-5 if dtype == torch.float32 else 1.01 * 2**-7
    torch.testing.assert_close(gradient.cpu().double(), *torch.autograd.grad(exact, leaf), rtol=rounding, atol=1e-6)
    assert not gradient[4].any()


@pytest.mark.parametrize("kind", ["top_k", "dense", "sampled"])
def test_equal_input_gives_equal_bits(kind: str, kernel_device: str) -> None:
    case = Case(kind, 3, 200, 5, 3.3, 1.0, torch.float32, True, 0)
    assert all(map(torch.equal, computed(case, kernel_device), computed(case, kernel_device)))


@pytest.mark.parametrize("wrong", [-1, 50, 1 << 31])
@pytest.mark.parametrize("kind", ["top_k", "sampled"])
def test_a_state_that_the_student_lacks_makes_the_loss_nan_and_nothing_else(
    wrong: int, kind: str, kernel_device: str
) -> None:
    _, targets, labels, *others = Case(kind, 4, 50, 3, 2.0, 1.0, torch.float32, True, 1).inputs()
    assert isinstance(targets, TopK | Sampled)
    targets = dataclasses.replace(targets, state=targets.state.long())
    targets.state[2, 1] = wrong
    check_poisoned(targets, labels, others, kernel_device)


@pytest.mark.parametrize("wrong", [-2, 50, 1 << 31])
def test_a_label_that_the_student_lacks_makes_the_loss_nan_and_nothing_else(wrong: int, kernel_device: str) -> None:
    for kind in ("top_k", "dense", "sampled"):
        _, targets, labels, *others = Case(kind, 4, 50, 3, 2.0, 1.0, torch.float32, True, 1).inputs()
        labels[2] = wrong
        check_poisoned(targets, labels, others, kernel_device)


def check_poisoned(targets: SoftTargets, labels: Tensor, others: list[Any], device: str) -> None:
    """The gradient lies between two tensors that stay as they are."""
    around = torch.full((6, 50), 7.0)
    logits = around[1:5].clone()
    loss, gradient = gpu_rows.objective(*on(device, logits, targets, labels, *others))
    assert loss.isnan()
    assert gradient[[1, 3]].isfinite().all()


@pytest.mark.parametrize("kind", ["top_k", "dense", "sampled"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_not_finite_spoils_its_row_alone(value: float, kind: str, kernel_device: str) -> None:
    logits, *others = Case(kind, 4, 50, 3, 2.0, 1.0, torch.float32, True, 1).inputs()
    logits[2, 8] = value
    loss, gradient = gpu_rows.objective(*on(kernel_device, logits, *others))
    assert not loss.isfinite()
    assert (~gradient.isfinite()).any(1).nonzero()[:, 0].tolist() == [2]


def test_a_row_without_weight_is_not_read(kernel_device: str) -> None:
    logits, targets, labels, temperature, weights = Case("top_k", 4, 50, 3, 2.0, 1.0, torch.float32, True, 1).inputs()
    logits[0], labels[0], weights[0] = math.nan, 99, 0
    loss, gradient = gpu_rows.objective(*on(kernel_device, logits, targets, labels, temperature, weights))
    assert loss.isfinite()
    assert not gradient[0].any()
    assert gpu_rows.objective(*on(kernel_device, logits[:0], Dense(logits[:0]), labels[:0], 2.0, weights[:0]))[0] == 0


def test_targets_of_another_shape_are_an_error(kernel_device: str) -> None:
    logits, targets, labels, temperature, weights = Case("top_k", 4, 50, 3, 2.0, 1.0, torch.float32, True, 1).inputs()
    for wrong in ((logits[1:], targets, labels), (logits, Dense(logits[:, 1:]), labels), (logits, targets, labels[1:])):
        with pytest.raises(ValueError, match="expected"):
            gpu_rows.objective(*on(kernel_device, *wrong, temperature, weights))


@pytest.mark.parametrize("rows", [0, 1, 1023, 3000])
def test_each_term_is_a_mean_over_the_rows_that_count_for_it(rows: int, kernel_device: str) -> None:
    labels, frames = torch.randint(-1, 2, (rows,)), torch.rand(rows) < 0.3
    for some in (frames, frames & False, None):
        ours = gpu_rows.row_weights(*on(kernel_device, labels, some, 4.0, 0.5))
        torch.testing.assert_close(ours.cpu(), _weights(labels, 4.0, 0.5, some))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_is_scaled_in_place(dtype: torch.dtype, kernel_device: str) -> None:
    gradient = torch.arange(-3000, 3000).to(dtype)
    for factor in (1.0, 0.5, 0.0):
        scaled = gradient.to(kernel_device, copy=True)
        gpu_rows.scale_(scaled, torch.tensor(factor, device=kernel_device))
        assert torch.equal(scaled.cpu(), gradient * factor)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["top_k", "dense", "sampled"])
def test_the_objective_is_differentiated_on_a_gpu_as_on_a_cpu(kind: str) -> None:
    logits, targets, labels, temperature, _ = Case(kind, 50, 700, 7, 2.0, 1.0, torch.float32, True, 3).inputs()
    results = []
    for device in ("cpu", "cuda"):
        leaf, *others = on(device, logits, targets, labels, temperature, 1.0, 0.5)
        loss = distillation_loss(leaf.requires_grad_(), *others)
        once, twice = (torch.autograd.grad(factor * loss, leaf, retain_graph=True)[0].cpu() for factor in (1.0, 2.0))
        torch.testing.assert_close(twice, 2 * once)
        results.append((loss.detach().cpu(), once))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "dense", "budget"),
    [
        (torch.float32, None, 8),
        (torch.bfloat16, None, 4),
        (torch.bfloat16, torch.half, 6),
        (torch.float32, torch.float32, 12),
    ],
)
def test_bytes_per_logit_are_within_the_budget(dtype: torch.dtype, dense: torch.dtype | None, budget: int) -> None:
    """On a device that does not exist: the operators say what they would read and write."""
    rows, states = 64, 14_000
    counter = TrafficCounter(rows * states)
    with FakeTensorMode():
        logits = torch.empty(rows, states, device="cuda", dtype=dtype, requires_grad=True)
        state, few = (torch.empty(rows, 20, device="cuda", dtype=kind) for kind in (torch.int64, torch.float32))
        targets = Dense(torch.empty(rows, states, device="cuda", dtype=dense)) if dense else TopK(state, few, few[:, 0])
        labels, frames = torch.empty(rows, device="cuda").long(), torch.empty(rows, device="cuda").bool()
        with counter:
            loss = distillation_loss(logits, targets, labels, 2.0, 1.0, 0.5, frames)
            assert loss.grad_fn is not None
            gradient = loss.grad_fn.apply(torch.ones((), device="cuda"))[0]  # type: ignore[attr-defined]
        assert (gradient.shape, gradient.dtype) == (logits.shape, logits.dtype)
    assert loss.device.type == "cuda"
    assert 0.99 * budget < counter.bytes / (rows * states) < 1.02 * budget


class TrafficCounter(TorchDispatchMode):
    """Counts the bytes of all tensors that operators read or write; one that waits for the device is an error."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.asr_kd.scale_.default:
            args = args[1:]  # by 1 here, so that the gradient is not read
        if function is not torch.ops.prim.device.default:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result
