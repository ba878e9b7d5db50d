"""Precision: auto is bfloat16 exactly where the processor multiplies in it."""

from typing import Any

import pytest
import torch

from asr_kd.nets import AcousticModel, NetConfig, autocast, hold_weights, precision, settle_precision

CAPABLE = [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"neon": True, "bf16": True}, True)]
INCAPABLE = [({"avx2": True, "avx512_bf16": False}, False), ({"neon": True}, False)]


@pytest.fixture(params=[*CAPABLE, *INCAPABLE], ids=str)
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    capabilities, has_it = request.param
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    forget()
    yield has_it
    forget()


def forget() -> None:
    settle_precision.cache_clear()
    precision.multiplies_in_bf16.cache_clear()


def test_auto_is_what_the_processor_is_quick_at(native: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert settle_precision("auto", "cpu") == ("bf16" if native else "fp32")
    assert settle_precision("fp32", "cpu") == "fp32"
    assert not capsys.readouterr().err


def test_bf16_is_obeyed_everywhere_with_a_warning_where_it_is_slow(
    native: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settle_precision("bf16", torch.device("cpu")) == "bf16"
    assert ("many times slower" in capsys.readouterr().err) is not native


@pytest.mark.parametrize(("name", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_in_that_precision(name: str, kind: torch.dtype) -> None:
    with autocast("cpu", name):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind


@pytest.mark.parametrize("kind", ["dnn", "tdnn"])
def test_held_weights_say_what_rounded_ones_say(kind: str) -> None:
    torch.manual_seed(0)
    model = AcousticModel(NetConfig(kind=kind, width=24, bottleneck=6, bins=10, states=20)).eval()  # type: ignore[arg-type]
    features = torch.randn(1, model.left_context + 30 + model.right_context, 10)
    with torch.inference_mode(), autocast("cpu", "bf16"):
        rounded = model(features)
        hold_weights(model, "fp32")
        assert model.network.output.weight.dtype == torch.float32
        hold_weights(model, "bf16")
        assert model.network.output.weight.dtype == torch.bfloat16
        assert torch.equal(model(features), rounded)
