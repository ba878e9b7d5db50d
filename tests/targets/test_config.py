"""What may be stored of a distribution, and what it takes."""

from typing import Any

import pytest

from asr_kd.errors import UserError
from asr_kd.targets import TargetConfig

MANY = 14_000


def bytes_per_frame(config: TargetConfig, states: int = MANY) -> int:
    return sum(spec.bytes_per_frame for spec in config.tensors(states).values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "--k 0: expected at least 1"),
        ({"temperatures": ()}, "--temperatures : expected positive numbers"),
        ({"temperatures": (1.0, 0.0)}, "--temperatures .*: expected positive numbers"),
        ({"temperatures": (float("nan"),)}, "--temperatures .*: expected positive numbers"),
        ({"temperatures": (float("inf"),)}, "--temperatures .*: expected positive numbers"),
        ({"temperatures": (2.0, 1.0, 2.0)}, "one of them is repeated"),
        ({"form": "sampled"}, "drawn at one temperature; give the student's"),
        ({"seed": -1}, "--seed -1: expected 0 or more"),
    ],
)
def test_a_configuration_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TargetConfig(**values)


@pytest.mark.parametrize("form", ["topk", "sampled"])
def test_more_states_than_there_are_cannot_be_kept(form: Any) -> None:
    config = TargetConfig(form, k=21, temperatures=(2.0,))
    assert config.tensors(21)["target_state"].shape == (21,)
    with pytest.raises(UserError, match="--k 21: the teacher has 20 states; give a smaller --k, or --form dense"):
        config.tensors(20)


def test_bytes_of_a_frame() -> None:
    assert bytes_per_frame(TargetConfig("topk", k=20, temperatures=(1.0, 2.0, 5.0, 10.0))) == 20 * 4 + 4 * 2 <= 90
    assert bytes_per_frame(TargetConfig("sampled", k=20, temperatures=(2.0,))) == 20 * 4
    assert bytes_per_frame(TargetConfig("dense")) == 2 * MANY


def test_states_beyond_16_bits_take_32() -> None:
    assert TargetConfig().tensors(65_536)["target_state"].dtype == "uint16"
    assert TargetConfig().tensors(65_537)["target_state"].dtype == "int32"
