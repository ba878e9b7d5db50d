"""Acoustic models: contexts, the same outputs however they are computed, standardisation, gradients."""

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest
import torch

from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel, NetConfig, log_posteriors, log_prob_packed, num_parameters, pad_edges
from asr_kd.nets.layers import ByteDropout
from asr_kd.nets.tdnn import BYPASS, FactoredLayer

DNN = NetConfig(bins=5, states=7, width=16, layers=2, left_context=4, right_context=2)
TDNN = NetConfig(kind="tdnn", bins=5, states=7, width=16, bottleneck=4, dilations=(1, 3, 6))
KINDS = pytest.mark.parametrize("config", [DNN, TDNN], ids=["dnn", "tdnn"])


def build(config: NetConfig) -> AcousticModel:
    """A model in evaluation mode whose normalisation is not the identity."""
    torch.manual_seed(0)
    model = AcousticModel(config).train()
    model(torch.randn(8, 60, config.bins))  # moves the running statistics
    return model.eval()


@KINDS
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_an_utterance_gives_what_each_of_its_windows_gives_alone(config: NetConfig, norm: Any) -> None:
    model = build(dataclasses.replace(config, norm=norm, activation="silu"))
    features = torch.randn(2, 50, 5)
    together = model(features)
    span = model.left_context + 1 + model.right_context
    assert together.shape == (2, 50 - span + 1, 7)
    for t in (0, 3, together.shape[1] - 1):
        alone = model(features[:, t : t + span])
        assert torch.allclose(alone[:, 0], together[:, t], atol=1e-5)


@KINDS
def test_an_output_depends_on_its_context_and_on_nothing_else(config: NetConfig) -> None:
    model = build(config)
    features = torch.randn(1, 40, 5, requires_grad=True)
    model(features)[0, 6].sum().backward()
    assert features.grad is not None
    seen = features.grad[0].abs().sum(-1).nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (6, 6 + model.left_context + model.right_context)


@KINDS
@pytest.mark.parametrize("every", [2, 3])
def test_every_nth_output_is_the_one_of_the_full_pass(config: NetConfig, every: int) -> None:
    model = build(config)
    features = torch.randn(2, 50, 5)
    assert torch.allclose(model(features, every), model(features)[:, ::every], atol=1e-5)


@KINDS
def test_gradients_reach_every_parameter(config: NetConfig) -> None:
    model = AcousticModel(config)
    model(torch.randn(4, 40, 5)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_dnn_counts_its_parameters() -> None:
    assert num_parameters(AcousticModel(dataclasses.replace(DNN, norm="none"))) == (
        (7 * 5 + 1) * 16 + (16 + 1) * 16 + (16 + 1) * 7
    )


def test_a_factored_layer_is_two_convolutions_and_a_bypass() -> None:
    layer = FactoredLayer(dataclasses.replace(TDNN, norm="none")).double()
    x = torch.randn(1, 9, 16, dtype=torch.double)
    before, after = layer.narrow.weight.chunk(2)
    factor = [before @ x[0, t - 2] + after @ x[0, t] for t in range(2, 9)]
    expected = [
        BYPASS * x[0, t] + torch.relu(layer.widen.weight @ torch.cat([factor[t - 2], factor[t]]) + layer.widen.bias)
        for t in range(2, 7)
    ]
    assert torch.allclose(layer(x, 2)[0], torch.stack(expected), atol=1e-12)


def test_features_are_standardised_by_the_model() -> None:
    plain, model = build(DNN), build(DNN)
    mean, std = torch.randn(5), torch.rand(5) + 0.5
    model.mean.copy_(mean)
    model.std.copy_(std)
    features = torch.randn(1, 20, 5)
    assert torch.allclose(model(features * std + mean), plain(features), atol=1e-5)


@KINDS
def test_utterances_packed_into_one_pass_give_what_each_gives_alone(config: NetConfig) -> None:
    model, random = build(config), np.random.default_rng(0)
    features = [random.normal(size=(frames, config.bins)).astype(np.float32) for frames in (1, 30, 7, 30)]
    with torch.inference_mode():
        found = log_prob_packed(model, features)
    for own, log_prob in zip(features, found, strict=True):
        np.testing.assert_allclose(log_prob.numpy(), log_posteriors(model, own), atol=1e-5)


@KINDS
def test_log_posteriors_are_the_same_in_chunks_and_sum_to_one(config: NetConfig) -> None:
    model = build(config)
    features = np.random.default_rng(0).normal(size=(2300, 5)).astype(np.float16)
    found = log_posteriors(model, features)
    padded = pad_edges(torch.from_numpy(features).float(), model.left_context, model.right_context)
    assert found.shape == (2300, 7)
    assert found.dtype == np.float32
    assert np.allclose(found, model(padded[None])[0].log_softmax(-1).detach().numpy(), atol=1e-5)
    assert np.allclose(np.exp(found).sum(1), 1, atol=1e-5)


def test_one_frame_is_enough_and_none_gives_none() -> None:
    model = build(DNN)
    assert log_posteriors(model, np.zeros((1, 5), np.float32)).shape == (1, 7)
    assert log_posteriors(model, np.zeros((0, 5), np.float32)).shape == (0, 7)


def test_edges_are_repeated() -> None:
    padded = pad_edges(torch.tensor([[1.0], [2.0]]), 2, 1)
    assert padded.flatten().tolist() == [1, 1, 1, 2, 2]


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(UserError, match="13 coefficients per frame; this network expects 5"):
        log_posteriors(build(DNN), np.zeros((20, 13), np.float32))


@pytest.mark.parametrize(
    ("key", "value"), [("width", 0), ("dropout", 1.0), ("left_context", -1), ("dilations", (1, 0)), ("bins", -3)]
)
def test_a_configuration_out_of_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        dataclasses.replace(DNN, **{key: value})


def test_a_network_without_outputs_is_refused() -> None:
    with pytest.raises(UserError, match=r"net\.states"):
        AcousticModel(NetConfig(bins=40))


@pytest.mark.parametrize("shape", [(4000,), (37, 211), (30, 7, 211), (1,), (0, 5)])
def test_byte_dropout_drops_its_share_and_keeps_the_mean(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.ones(shape)
    y = ByteDropout(0.25).train()(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 4 / 3))
    if x.numel() > 1000:
        assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(ByteDropout(0.25).eval()(x), x)
    assert torch.equal(ByteDropout(0.001).train()(x), x)  # a share below half a byte's step rounds to none


def test_dropout_takes_the_same_units_from_all_frames_of_an_example_and_others_from_the_next() -> None:
    torch.manual_seed(0)
    kept = ByteDropout(0.5).train()(torch.ones(4, 9, 64)) > 0
    assert (kept == kept[:, :1]).all()
    assert not (kept[0] == kept[1]).all()


@pytest.mark.parametrize("kind", ["dnn", "tdnn"])
def test_input_dropout_hides_features_in_training_only(kind: Literal["dnn", "tdnn"]) -> None:
    torch.manual_seed(0)
    model, heard = AcousticModel(NetConfig(kind=kind, bins=400, states=3, norm="none", input_dropout=0.25)), []
    model.network.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    features = torch.ones(5, model.left_context + 1 + model.right_context, 400)
    model(features)
    model.eval()(features)
    assert float((heard[0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert heard[0].unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(heard[1], features)
