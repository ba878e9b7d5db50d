"""The forms of soft targets against their formulas in double precision."""

import numpy as np
import pytest
import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.targets import TargetConfig, forms
from asr_kd.targets import encode as encode_module
from asr_kd.targets.encode import draws_of, encode
from asr_kd.targets.forms import LEAST, sample, top_k

FRAMES, STATES = 40, 30


def log_probs(scale: float = 3.0, frames: int = FRAMES, states: int = STATES) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return (scale * torch.randn(frames, states, generator=random)).log_softmax(1)


def softened(log_prob: Tensor, temperature: float) -> Tensor:
    return (log_prob.double() / temperature).softmax(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("k", [1, 5, STATES - 1])
def test_the_tail_is_the_mass_of_the_other_states_at_the_temperature(k: int, temperature: float) -> None:
    log_prob = log_probs()
    states, values, tails = top_k(log_prob, k, (7.0, temperature))
    outside = softened(log_prob, temperature).scatter(1, states, 0)
    torch.testing.assert_close(tails[:, 1].double(), outside.sum(1).log(), rtol=1e-5, atol=1e-6)
    assert (values[:, :-1] >= values[:, 1:]).all()
    assert torch.equal(values, log_prob.sort(1, descending=True).values[:, :k])
    assert torch.equal(log_prob.gather(1, states), values)


def test_a_tail_that_is_lost_beside_1_keeps_its_digits() -> None:
    log_prob = torch.tensor([[0.0, -25.0, -26.0, -80.0]])
    tail = top_k(log_prob, 1, (1.0,))[2].double()
    assert float(tail) == pytest.approx(np.log(np.exp([-25.0, -26.0, -80.0]).sum()), rel=1e-6)


def test_states_that_cannot_be_have_no_part_in_the_tail() -> None:
    log_prob = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf], [-1.0, -2.0, -0.7, -torch.inf]])
    states, values, tails = top_k(log_prob, 2, (1.0, 2.0))
    assert states.tolist() == [[0, 1], [2, 0]]  # of equal ones the first
    assert values[0].tolist() == [0.0, -np.inf]
    assert tails[0].tolist() == [-np.inf, -np.inf]
    for cold in ([0.5], [1.0, 0.7], [0.9, 0.3, 2.0]):
        assert torch.equal(top_k(log_prob[:1], 2, cold)[2], torch.full((1, len(cold)), -torch.inf))
    expected = softened(log_prob[1:], 2.0)[0, 1].log()
    assert float(tails[1, 1]) == pytest.approx(float(expected), rel=1e-6)


def test_many_frames_are_the_same_as_each_alone() -> None:
    log_prob = log_probs(frames=300, states=1000)
    whole = top_k(log_prob, 20, (1.0, 2.0, 5.0, 10.0))
    alone = [top_k(row[None], 20, (1.0, 2.0, 5.0, 10.0)) for row in log_prob[::50]]
    for number, tensor in enumerate(whole):
        assert torch.equal(tensor[::50], torch.cat([each[number] for each in alone]))
    assert [part.shape for part in top_k(log_prob[:0], 3, (1.0,))] == [(0, 3), (0, 3), (0, 1)]


@pytest.mark.parametrize("states", [5, 40, 300, 2000])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize("impossible", [False, True])
def test_the_best_states_come_in_order_and_of_equal_ones_the_first(states: int, scale: float, impossible: bool) -> None:
    log_prob = (torch.randn(20, states).mul(8).round() - 5) * scale  # many are equal
    if impossible:
        log_prob[:, 1:-1] = -torch.inf
    for k in (1, 4, 21, states):
        if k < states:
            chosen, values, _ = top_k(log_prob, k, [1.0])
            expected = log_prob.sort(dim=1, descending=True, stable=True)
            assert torch.equal(values, expected.values[:, :k])
            assert torch.equal(chosen, expected.indices[:, :k])


def test_tails_at_temperatures_that_are_no_whole_parts_of_the_highest() -> None:
    log_prob = torch.randn(7, 3000).mul(3).log_softmax(1)
    temperatures = [1.0, 2.0, 5.0, 8.0]
    chosen, _, tails = top_k(log_prob, 20, temperatures)
    for i, temperature in enumerate(temperatures):
        expected = softened(log_prob, temperature).scatter(1, chosen, 0).sum(1).log()
        torch.testing.assert_close(tails[:, i].double(), expected, rtol=0, atol=1e-5)


def test_all_states_leave_no_tail_and_half_precision_keeps_it_finite() -> None:
    assert torch.equal(top_k(log_probs(), STATES, (1.0, 2.0))[2], torch.full((FRAMES, 2), -torch.inf))
    stored = encode(log_probs(), TargetConfig(k=STATES), draws_of("u", 0))["log_tail"]
    assert stored.dtype == np.float16
    assert (stored == np.float16(LEAST)).all()


def draws(prob: Tensor, k: int, number: int) -> tuple[Tensor, Tensor]:
    """``number`` draws from one distribution ``[states]``, at evenly spread random numbers."""
    start = (torch.arange(number).double() + 0.5) / number
    return sample(prob.expand(number, -1), k, start)


@pytest.mark.parametrize("k", [1, 2, 7, STATES - 1])
def test_weights_are_the_distribution_in_the_mean_and_1_in_all(k: int) -> None:
    for prob in softened(log_probs(), 2.0)[:5]:
        states, weights = draws(prob, k, 20_000)
        mean = torch.zeros(STATES).double().scatter_add_(0, states.flatten(), weights.flatten()) / len(states)
        torch.testing.assert_close(mean, prob, rtol=0, atol=1e-4)
        torch.testing.assert_close(weights.sum(1), torch.ones(len(states)).double(), rtol=0, atol=1e-12)
        assert (states.sort(1).values.diff(dim=1) > 0).all()  # all different


def test_a_state_above_the_threshold_is_always_drawn_at_what_it_is_and_the_others_weigh_the_same() -> None:
    prob = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.02], dtype=torch.float64)
    states, weights = draws(prob, 3, 1000)
    for state in (0, 1):
        assert (states == state).any(1).all()
        torch.testing.assert_close(weights[states == state], prob[state].expand(1000), rtol=0, atol=1e-15)
    torch.testing.assert_close(weights[states > 1], torch.full((1000,), 0.2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_no_other_threshold_makes_as_many_states() -> None:
    """The chances of being drawn, min(1, p / t), add up to k: t is found by bisection here."""
    for prob in softened(log_probs(), 1.0):
        for k in (2, 5, 20):
            low, high = 0.0, 1.0
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (middle, high) if float((prob / middle).clamp(max=1).sum()) > k else (low, middle)
            weights = sample(prob[None], k, torch.tensor([0.3]))[1]
            assert float(weights.min()) == pytest.approx(high, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, STATES])
def test_certain_frames_have_one_weight(k: int) -> None:
    prob = torch.eye(STATES)
    for start in (0.0, 0.4, 1.0):
        states, weights = sample(prob, k, torch.full((STATES,), start))
        drawn = torch.zeros(STATES, STATES).double().scatter_(1, states, weights)
        torch.testing.assert_close(drawn, prob.double(), rtol=0, atol=1e-20)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_as_many_draws_as_states_are_the_distribution(scale: float) -> None:
    prob = softened(log_probs(scale), 1.0)
    for start in (0.0, 0.5, 1.0):
        states, weights = sample(prob, STATES, torch.full((FRAMES,), start))
        assert torch.equal(states, torch.arange(STATES).expand(FRAMES, -1))
        torch.testing.assert_close(weights, prob, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 50.0])
def test_any_distribution_gives_as_many_states_as_asked_for(temperature: float) -> None:
    random = torch.Generator().manual_seed(5)
    for states in (2, 33, 257):
        logits = 40 * torch.randn(500, states, generator=random).double()
        prob = (logits / temperature).softmax(1).float()
        for k in {1, 2, states // 2, states}:
            chosen, weights = sample(prob, k, torch.rand(500, generator=random))
            assert chosen.shape == weights.shape == (500, k)
            torch.testing.assert_close(weights.sum(1), torch.ones(500).double(), rtol=0, atol=1e-6)


CONFIGS = [
    TargetConfig("dense"),
    TargetConfig("topk", k=4),
    TargetConfig("sampled", k=4, temperatures=(2.0,)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.form)
def test_the_stored_numbers_are_the_forms_own_in_half_precision(config: TargetConfig) -> None:
    log_prob = log_probs()
    stored = encode(log_prob, config, draws_of("u", 0))
    assert {name: array.shape[1:] for name, array in stored.items()} == {
        name: spec.shape for name, spec in config.tensors(STATES).items()
    }
    if config.form == "dense":
        np.testing.assert_array_equal(stored["log_prob"], log_prob.half())
    elif config.form == "topk":
        states, values, tails = top_k(log_prob, 4, config.temperatures)
        np.testing.assert_array_equal(stored["target_state"], states)
        np.testing.assert_array_equal(stored["log_prob"], values.half())
        np.testing.assert_array_equal(stored["log_tail"], tails.half())
    else:
        start = torch.from_numpy(draws_of("u", 0).random(FRAMES))
        states, weights = sample((log_prob / 2).softmax(1), 4, start)
        np.testing.assert_array_equal(stored["target_state"], states)
        np.testing.assert_array_equal(stored["weight"], weights.half())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.form)
def test_blocks_of_frames_are_encoded_as_all_at_once(config: TargetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(log_probs(), config, draws_of("u", 0))
    monkeypatch.setattr(encode_module, "BLOCK", 7 * STATES)  # the last one is short
    parts = encode(log_probs(), config, draws_of("u", 0))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_draws_depend_on_utterance_and_seed_alone() -> None:
    first = draws_of("u", 0).random(3)
    assert (draws_of("u", 0).random(3) == first).all()
    assert (draws_of("u", 1).random(3) != first).all()
    assert (draws_of("v", 0).random(3) != first).all()


@pytest.mark.parametrize(
    ("value", "found"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")], ids=str
)
def test_a_frame_that_is_no_distribution_is_named(value: float, found: str) -> None:
    log_prob = log_probs()
    log_prob[7] = value
    with pytest.raises(UserError, match=f"of frame 7 are not finite .the largest is {found}"):
        encode(log_prob, TargetConfig("dense"), draws_of("u", 0))


def test_impossible_states_are_stored_as_the_least_number() -> None:
    log_prob = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert encode(log_prob, TargetConfig("dense"), draws_of("u", 0))["log_prob"][0, 2] == np.float16(LEAST)
    kept = encode(log_prob, TargetConfig(k=3), draws_of("u", 0))
    assert kept["log_prob"][0, 2] == np.float16(LEAST)


@pytest.mark.parametrize("powers", [[], [1], [10, 5, 2, 1], [64], [3, 7, 50]])
def test_powers_are_products_of_earlier_ones(powers: list[int]) -> None:
    chain, products = forms._chain(powers)
    assert set(powers) <= set(chain)
    for power, (one, other) in zip(chain[1:], products, strict=True):
        assert chain[one] + chain[other] == power
        assert max(one, other) < chain.index(power)
    assert len(products) <= 2 * len(powers) + 5
