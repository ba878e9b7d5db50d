"""The joint inference against SciPy's minimisers, the conditions of optimality, and closed forms."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.nets import joint as inference
from asr_kd.nets.joint import active_specialists, joint


@dataclasses.dataclass(frozen=True)
class Scene:
    """Arguments of ``joint``."""

    log_p: Tensor
    log_r: list[Tensor]
    members: list[np.ndarray]
    active: Tensor

    def answer(self) -> Tensor:
        """What ``joint`` says."""
        return joint(self.log_p, self.log_r, self.members, self.active)

    def weights(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log w ``[states]``, d ``[m]`` and ``outside [m, states]`` of the active specialists that do not own all."""
        log_w, dustbin, outside = self.log_p[frame].double().numpy().copy(), [], []
        for told, own, asked in zip(self.log_r, self.members, self.active[frame], strict=True):
            if not asked:
                continue
            row = told[frame].double().numpy()
            log_w[own] = np.logaddexp(log_w[own], row[:-1])
            if len(own) < len(log_w):
                dustbin.append(math.exp(row[-1]))
                outside.append(~np.isin(np.arange(len(log_w)), own))
        return log_w, np.array(dustbin), np.array(outside).reshape(len(dustbin), len(log_w))


def made(members: list[np.ndarray], states: int, frames: int, spread: float, seed: int) -> Scene:
    """Random distributions whose logits have the standard deviation ``spread``; each specialist is active in 3/4."""
    random = torch.Generator().manual_seed(seed)
    logits = [spread * torch.randn(frames, n, generator=random) for n in (states, *(len(own) + 1 for own in members))]
    log_p, *log_r = (part.double().log_softmax(1) for part in logits)
    return Scene(log_p, log_r, members, torch.rand(frames, len(members), generator=random) < 0.75)


def drawn(states: int, specialists: int, seed: int) -> list[np.ndarray]:
    """Members that overlap, in any order."""
    random = np.random.default_rng(seed)
    return [random.permutation(states)[: random.integers(1, states)] for _ in range(specialists)]


def minimum(log_w: np.ndarray, dustbin: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """q ``[states]`` by SciPy: L-BFGS on the logits of q, the best of several starts."""
    weight = np.exp(log_w)
    whole = weight.sum() + dustbin.sum()

    def objective(logits: np.ndarray) -> tuple[float, np.ndarray]:
        log_q = logits - np.logaddexp.reduce(logits)
        rest = outside @ np.exp(log_q)
        pull = weight + np.exp(log_q) * (outside.T @ (dustbin / rest))
        return -float(weight @ log_q + dustbin @ np.log(rest)), whole * np.exp(log_q) - pull

    random = np.random.default_rng(0)
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 0, "gtol": 1e-11, "maxcor": 30}
    starts = [np.zeros(len(weight)), log_w, random.normal(size=len(weight))]
    found = [minimize(objective, start, jac=True, method="L-BFGS-B", options=options) for start in starts]
    best = min(found, key=lambda one: one.fun).x
    return np.exp(best - np.logaddexp.reduce(best))


def check_optimal(scene: Scene, log_q: Tensor) -> None:
    """The conditions of Karush, Kuhn and Tucker, which are sufficient as the problem is convex.

    They are that w_i / q_i + the sum of d_m / D_m over the m that do not own i is W, or at most W where w_i is 0.
    """
    for frame, answer in enumerate(log_q.double().numpy()):
        log_w, dustbin, outside = scene.weights(frame)
        assert np.exp(answer).sum() == pytest.approx(1, abs=1e-9)
        assert not np.isinf(answer[np.isfinite(scene.log_p[frame].numpy())]).any()
        rest = outside @ np.exp(answer)
        price = outside.T @ np.divide(dustbin, rest, out=np.zeros(len(rest)), where=dustbin > 0)
        whole = np.exp(log_w).sum() + dustbin.sum()
        some = log_w > -690
        np.testing.assert_allclose(np.exp(log_w[some] - answer[some]) + price[some], whole, rtol=1e-7)
        assert (price <= whole * (1 + 1e-7)).all()


@pytest.mark.parametrize("spread", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("specialists", [1, 2, 4])
def test_it_is_the_minimum_that_scipy_finds(specialists: int, spread: float) -> None:
    for seed in range(4):
        members = drawn(7, specialists, seed)
        scene = made(members, 7, 5, spread, seed)
        answer = scene.answer().exp()
        for frame in range(5):
            expected = minimum(*scene.weights(frame))
            assert np.abs(answer[frame].numpy() - expected).max() < 1e-5


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Distributions with zeros, certainties and tails, and specialists that may overlap, repeat or own all states."""
    frames, states = draw(st.integers(1, 3)), draw(st.integers(2, 7))
    subsets = st.lists(st.integers(0, states - 1), min_size=1, max_size=states, unique=True)
    members = [np.array(own) for own in draw(st.lists(subsets, max_size=5))]
    logit = st.one_of(st.floats(-80, 0), st.sampled_from([0.0, -1.0, -math.inf]))

    def log_prob(count: int) -> Tensor:
        row = st.lists(logit, min_size=count, max_size=count).filter(lambda row: max(row) > -math.inf)
        return torch.tensor([draw(row) for _ in range(frames)], dtype=torch.float64).log_softmax(1)

    log_r = [log_prob(len(own) + 1) for own in members]
    for told, own in zip(log_r, members, strict=True):
        if len(own) == states:  # a dustbin that stands for nothing
            told[:] = torch.cat([told[:, :-1].clamp(min=-80), torch.full((frames, 1), -9.0)], 1).log_softmax(1)
    active = torch.tensor([[draw(st.booleans()) for _ in members] for _ in range(frames)], dtype=torch.bool)
    return Scene(log_prob(states), log_r, members, active.view(frames, len(members)))


@given(scenes())
@settings(deadline=None, max_examples=150)
def test_the_conditions_of_optimality_hold(scene: Scene) -> None:
    check_optimal(scene, scene.answer())


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("spread", [0.1, 30.0, 100.0, 300.0])
def test_they_hold_where_probabilities_are_tiny(spread: float, overlapping: bool) -> None:
    members = drawn(12, 6, 1) if overlapping else [np.arange(i, i + 2) for i in range(0, 10, 2)]
    scene = made(members, 12, 300, spread, 2)
    answer = scene.answer()
    assert answer.isfinite().all()
    check_optimal(scene, answer)


def test_all_specialists_of_a_partition_may_be_active() -> None:
    members = np.array_split(np.random.default_rng(0).permutation(60), 20)
    scene = made(members, 60, 20, 3.0, 3)
    scene.active[:] = True
    check_optimal(scene, scene.answer())


def test_one_active_specialist_has_a_closed_form() -> None:
    own = np.array([5, 0, 2])
    scene = made([own], 8, 30, 3.0, 4)
    scene.active[:] = True
    p, r = scene.log_p.exp(), scene.log_r[0].exp()
    rest = torch.ones(8, dtype=torch.bool)
    rest[own] = False
    expected = torch.empty_like(p)
    expected[:, own] = (p[:, own] + r[:, :-1]) / 2
    expected[:, rest] = p[:, rest] * (1 + r[:, -1:] / p[:, rest].sum(1, keepdim=True)) / 2
    torch.testing.assert_close(scene.answer(), expected.log(), rtol=1e-12, atol=1e-12)


def test_specialists_that_agree_with_the_generalist_change_nothing() -> None:
    members = drawn(9, 4, 5)
    scene = made(members, 9, 20, 3.0, 5)
    for told, own in zip(scene.log_r, members, strict=True):
        others = np.setdiff1d(np.arange(9), own)
        told[:] = torch.cat([scene.log_p[:, own], scene.log_p[:, others].logsumexp(1, keepdim=True)], 1)
    torch.testing.assert_close(scene.answer(), scene.log_p, rtol=1e-8, atol=1e-8)


def test_frames_without_an_active_specialist_keep_their_bits_and_what_others_say_is_not_looked_at() -> None:
    scene = made(drawn(9, 3, 6), 9, 40, 2.0, 6)
    expected = scene.answer()
    idle = ~scene.active.any(1)
    assert idle.any()
    torch.testing.assert_close(expected[idle], scene.log_p[idle], rtol=0, atol=0)
    for number, told in enumerate(scene.log_r):
        told[~scene.active[:, number]] = math.nan
    torch.testing.assert_close(scene.answer(), expected, rtol=0, atol=0)
    none = joint(scene.log_p, [], [], torch.zeros(40, 0, dtype=torch.bool))
    torch.testing.assert_close(none, scene.log_p, rtol=0, atol=0)


def one_frame(p: list[float], told: dict[tuple[int, ...], list[float]]) -> list[float]:
    """q of one frame, from probabilities; ``told``: members -> own probabilities and the dustbin's."""
    logs = [torch.tensor([row], dtype=torch.float64).log() for row in (p, *told.values())]
    members = [np.array(own) for own in told]
    return joint(logs[0], logs[1:], members, torch.ones(1, len(told), dtype=torch.bool)).exp()[0].tolist()


def test_zeros_and_certainties_have_their_limits() -> None:
    assert one_frame([0.2, 0.8, 0], {(0, 2): [1, 0, 0]}) == pytest.approx([0.6, 0.4, 0])  # d is 0
    assert one_frame([0.2, 0.6, 0.2], {(0,): [0, 1]}) == pytest.approx([0.1, 0.675, 0.225])  # d is 1
    # All say that it is elsewhere, where the generalist is at 0: a dustbin's mass is spread evenly.
    assert one_frame([1, 0, 0], {(0,): [0, 1]}) == pytest.approx([0.5, 0.25, 0.25])
    assert one_frame([1, 0, 0], {(0, 1): [0, 0, 1], (0, 2): [0, 0, 1]}) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert one_frame([0, 1, 0], {(0,): [1, 0], (2,): [1, 0]}) == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_a_specialist_of_all_states_is_a_second_generalist() -> None:
    assert one_frame([0.5, 0.3, 0.2], {(2, 1, 0): [0.4, 0.4, 0.2, 0]}) == pytest.approx([0.35, 0.35, 0.3])
    assert one_frame([0.5, 0.5], {(0, 1): [0.5, 0, 0.5]}) == pytest.approx([2 / 3, 1 / 3])  # without its dustbin


def test_tails_keep_their_proportions_beyond_what_a_float_holds() -> None:
    log_p = torch.tensor([[0.0, -2000.0, -2001.0, -1000.0]], dtype=torch.float64)
    answer = joint(log_p, [torch.tensor([[-1.0, math.log1p(-math.exp(-1))]])], [np.array([0])], torch.ones(1, 1) > 0)
    assert (answer[0, 1] - answer[0, 2]).item() == pytest.approx(1)
    assert (answer[0, 3] - answer[0, 1]).item() == pytest.approx(1000)
    assert answer[0, 3].exp().item() == pytest.approx((1 - math.exp(-1)) / 2)


def test_the_order_of_specialists_and_of_members_does_not_matter() -> None:
    scene = made(drawn(9, 4, 7), 9, 30, 4.0, 7)
    orders = [np.random.default_rng(number).permutation(len(own)) for number, own in enumerate(scene.members)]
    log_r = [told[:, [*order, -1]] for told, order in zip(scene.log_r, orders, strict=True)]
    members = [own[order] for own, order in zip(scene.members, orders, strict=True)]
    other = joint(scene.log_p, log_r[::-1], members[::-1], scene.active.flip(1))
    torch.testing.assert_close(other, scene.answer(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_answer_has_the_type_of_the_question(dtype: torch.dtype) -> None:
    scene = made(drawn(9, 4, 8), 9, 30, 2.0, 8)
    rough = Scene(scene.log_p.to(dtype), [told.to(dtype) for told in scene.log_r], scene.members, scene.active)
    answer = joint(rough.log_p.requires_grad_(), rough.log_r, rough.members, rough.active)
    assert answer.dtype == dtype
    assert not answer.requires_grad
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(answer.double(), scene.answer(), rtol=tolerance, atol=tolerance)


def test_blocks_threads_and_strides_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = made(drawn(9, 4, 9), 9, 50, 3.0, 9)
    expected = scene.answer()
    monkeypatch.setattr(inference, "BLOCK", 7 * 9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    columns = Scene(scene.log_p.T.contiguous().T, scene.log_r, scene.members, scene.active.T.contiguous().T)
    torch.testing.assert_close(columns.answer(), expected, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(scene.answer(), expected, rtol=0, atol=0)
    none = joint(scene.log_p[:0], [told[:0] for told in scene.log_r], scene.members, scene.active[:0])
    assert none.shape == (0, 9)


def test_active_are_those_that_own_one_of_the_most_probable_states() -> None:
    members = [np.array([0, 1]), np.array([3, 2]), np.array([1, 4])]
    log_p = torch.tensor([[0.1, 0.4, 0.3, 0.15, 0.05], [0.0, 0.1, 0.2, 0.3, 0.4], [0.6, 0.1, 0.1, 0.1, 0.1]]).log()
    asked = [active_specialists(log_p, members, n).tolist() for n in (1, 2, 5)]
    assert asked[0] == [[True, False, True], [False, False, True], [True, False, False]]
    assert asked[1][:2] == [[True, True, True], [False, True, True]]
    assert asked[2] == [[True] * 3] * 3
    assert not active_specialists(log_p[:1], [np.array([4])], 4).any()


def test_mistakes_are_named() -> None:
    scene = made([np.array([0, 1]), np.array([2, 3])], 5, 4, 1.0, 10)
    log_p, log_r, members, active = scene.log_p, scene.log_r, scene.members, scene.active
    for n in (0, 6):
        with pytest.raises(UserError, match=f"active is {n} for 5 states; expected 1 to 5"):
            active_specialists(log_p, members, n)
    with pytest.raises(UserError, match="specialist 1 has states 4 to 5; the generalist has 5"):
        active_specialists(log_p, [members[0], np.array([4, 5])], 1)
    for own in ([], [1, 1]):
        with pytest.raises(UserError, match=r"specialist 0 has states \[.*\]; expected one or more, each once"):
            joint(log_p, log_r, [np.array(own, np.int64), members[1]], active)
    with pytest.raises(UserError, match="outputs of 1 specialists .* states of 2 specialists"):
        joint(log_p, log_r[:1], members, active)
    with pytest.raises(UserError, match=r"choices of shape \[4, 1\] for 4 frames"):
        joint(log_p, log_r, members, active[:, :1])
    with pytest.raises(UserError, match=r"specialist 1: outputs of shape \[4, 2\]; expected \[4, 3\]: its 2 states"):
        joint(log_p, [log_r[0], log_r[1][:, 1:]], members, active)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 2.5])
def test_what_is_no_distribution_is_named(wrong: float) -> None:
    scene = made([np.array([0, 1]), np.array([2, 3])], 5, 4, 1.0, 11)
    scene.active[:] = torch.tensor([False, True])
    for tensor in (scene.log_p, scene.log_r[1]):
        kept = tensor[2, 1].clone()
        tensor[2, 1] = wrong
        with pytest.raises(UserError, match=r"frame 2: .* specialist \(1 are active\) do not add up to 1"):
            scene.answer()
        tensor[2, 1] = kept


def test_dustbins_that_are_certain_of_what_the_generalist_rules_out_are_no_exception() -> None:
    """Masses and multipliers that are 0 together, where Newton's method is slow and rounding ends it."""
    random = np.random.default_rng(5)
    for _ in range(10):
        members = [random.permutation(27)[:13] for _ in range(7)]
        scene = made(members, 27, 20, 170.0, int(random.integers(1000)))
        for told in scene.log_r:
            told[:] = torch.tensor([-1e9] * 13 + [0.0])
        scene.active[:] = True
        check_optimal(scene, scene.answer())


def test_a_search_without_an_end_is_no_mistake_of_the_user() -> None:
    active = torch.tensor([[True, False], [True, True]])
    inference._check_status(np.zeros(2, np.int8), active)
    with pytest.raises(ArithmeticError, match="frame 1, specialists 0, 1: the joint inference did not converge"):
        inference._check_status(np.array([0, inference._NO_END], np.int8), active)
