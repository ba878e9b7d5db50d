"""The training loop: data, forward, objective, backward, step, evaluation, checkpoint."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr_kd.errors import UserError
from asr_kd.nets import (
    AcousticModel,
    autocast,
    load_model,
    model_hash,
    num_parameters,
    outputs_within,
    save_model,
)
from asr_kd.progress import Progress
from asr_kd.train.augment import augment
from asr_kd.train.checkpoint import Position, load_checkpoint, save_checkpoint
from asr_kd.train.config import TrainConfig
from asr_kd.train.evaluate import check_fits, evaluate
from asr_kd.train.experiment import Experiment
from asr_kd.train.frame_data import TrainingData
from asr_kd.train.group import ALONE, Group
from asr_kd.train.interrupt import interruption
from asr_kd.train.memory import keep_freed_memory
from asr_kd.train.objective import Objective
from asr_kd.train.optimiser import learning_rate, limit_norms, make_optimiser
from asr_kd.train.reader import Batch, Reader
from asr_kd.train.transfer_set import Lesson

SAMPLE_FRAMES = 20_000  # of the training data, evaluated beside dev
COUNTED = 8  # of so many outputs one is looked at for the running accuracy, since argmax is slow


def train(
    config: TrainConfig,
    data: TrainingData,
    dev: TrainingData,
    folder: str | Path,
    device: torch.device = torch.device("cpu"),  # noqa: B008
    teacher: str | Path | None = None,
    priors: str | Path | None = None,
    begin: str | Path | None = None,
) -> dict[str, Any]:
    """Train a network into ``folder``, going on where an earlier run of the same stopped; returns ``summary.json``.

    It learns the labels of ``data``; or the soft targets that ``data`` has, or those of the network or ensemble in the
    folder ``teacher``, mixed with the labels. ``priors``: a store of states whose frequencies become the model's
    priors, or a model's folder whose priors it takes; by default those of the labels of ``data``. ``begin``: a network
    of the same shape, whose weights and standardisation it begins with; by default random ones, and the data's.

    The same configuration, data and number of threads give the same weights on a CPU, bit for bit, however often the
    run was killed. Raises ``UserError`` for a folder of another run, data that does not fit the network, and a loss
    that is not finite; ``KeyboardInterrupt``, after a checkpoint, on Ctrl-C or a request to terminate.

    Processes inside ``asr_kd.train.group.joined`` train one network together, and may go on in another number than
    they began. On a CPU the process keeps from then on what it frees (``keep_freed_memory``).
    """
    if device.type == "cpu":
        keep_freed_memory()
    group = Group.current()
    lesson = Lesson.plan(config, data, teacher, priors, device)
    config = lesson.config
    check_fits(dev, config.net.bins, config.net.states)
    hashes = lesson.hashes if begin is None else {**lesson.hashes, "begin": model_hash(begin)}
    experiment = Experiment(folder, config, data, dev, hashes, group.leads)
    if (summary := group.of_first(experiment.summary)) is not None:
        return summary
    model = new_model(config, data, lesson.log_prior, begin).to(device)
    optimiser = make_optimiser(model, config)
    reader = make_reader(data, config, model, device, lesson.context, group)
    objective = lesson.objective(reader, device)
    sample = data.sample(SAMPLE_FRAMES, config.seed, labelled=True) if data.labelled else None
    position = resume(experiment, model, optimiser, group)

    def save() -> None:
        if group.leads:
            save_checkpoint(experiment.checkpoint, model, optimiser, position)
        group.wait()

    parallel = group.parallel(model)
    with interruption(insist=group.world == 1) as interrupted:
        while position.epoch < config.epochs and not out_of_patience(position, config):
            learn_epoch(parallel, reader, objective, optimiser, config, position, save, interrupted)
            if group.leads:
                end_epoch(model, position, config, sample, dev, experiment)
            vars(position).update(group.of_first(vars(position)))
            save()

    best = position.history[position.best]
    summary = {**best, "parameters": num_parameters(model), "epochs": position.epoch, "seconds": position.seconds}
    if group.leads:
        experiment.finish(summary)
    return summary


def resume(experiment: Experiment, model: AcousticModel, optimiser: torch.optim.Optimizer, group: Group) -> Position:
    """The position of the experiment's checkpoint, which is put into ``model`` and ``optimiser``; or the beginning.

    Raises ``UserError`` where the processes of ``group`` do not find the same one.
    """
    position = Position()
    if experiment.checkpoint.exists():
        position = load_checkpoint(experiment.checkpoint, model, optimiser)
        place = f"epoch {position.epoch + 1}, step {position.step:,}"
        print(f"{experiment.folder}: going on from {place}", file=sys.stderr)
    if position.step != (first := group.of_first(position.step)):
        raise UserError(
            f"{experiment.folder}: process {group.rank} finds itself at step {position.step:,}, and process 0 at"
            f" {first:,}; the folder must be on a disk that all of them share"
        )
    return position


def learn_epoch(
    model: AcousticModel,
    reader: Reader,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    position: Position,
    save: Callable[[], None],
    interrupted: Callable[[], bool],
) -> None:
    """The steps of the epoch that ``position`` is in, from there on; every so many steps ``save`` is called.

    Raises ``KeyboardInterrupt``, when all has been saved, once some process of the group is ``interrupted``.
    """
    start, frames = time.monotonic(), reader.data.total_frames
    with Progress(frames, f"epoch {position.epoch + 1}/{config.epochs}", "frames") as bar:
        for batch in reader.epoch(position.epoch, position.batch):
            bar.advance(frames * batch.fraction - bar.done)
            training_step(model, batch, reader, objective, optimiser, config, position)
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
    config: TrainConfig,
    position: Position,
) -> None:
    """One step of the optimiser, and ``position`` moved past it. A loss that is not finite leaves the weights alone."""
    group = reader.group
    entropy = [config.seed, position.step, *([group.rank] if group.rank else [])]
    seed_draws(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]), batch.features.device)
    for parameters in optimiser.param_groups:
        parameters["lr"] = learning_rate((position.epoch + batch.fraction) / config.epochs, config)
    batch = dataclasses.replace(batch, features=augment(batch.features, model.mean, config))
    if config.splices:  # the labels are those of the speech as it was
        batch = dataclasses.replace(batch, labels=torch.full_like(batch.labels, -1))
    with autocast(batch.features.device, config.precision):
        logits = outputs_within(model, batch.features, reader.left, reader.right, config.every)
        logits = logits.flatten(0, 1)  # [examples x outputs, states]
        loss = objective(logits, batch)
    optimiser.zero_grad()
    loss.backward()
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    total, correct, counted = group.sum(loss.item(), *predictions(logits.detach(), batch))
    mean = total / group.world
    if not math.isfinite(mean + norm.item()):
        raise UserError(
            f"the loss or its gradient is not finite (loss {mean}, norm {norm.item()}) at step {position.step},"
            f" epoch {position.epoch + 1}, in a batch from {', '.join(batch.utterances[:5])}, ...; the last checkpoint"
            " is untouched: look at these utterances' features, or lower learning_rate"
        )
    if norm > config.clip_norm:
        nn.utils.clip_grads_with_norm_(weights, config.clip_norm, norm)
    optimiser.step()
    if config.max_norm:
        limit_norms(model, config.max_norm)
    position.loss_sum += mean * batch.share.frames
    position.frames += batch.share.frames
    position.correct += int(correct)
    position.counted += int(counted)
    position.step += 1
    position.batch += 1


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed what draws on the CPU and on ``device``. ``torch.manual_seed`` would do so on devices of every kind, and
    without any of them takes 1 % of a step of 4x512 to write down for later that it did."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def predictions(logits: Tensor, batch: Batch) -> tuple[int, int]:
    """How many are right, and of how many: of each ``COUNTED``-th output of the whole batch, where it is here."""
    first = -batch.share.begin * batch.labels.shape[1] % COUNTED
    logits, labels = logits[first::COUNTED].float(), batch.labels.flatten()[first::COUNTED]  # bf16's argmax is slower
    return int((logits.argmax(-1) == labels).sum()), int((labels >= 0).sum())


def end_epoch(
    model: AcousticModel,
    position: Position,
    config: TrainConfig,
    sample: TrainingData | None,
    dev: TrainingData,
    experiment: Experiment,
) -> None:
    """Move ``position`` to the next epoch; evaluate where one is due, and save the model if it is the one to keep."""
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
        save_model(model, experiment.folder)
    experiment.record(position.history)
    results = (
        f"{name} {value.frame_accuracy:.2%} ({value.cross_entropy:.3f} nats)" for name, value in measured.items()
    )
    print(f"epoch {position.epoch}: {', '.join(results)}{' *' if is_best else ''}", file=sys.stderr)


def new_model(
    config: TrainConfig, data: TrainingData, log_prior: np.ndarray | None = None, begin: str | Path | None = None
) -> AcousticModel:
    """A network with random weights from the seed, the data's standardisation, and priors: the data's by default.

    Weights and standardisation are those of the network in the folder ``begin`` where there is one.
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

    Raises ``UserError`` where the two differ in shape.
    """
    weights = {**load_model(folder).state_dict(), "log_prior": model.log_prior}
    for name, own in model.state_dict().items():
        if name not in weights or weights[name].shape != own.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise UserError(
                f"{folder}: {name} is {found} there and {tuple(own.shape)} in the network to train; give it the net of"
                f" {Path(folder) / 'config.yaml'} (--config, --set net.KEY=VALUE)"
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
    """The batches that suit the network, with at least ``context`` frames before and after what they predict.

    Raises ``UserError`` if its chunks are not whole multiples of ``every``.
    """
    chunk = config.chunk or model.network.chunk
    if chunk % config.every:
        raise UserError(
            f"chunk is {chunk} for this network and every is {config.every}; give a multiple (--set chunk=)"
        )
    left, right = max(model.left_context, context[0]), max(model.right_context, context[1])
    return Reader(data, config, left, right, chunk, device, group)


def out_of_patience(position: Position, config: TrainConfig) -> bool:
    """Whether ``patience`` evaluations have passed without a better dev accuracy."""
    accuracies = [entry["dev_accuracy"] for entry in position.history]
    return bool(config.patience and accuracies) and len(accuracies) - 1 - int(np.argmax(accuracies)) >= config.patience
