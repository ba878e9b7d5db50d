"""No training step on a GPU waits for the device: shown on torch's device ``meta``, whose tensors have no values.

Whatever would wait for a GPU (a number read, a condition on a tensor, a copy to the host) fails on that device.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from asr_kd.nets import AcousticModel, NetConfig
from asr_kd.train import TrainConfig, loop, step_metrics
from asr_kd.train.checkpoint import Position
from asr_kd.train.group import ALONE
from asr_kd.train.optimiser import make_optimiser
from asr_kd.train.reader import Batch, Reader
from asr_kd.train.step_metrics import StepMetrics
from tests.train.conftest import BINS, CONFIG, STATES, MakeData

META = torch.device("meta")
READ_STEPS = 12  # fewer than in training, to save time
DNN = NetConfig(bins=BINS, states=STATES, width=16, layers=2, left_context=3, right_context=1, dropout=0.2)
TDNN = NetConfig(kind="tdnn", bins=BINS, states=STATES, width=16, bottleneck=8, dilations=(1, 3), dropout=0.1)
AUGMENTED = dataclasses.replace(
    CONFIG, batch_frames=8, frequency_masks=1, frequency_width=2, time_masks=1, time_width=2, channel=0.1, scale=0.1,
    max_norm=1.0,
)  # fmt: skip


class Copies(TorchDispatchMode):
    """Counts the copies from one device to another that this thread makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in (*args, result) if isinstance(each, Tensor) and each.ndim]
        if len({tensor.device for tensor in tensors}) > 1:
            self.made.append(str(func))
        return result


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """An objective of torch's own operations; those of this project have their own tests."""
    return functional.cross_entropy(logits, batch.labels.flatten())


@pytest.fixture
def steps(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainConfig, int], Copies]:
    """``steps(config, n)`` takes n steps on the device ``meta``; it returns the copies between devices meanwhile."""
    monkeypatch.setattr(step_metrics, "READ_STEPS", READ_STEPS)
    monkeypatch.setattr(loop, "autocast", lambda *_: contextlib.nullcontext())
    data = make_data([60] * 20)

    def take(config: TrainConfig, number: int) -> Copies:
        with META:
            model = AcousticModel(config.net)
        optimiser = make_optimiser(model, config)
        monkeypatch.setattr(optimiser, "step", lambda: None)  # torch's own kernel, which does not know this device
        chunk = config.chunk or model.network.chunk
        reader = Reader(data, config, model.left_context, model.right_context, chunk, META)
        metrics, position, copies = StepMetrics(ALONE, META), Position(), Copies()
        batches = (batch for epoch in range(number) for batch in reader.epoch(epoch))
        with copies:
            while position.step < number:
                batch = next(batches)
                loop.training_step(model, batch, reader, cross_entropy, optimiser, metrics, position)
        return copies

    return take


@pytest.mark.parametrize("net", [DNN, TDNN], ids=["dnn", "tdnn"])
def test_a_step_reads_nothing_from_the_device_and_copies_nothing_to_it(
    steps: Callable[[TrainConfig, int], Copies], net: NetConfig
) -> None:
    config = dataclasses.replace(AUGMENTED, net=net, pool_frames=300)
    assert steps(config, READ_STEPS - 1).made == []


def test_the_numbers_of_the_steps_are_read_together(steps: Callable[[TrainConfig, int], Copies]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        steps(dataclasses.replace(AUGMENTED, net=DNN), READ_STEPS)
