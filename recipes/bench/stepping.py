"""A training run without evaluation and checkpoints, which benchmarks take step by step."""

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from asr_kd.train import TrainConfig, TrainingData
from asr_kd.train.checkpoint import Position
from asr_kd.train.loop import make_reader, new_model, training_step
from asr_kd.train.optimiser import make_optimiser
from asr_kd.train.reader import Batch
from asr_kd.train.step_metrics import StepMetrics
from asr_kd.train.transfer_set import TrainingTask

CPU = torch.device("cpu")


class Trainer:
    """What ``asr_kd.train.train`` steps with: network, optimiser, reader and objective on ``device``."""

    def __init__(self, config: TrainConfig, data: TrainingData, device: torch.device = CPU) -> None:
        task = TrainingTask.plan(config, data, device=device)
        self.config, self.device = task.config, device
        self.model = new_model(task.config, data).to(device)
        self.optimiser = make_optimiser(self.model, task.config)
        self.reader = make_reader(data, task.config, self.model, device)
        self.objective = task.objective(self.reader, device)
        self._metrics, self._position = StepMetrics(self.reader.group, device), Position()
        self._batches = itertools.chain.from_iterable(self.reader.epoch(number) for number in itertools.count())

    def batches(self, number: int) -> Iterator[Batch]:
        """The next ``number`` batches, epoch after epoch."""
        return itertools.islice(self._batches, number)

    def step(self, batch: Batch) -> int:
        """Take a step; returns its outputs."""
        tools = self.reader, self.objective, self.optimiser, self._metrics
        training_step(self.model, batch, *tools, self._position)
        return batch.labels.numel()

    def steps(self, number: int) -> int:
        """Take steps on the next ``number`` batches; returns their outputs."""
        return sum(self.step(batch) for batch in self.batches(number))

    def repeated(self, batch: Batch, number: int) -> int:
        """Take ``number`` steps on one batch; returns their outputs."""
        done = sum(self.step(batch) for _ in range(number))
        wait(self.device)
        return done

    @property
    def operations(self) -> int:
        """See ``operations``."""
        return operations(self.model)


def operations(model: nn.Module) -> int:
    """Floating-point operations to learn from a frame: two for a weight forward and four backward, where the first
    layer has no need of its inputs' gradient."""
    sizes = [parameter.numel() for parameter in model.parameters() if parameter.ndim > 1]
    return 6 * sum(sizes) - 2 * sizes[0]


def wait(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
