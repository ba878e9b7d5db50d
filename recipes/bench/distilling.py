"""The cost of soft targets: a student's training step against the same step on labels, and the reader alone."""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from made import BINS, make_stores
from measuring import row
from stepping import Trainer
from training import best

from asr_kd.nets import NetConfig, settle_precision
from asr_kd.targets import TargetConfig, TargetStore
from asr_kd.train import TrainConfig, TrainingData
from asr_kd.train.reader import Reader

STEPS, FRAMES = 10, 500_000
MOST = {"top-20": 1.10, "dense": 1.5}


def main() -> None:
    """Run in turns, and compare the best turn of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the synthetic stores")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for states in (2000, 14_000):
        steps(options.work / f"{states}", states, options)
    reading(options.work / "reader", options.rounds)


def steps(work: Path, states: int, options: argparse.Namespace) -> None:
    """Repeated steps on one batch: with labels, with top-20 and with dense targets."""
    forms = {"top-20": TargetConfig("topk", 20), "dense": TargetConfig("dense")}
    precision = settle_precision("auto", "cpu")
    config = TrainConfig(net=NetConfig(bins=BINS, states=states), precision=precision)
    works = []
    for name, form in {"labels": forms["top-20"], **forms}.items():
        features, labels, targets = make_stores(work, 10_000, states, form)
        data = TrainingData(features, labels, None, None if name == "labels" else TargetStore(targets))
        works.append(repeated(Trainer(config, data)))
    hard, *rates = best(tuple(works), options.rounds)
    for (name, most), rate in zip(MOST.items(), rates, strict=True):
        against = f"a step on labels ({1000 * config.batch_frames / hard:.0f} ms)"
        title = f"student 4x512, {states:,} states, {precision}, {options.threads} threads: a step on {name} targets"
        row(title, hard / rate, f"times as long ({1000 * config.batch_frames / rate:.0f} ms)", against, most=most)


def repeated(trainer: Trainer) -> Callable[[], int]:
    """A turn of steps on the trainer's first batch."""
    (batch,) = trainer.batches(1)
    return lambda: trainer.repeated(batch, STEPS)


def reading(work: Path, rounds: int) -> None:
    """Read shuffled features, labels and top-20 targets from the page cache on one core, without context windows."""
    features, labels, targets = make_stores(work, FRAMES, 2000, TargetConfig("topk", 20))
    data = TrainingData(features, labels, None, TargetStore(targets))
    config = dataclasses.replace(TrainConfig(), batch_frames=4096)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    fastest = 0.0
    for epoch in range(max(2, rounds // 2)):
        began = time.perf_counter()
        frames = sum(len(batch.labels) for batch in Reader(data, config, 0, 0, 1, torch.device("cpu")).epoch(epoch))
        fastest = max(fastest, frames / (time.perf_counter() - began))
    os.sched_setaffinity(0, cores)
    against = f"{FRAMES:,} frames of 40 bins and 20 states, from the page cache, shuffled"
    row("reader, one core", fastest / 1e6, "million frames/s", against, least=1.5)


if __name__ == "__main__":
    main()
