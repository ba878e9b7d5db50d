"""The training loop: data, forward, objective, backward, step, evaluation, checkpoint."""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel, num_parameters, save_model
from asr_kd.progress import Progress
from asr_kd.train.augment import mask
from asr_kd.train.checkpoint import Position, load_checkpoint, save_checkpoint
from asr_kd.train.config import TrainConfig
from asr_kd.train.data import LabelledFrames
from asr_kd.train.evaluate import autocast, evaluate
from asr_kd.train.experiment import Experiment
from asr_kd.train.interrupt import interruption
from asr_kd.train.objective import HardTargets, Objective
from asr_kd.train.reader import Batch, Reader

SAMPLE_FRAMES = 20_000  # of the training data, evaluated beside dev
COUNTED = 8  # of so many outputs one is looked at for the running accuracy, since argmax is slow


def train(
    config: TrainConfig,
    data: LabelledFrames,
    dev: LabelledFrames,
    folder: str | Path,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> dict[str, Any]:
    """Train a network into ``folder``, going on where an earlier run of the same stopped; returns ``summary.json``.

    The same configuration, data and number of threads give the same weights on a CPU, bit for bit, however often the
    run was killed. Raises ``UserError`` for a folder of another run, data that does not fit the network, and a loss
    that is not finite; ``KeyboardInterrupt``, after a checkpoint, on Ctrl-C or a request to terminate.
    """
    config = fit_to_data(config, data)
    experiment = Experiment(folder, config, data, dev)
    if experiment.summary is not None:
        return experiment.summary
    model = new_model(config, data).to(device)
    optimiser = make_optimiser(model, config)
    objective = HardTargets(config.label_smoothing)
    reader = make_reader(data, config, model, device)
    sample = data.sample(SAMPLE_FRAMES, config.seed)
    position = Position()
    if experiment.checkpoint.exists():
        position = load_checkpoint(experiment.checkpoint, model, optimiser)
        print(f"{folder}: going on from epoch {position.epoch + 1}, step {position.step:,}", file=sys.stderr)

    with interruption() as interrupted:
        while position.epoch < config.epochs and not out_of_patience(position, config):
            start = time.monotonic()
            label = f"epoch {position.epoch + 1}/{config.epochs}"
            with Progress(data.total_frames, label, "frames") as bar:
                for batch in reader.epoch(position.epoch, position.batch):
                    bar.advance(data.total_frames * batch.fraction - bar.done)
                    training_step(model, batch, objective, optimiser, config, position)
                    if interrupted() or position.step % config.checkpoint_steps == 0:
                        save_checkpoint(experiment.checkpoint, model, optimiser, position)
                    if interrupted():
                        raise KeyboardInterrupt
            position.seconds += time.monotonic() - start
            end_epoch(model, position, config, sample, dev, experiment)
            save_checkpoint(experiment.checkpoint, model, optimiser, position)

    best = position.history[position.best]
    summary = {**best, "parameters": num_parameters(model), "epochs": position.epoch, "seconds": position.seconds}
    experiment.finish(summary)
    return summary


def training_step(
    model: AcousticModel,
    batch: Batch,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    position: Position,
) -> None:
    """One step of the optimiser, and ``position`` moved past it. A loss that is not finite leaves the weights alone."""
    torch.manual_seed(int(np.random.SeedSequence([config.seed, position.step]).generate_state(1, np.uint64)[0]))
    for group in optimiser.param_groups:
        group["lr"] = learning_rate((position.epoch + batch.fraction) / config.epochs, config)
    features = mask(batch.features, model.mean, config)
    with autocast(features.device, config.precision):
        logits = model(features, config.every).flatten(0, 1)  # [examples x outputs, states]
        loss = objective(logits, batch)
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if not math.isfinite(loss.item() + norm.item()):
        raise UserError(
            f"the loss or its gradient is not finite (loss {loss.item()}, norm {norm.item()}) at step {position.step},"
            f" epoch {position.epoch + 1}, in a batch from {', '.join(batch.utterances[:5])}, ...; the last checkpoint"
            " is untouched: look at these utterances' features, or lower learning_rate"
        )
    if norm > config.clip_norm:
        nn.utils.clip_grads_with_norm_(model.parameters(), config.clip_norm, norm)
    optimiser.step()
    count(position, logits.detach(), batch.labels.flatten(), loss.item())


def count(position: Position, logits: Tensor, labels: Tensor, loss: float) -> None:
    """Move ``position`` past a batch, adding its loss and, for a part of its outputs, the right predictions."""
    frames = int((labels >= 0).sum())
    position.loss_sum += loss * frames
    position.frames += frames
    logits, labels = logits[::COUNTED], labels[::COUNTED]
    position.correct += int((logits.argmax(-1) == labels).sum())
    position.counted += int((labels >= 0).sum())
    position.step += 1
    position.batch += 1


def end_epoch(
    model: AcousticModel,
    position: Position,
    config: TrainConfig,
    sample: LabelledFrames,
    dev: LabelledFrames,
    experiment: Experiment,
) -> None:
    """Move ``position`` to the next epoch; evaluate where one is due, and save the model if it is the one to keep."""
    running = {"loss": position.loss_sum / position.frames, "accuracy": position.correct / max(position.counted, 1)}
    position.epoch, position.batch = position.epoch + 1, 0
    position.loss_sum, position.frames, position.correct, position.counted = 0.0, 0, 0, 0
    if position.epoch % config.evaluate_epochs and position.epoch < config.epochs:
        return
    on_train, on_dev = evaluate(model, sample, config.precision), evaluate(model, dev, config.precision)
    entry = {
        "epoch": position.epoch,
        "step": position.step,
        **running,
        "train_accuracy": on_train.frame_accuracy,
        "train_cross_entropy": on_train.cross_entropy,
        "dev_accuracy": on_dev.frame_accuracy,
        "dev_cross_entropy": on_dev.cross_entropy,
        "learning_rate": learning_rate(position.epoch / config.epochs, config),
    }
    position.history.append(entry)
    is_best = entry["dev_accuracy"] > max((e["dev_accuracy"] for e in position.history[:-1]), default=-1)
    if is_best or config.keep == "last":
        position.best = len(position.history) - 1
        save_model(model, experiment.folder)
    experiment.record(position.history)
    print(
        f"epoch {position.epoch}: train {on_train.frame_accuracy:.2%} ({on_train.cross_entropy:.3f} nats), "
        f"dev {on_dev.frame_accuracy:.2%} ({on_dev.cross_entropy:.3f} nats){' *' if is_best else ''}",
        file=sys.stderr,
    )


def fit_to_data(config: TrainConfig, data: LabelledFrames) -> TrainConfig:
    """``config`` with the network's ``bins`` and ``states`` filled in from the data; ``UserError`` if they differ."""
    bins, states = config.net.bins or data.bins, config.net.states or data.num_states
    if bins != data.bins:
        raise UserError(f"net.bins is {bins}, but {data.features.path} has {data.bins} bins")
    if not states:
        raise UserError(f"{data.states.path}: does not record how many states there are; give --set net.states=NUMBER")
    return dataclasses.replace(config, net=dataclasses.replace(config.net, bins=bins, states=states))


def new_model(config: TrainConfig, data: LabelledFrames) -> AcousticModel:
    """A network with random weights from the seed, and the data's standardisation and priors."""
    torch.manual_seed(config.seed)
    model = AcousticModel(config.net)
    statistics = data.statistics(config.net.states)
    model.mean.copy_(torch.from_numpy(statistics.mean))
    model.std.copy_(torch.from_numpy(statistics.std))
    model.log_prior.copy_(torch.from_numpy(statistics.log_prior))
    return model.train()


def make_reader(data: LabelledFrames, config: TrainConfig, model: AcousticModel, device: torch.device) -> Reader:
    """The batches that suit the network; ``UserError`` if its chunks are not whole multiples of ``every``."""
    chunk = config.chunk or model.network.chunk
    if chunk % config.every:
        raise UserError(
            f"chunk is {chunk} for this network and every is {config.every}; give a multiple (--set chunk=)"
        )
    return Reader(data, config, model.left_context, model.right_context, chunk, device)


def make_optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW whose decay spares vectors: biases and normalisation."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.betas[0], config.betas[1]), fused=True)


def learning_rate(done: float, config: TrainConfig) -> float:
    """The learning rate after the fraction ``done`` of the training: a linear rise, then the decay to zero."""
    if done < config.warmup:
        return config.learning_rate * done / config.warmup
    left = 1 - (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (left if config.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left))


def out_of_patience(position: Position, config: TrainConfig) -> bool:
    """Whether ``patience`` evaluations have passed without a better dev accuracy."""
    accuracies = [entry["dev_accuracy"] for entry in position.history]
    return bool(config.patience and accuracies) and len(accuracies) - 1 - int(np.argmax(accuracies)) >= config.patience
