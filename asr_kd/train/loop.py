"""The training loop: data, forward, objective, backward, step, evaluation, checkpoint."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_kd.errors import UserError, counted
from asr_kd.nets import (
    AcousticModel,
    autocast,
    load_model,
    num_parameters,
    outputs_within,
    save_model,
)
from asr_kd.nets.folder import check_no_ensemble
from asr_kd.progress import Progress
from asr_kd.train.augment import augment
from asr_kd.train.checkpoint import Position, load_checkpoint, save_checkpoint
from asr_kd.train.config import TrainConfig
from asr_kd.train.evaluate import check_fits, evaluate
from asr_kd.train.frame_data import TrainingData
from asr_kd.train.group import ALONE, Group
from asr_kd.train.interrupt import interruption
from asr_kd.train.memory import keep_freed_memory
from asr_kd.train.objective import Objective
from asr_kd.train.optimiser import clip_gradients, gradient_norm, learning_rate, limit_norms, make_optimiser
from asr_kd.train.reader import Batch, Reader
from asr_kd.train.run_folder import RunFolder
from asr_kd.train.step_metrics import StepMetrics
from asr_kd.train.transfer_set import NO_SOURCES, Sources, TrainingTask

SAMPLE_FRAMES = 20_000  # of the training data, evaluated beside dev


def train(
    config: TrainConfig,
    data: TrainingData,
    dev: TrainingData,
    folder: str | Path,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    sources: Sources = NO_SOURCES,
) -> dict[str, Any]:
    """Train a network into ``folder``, or resume where an earlier run of the same stopped; returns ``summary.json``.

    The targets are the labels of ``data``; or the soft targets of ``data`` or of the teacher in ``sources``, mixed with
    the labels if there are any.

    On a CPU the same configuration, data and number of threads give the same weights, bit for bit, however often the
    run was killed. Raises ``UserError`` for a folder of another run, data that does not fit the network, and a loss
    that is not finite; ``KeyboardInterrupt``, after a checkpoint, on Ctrl-C or a request to terminate.

    Inside ``asr_kd.train.group.joined`` the ranks train one network together; a run may resume with another number of
    ranks. On a CPU the process keeps from then on the memory that it frees (``keep_freed_memory``).
    """
    if device.type == "cpu":
        keep_freed_memory()
    group = Group.current()
    task = TrainingTask.plan(config, data, sources, device)
    config = task.config
    check_fits(dev, config.net.bins, config.net.states)
    check_no_ensemble(folder)
    run_folder = RunFolder(folder, config, data, dev, task.hashes, group.leads)
    if (summary := group.of_first(run_folder.summary)) is not None:
        return summary
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with run_folder.locked(), current:  # kernels start on the current GPU
        summary = _train(task, dev, run_folder, device, sources.begin)
    return summary


def _train(
    task: TrainingTask, dev: TrainingData, run_folder: RunFolder, device: torch.device, begin: str | Path | None
) -> dict[str, Any]:
    group, config, data = Group.current(), task.config, task.data
    model = new_model(config, data, task.log_prior, begin).to(device)
    optimiser = make_optimiser(model, config)
    reader = make_reader(data, config, model, device, task.context, group)
    objective = task.objective(reader, device)
    sample = data.sample(SAMPLE_FRAMES, config.seed, labelled=True) if data.labelled else None
    position = resume(run_folder, model, optimiser, group, config.epochs)
    parallel, metrics = group.parallel(model), StepMetrics(group, device)

    def step(batch: Batch) -> None:
        training_step(parallel, batch, reader, objective, optimiser, metrics, position)

    def save() -> None:
        metrics.read(position)
        if group.leads:
            save_checkpoint(run_folder.checkpoint, model, optimiser, position, run_folder.run)
        group.wait()

    with interruption(insist=group.world == 1) as interrupted:
        while position.epoch < config.epochs and not out_of_patience(position, config):
            run_epoch(reader, position, step, save, interrupted)
            metrics.read(position)
            if group.leads:
                end_epoch(model, position, config, sample, dev, run_folder)
            vars(position).update(group.of_first(vars(position)))
            save()

    best = position.history[position.best]
    summary = {**best, "parameters": num_parameters(model), "epochs": position.epoch, "seconds": position.seconds}
    if group.leads:
        run_folder.finish(summary)
    return summary


def resume(
    run_folder: RunFolder, model: AcousticModel, optimiser: torch.optim.Optimizer, group: Group, epochs: int
) -> Position:
    """Load the folder's checkpoint, if there is one, into ``model`` and ``optimiser``; returns the position.

    Raises ``UserError`` if the ranks of ``group`` do not find the same one.
    """
    position = Position()
    if run_folder.checkpoint.exists():
        position = load_checkpoint(run_folder.checkpoint, model, optimiser, epochs, run_folder.run)
        place = f"epoch {position.epoch + 1}, step {position.step:,}"
        print(f"{run_folder.folder}: resuming from {place}", file=sys.stderr)
    if position.step != (first := group.of_first(position.step)):
        raise UserError(
            f"{run_folder.folder}: rank {group.rank} has a checkpoint of step {position.step:,}, and rank 0 of step"
            f" {first:,}; the folder must be on a disk that all of them share"
        )
    return position


def run_epoch(
    reader: Reader,
    position: Position,
    step: Callable[[Batch], None],
    save: Callable[[], None],
    interrupted: Callable[[], bool],
) -> None:
    """Take the steps of the current epoch from ``position`` on, with checkpoints (``save``) in between.

    Raises ``KeyboardInterrupt``, after a checkpoint, once some rank is ``interrupted``.
    """
    start, frames, config = time.monotonic(), reader.data.total_frames, reader.config
    with Progress(frames, f"epoch {position.epoch + 1}/{config.epochs}", "frames") as bar:
        for batch in reader.epoch(position.epoch, position.batch):
            bar.advance(frames * batch.fraction - bar.done)
            step(batch)
            now = time.monotonic()
            position.seconds, start = position.seconds + now - start, now
            leaving = reader.group.any(interrupted())
            if leaving or position.step % config.checkpoint_steps == 0:
                save()
            if leaving:
                raise KeyboardInterrupt


def training_step(
    model: AcousticModel,
    batch: Batch,
    reader: Reader,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    metrics: StepMetrics,
    position: Position,
) -> None:
    """Take one step of the optimiser and move ``position`` past it.

    On a GPU nothing here waits for the device. Raises ``UserError`` if ``metrics`` reads a loss or a gradient that is
    not finite: on a CPU with the weights unchanged, on a GPU perhaps some steps later.
    """
    config = reader.config
    entropy = [config.seed, position.step, *([reader.group.rank] if reader.group.rank else [])]
    seed_draws(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]), batch.features.device)
    for parameters in optimiser.param_groups:
        parameters["lr"] = learning_rate((position.epoch + batch.fraction) / config.epochs, config)
    batch = dataclasses.replace(batch, features=augment(batch.features, model.mean, config))
    if config.splices:  # labels do not follow
        batch = dataclasses.replace(batch, labels=torch.full_like(batch.labels, -1))
    with autocast(batch.features.device, config.precision):
        logits = outputs_within(model, batch.features, reader.left, reader.right, config.every)
        logits = logits.flatten(0, 1)  # [examples x outputs, states]
        loss = objective(logits, batch)
    optimiser.zero_grad()
    loss.backward()
    norm = gradient_norm(optimiser)
    metrics.add(position, batch, loss, norm, logits)
    clip_gradients(optimiser, norm, config.clip_norm)
    optimiser.step()
    if config.max_norm:
        limit_norms(model, config.max_norm)
    position.frames += batch.part.frames
    position.step += 1
    position.batch += 1


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the random numbers of the CPU and of ``device``.

    ``torch.manual_seed`` would seed devices of every kind, which takes 1 % of a step of a 4x512 network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # not torch.cuda.manual_seed, which seeds the current device, whichever is used
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def end_epoch(
    model: AcousticModel,
    position: Position,
    config: TrainConfig,
    sample: TrainingData | None,
    dev: TrainingData,
    run_folder: RunFolder,
) -> None:
    """Move ``position`` to the next epoch; evaluate if that is due, and save the model if it is the one to keep.

    In the log a star marks an epoch whose weights are kept: each best one so far, or the last of all.
    """
    running = {"loss": position.loss_sum / position.frames}
    if position.counted:
        running["accuracy"] = position.correct / position.counted
    position.epoch, position.batch = position.epoch + 1, 0
    position.loss_sum, position.frames, position.correct, position.counted = 0.0, 0, 0, 0
    if position.epoch % config.evaluate_epochs and position.epoch < config.epochs:
        return
    measured = {"train": evaluate(model, sample, config.precision)} if sample is not None else {}
    measured["dev"] = evaluate(model, dev, config.precision)
    entry = {
        "epoch": position.epoch,
        "step": position.step,
        **running,
        **{f"{name}_accuracy": value.frame_accuracy for name, value in measured.items()},
        **{f"{name}_cross_entropy": value.cross_entropy for name, value in measured.items()},
        "learning_rate": learning_rate(position.epoch / config.epochs, config),
    }
    position.history.append(entry)
    is_best = entry["dev_accuracy"] > max((e["dev_accuracy"] for e in position.history[:-1]), default=-1)
    if is_best or config.keep == "last":
        position.best = len(position.history) - 1
        save_model(model, run_folder.folder)
    run_folder.record(position.history)
    results = (
        f"{name} {value.frame_accuracy:.2%} ({value.cross_entropy:.3f} nats)" for name, value in measured.items()
    )
    is_last = position.epoch == config.epochs or out_of_patience(position, config)
    star = " *" if (is_last if config.keep == "last" else is_best) else ""
    print(f"epoch {position.epoch}: {', '.join(results)}{star}", file=sys.stderr)


def new_model(
    config: TrainConfig, data: TrainingData, log_prior: np.ndarray | None = None, begin: str | Path | None = None
) -> AcousticModel:
    """A network with random weights from the seed, and standardisation and priors of the data.

    ``log_prior`` replaces the priors; the network in the folder ``begin`` gives its weights and its standardisation.
    """
    torch.manual_seed(config.seed)
    model = AcousticModel(config.net)
    statistics = data.statistics(config.net.states)
    mean, std = (statistics.mean, statistics.std) if config.standardise == "bins" else statistics.whole
    model.mean.copy_(torch.from_numpy(mean))
    model.std.copy_(torch.from_numpy(std))
    model.log_prior.copy_(torch.from_numpy(statistics.log_prior if log_prior is None else log_prior))
    if begin is not None:
        begin_with(model, begin)
    return model.train()


def begin_with(model: AcousticModel, folder: str | Path) -> None:
    """Give ``model`` the weights and the standardisation of the network in ``folder``; it keeps its priors.

    Raises ``UserError`` if the two differ in shape.
    """
    weights = {**load_model(folder).state_dict(), "log_prior": model.log_prior}
    for name, own in model.state_dict().items():
        if name not in weights or weights[name].shape != own.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise UserError(
                f"{folder}: {name} is {found} here but {tuple(own.shape)} in the network to train; configure the same"
                f" shape as {Path(folder) / 'config.yaml'} (--config, --set net.KEY=VALUE)"
            )
    model.load_state_dict(weights)


def make_reader(
    data: TrainingData,
    config: TrainConfig,
    model: AcousticModel,
    device: torch.device,
    context: tuple[int, int] = (0, 0),
    group: Group = ALONE,
) -> Reader:
    """The batches for a network, with at least ``context`` frames before and after the predicted ones.

    Raises ``UserError`` if ``chunk`` is no multiple of ``every``, or if a step has too few frames for the network.
    """
    chunk = config.chunk or model.network.chunk
    if chunk % config.every:
        raise UserError(f"chunk ({chunk}) must be a multiple of every ({config.every}); give --set chunk=NUMBER")
    if config.net.norm == "batch" and chunk == config.every:  # one output of each example
        steps = (
            (config.batch_frames, "batch_frames", "raise it"),
            (data.total_frames, str(data.features.path), "give more frames"),
        )
        for found, place, remedy in steps:
            if found < 2:
                raise UserError(
                    f"{place}: a step has only {counted(found, 'frame')}; net.norm=batch needs at least 2: {remedy},"
                    " or set net.norm=layer"
                )
    left, right = max(model.left_context, context[0]), max(model.right_context, context[1])
    return Reader(data, config, left, right, chunk, device, group)


def out_of_patience(position: Position, config: TrainConfig) -> bool:
    """Whether ``patience`` evaluations have passed without a better dev accuracy."""
    accuracies = [entry["dev_accuracy"] for entry in position.history]
    return bool(config.patience and accuracies) and len(accuracies) - 1 - int(np.argmax(accuracies)) >= config.patience
