"""Configurations of networks and of training: values that make no sense are refused by name."""

from typing import Any

import pytest

from asr_kd.config import from_dict
from asr_kd.errors import UserError
from asr_kd.nets import NetConfig
from asr_kd.train import TrainConfig


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0}, {"batch_frames": 0}, {"chunk": 0}, {"chunk": 10**9}, {"every": 0}, {"learning_rate": 0.0},
        {"learning_rate": -1.0}, {"learning_rate": float("nan")}, {"learning_rate": float("inf")}, {"warmup": 1.0},
        {"warmup": -0.1}, {"weight_decay": -1.0}, {"betas": [0.9]}, {"betas": [0.9, 1.0]}, {"clip_norm": 0.0},
        {"max_norm": -1.0}, {"label_smoothing": 1.0}, {"temperature": 0.0}, {"temperature": float("inf")},
        {"soft_weight": -1.0}, {"hard_weight": -1.0}, {"hard_weight": float("nan")}, {"channel": -1.0}, {"scale": -1.0},
        {"frequency_masks": -1}, {"frequency_masks": 10**9}, {"frequency_width": 0}, {"time_masks": -1},
        {"time_width": 0}, {"jitter": -1}, {"jitter": 10**6}, {"splices": -1}, {"splices": 10**6},
        {"evaluate_epochs": 0}, {"patience": -1}, {"checkpoint_steps": 0}, {"pool_frames": 0}, {"pool_mib": 0},
        {"block_frames": -1},
        {"seed": -1}, {"seed": 2**70}, {"decay": "step"}, {"keep": "first"}, {"match": "cosine"},
        {"precision": "fp8"}, {"standardise": "all"},
    ],
    ids=str,
)  # fmt: skip
def test_a_senseless_value_of_training_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        from_dict(TrainConfig, values)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 0}, {"layers": 0}, {"layers": 10**9}, {"bottleneck": 0}, {"bins": -1}, {"states": -1},
        {"left_context": -1}, {"left_context": 10**9}, {"right_context": -1}, {"dropout": 1.0}, {"dropout": -0.1},
        {"dropout": float("nan")}, {"input_dropout": 1.0}, {"dilations": []}, {"dilations": [0]},
        {"dilations": [10**9]}, {"kind": "lstm"}, {"activation": "tanh"}, {"norm": "group"}, {"width": 10**30},
    ],
    ids=str,
)  # fmt: skip
def test_a_senseless_value_of_a_network_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(values))}|layers"):
        from_dict(NetConfig, values)


def test_a_network_that_no_machine_could_hold_is_refused_before_memory_is_taken() -> None:
    for kind in ("dnn", "tdnn"):
        with pytest.raises(UserError, match=r"weights; at most 1,073,741,824 are possible: lower net\.width"):
            from_dict(NetConfig, {"kind": kind, "bins": 40, "states": 2000, "width": 10**6})
