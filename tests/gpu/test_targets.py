"""Soft targets that are computed on a GPU against double precision on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from asr_kd.nets import AcousticModel, NetConfig, log_prob_by_chunk, open_model, save_ensemble, save_model
from asr_kd.targets import TargetConfig, Teacher, write_targets
from asr_kd.targets.forms import sample, top_k
from tests.train.conftest import write_features

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
TEMPERATURES = (1.0, 2.0, 5.0, 10.0)


@pytest.mark.parametrize(("states", "k"), [(1, 1), (2, 1), (60, 7), (60, 60), (14_000, 20)])
def test_the_best_states_and_the_tails_are_those_of_double_precision(states: int, k: int) -> None:
    torch.manual_seed(2)
    log_prob = (3 * torch.randn(300, states)).log_softmax(1)
    log_prob[:5] = log_prob[:5].clamp(max=-1e4).log_softmax(1)  # equal states
    expected = top_k(log_prob.double(), k, TEMPERATURES)
    state, values, tails = (found.cpu() for found in top_k(log_prob.to(GPU), k, TEMPERATURES))
    torch.testing.assert_close(values.double(), expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_prob.gather(1, state), values, rtol=0, atol=0)
    assert (state.sort(1)[0].diff(dim=1) > 0).all()
    torch.testing.assert_close(tails.double(), expected[2], rtol=1e-5, atol=1e-5)
    if k < states:
        assert tails.isfinite().all()
    else:
        assert (tails == -torch.inf).all()


def test_drawn_states_and_weights_are_those_of_the_cpu() -> None:
    torch.manual_seed(3)
    prob, start = (3 * torch.randn(200, 500)).softmax(1), torch.rand(200)
    expected, found = sample(prob, 12, start), sample(prob.to(GPU), 12, start.to(GPU))
    same = (expected[0] == found[0].cpu()).all(1)
    assert same.float().mean() > 0.98  # a sum that is rounded otherwise may draw the next state
    torch.testing.assert_close(found[1].cpu()[same], expected[1][same], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_mean_of_an_ensemble_is_that_of_double_precision(tmp_path: Path, mean: str) -> None:
    net = NetConfig(bins=4, states=300, width=32, layers=2)
    for seed in range(3):
        torch.manual_seed(seed)
        save_model(AcousticModel(net), tmp_path / f"{seed}")
    save_ensemble(tmp_path / "all", [tmp_path / f"{seed}" for seed in range(3)], mean)
    features = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    with torch.inference_mode():
        (expected,) = (each.double() for each in log_prob_by_chunk(open_model(tmp_path / "all"), features))
        (found,) = log_prob_by_chunk(open_model(tmp_path / "all").to(GPU), features)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=1e-4)


def test_a_store_that_a_gpu_wrote_is_that_of_the_cpu_but_for_rounding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(AcousticModel(NetConfig(bins=4, states=100, width=32, layers=2)), tmp_path / "net")
    random = np.random.default_rng(1)
    arrays = {f"u{i}": random.normal(size=(20 + 7 * i % 50, 4)).astype(np.float32) for i in range(12)}
    features = write_features(tmp_path / "feats", arrays)
    stores = {
        device: write_targets(Teacher(tmp_path / "net", features, device=device), tmp_path / device, TargetConfig(k=7))
        for device in ("cpu", "cuda")
    }
    found, expected = stores["cuda"].store, stores["cpu"].store
    for utterance in arrays:
        one, other = found.read(utterance), expected.read(utterance)
        np.testing.assert_allclose(one["log_prob"], other["log_prob"], atol=0.01)
        np.testing.assert_allclose(one["log_tail"], other["log_tail"], atol=0.01)
        assert (one["target_state"] == other["target_state"]).mean() > 0.95
