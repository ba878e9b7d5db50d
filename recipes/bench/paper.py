"""The paper's network, 8 x 2560 and 14,000 states, on synthetic frames, against the peak of matrix products."""

import argparse
import dataclasses
import time
from pathlib import Path

import torch
from made import BINS, make_stores
from measuring import row
from stepping import Trainer, wait

from asr_kd.nets import NetConfig
from asr_kd.targets import TargetConfig, TargetStore
from asr_kd.train import TrainConfig, TrainingData
from asr_kd.train.memory import keep_freed_memory

LEAST = {"fp32": 0.9, "bf16": 0.7}
# Enough frames for the matrix products to take longer than AdamW's update of 85 million weights.
CONFIG = TrainConfig(net=NetConfig(bins=BINS, states=14_000, layers=8, width=2560, norm="none"), batch_frames=4096)


def main() -> None:
    """Run training from stores of top-20 targets, and matrix products of the network's sizes, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the synthetic stores")
    parser.add_argument("--precision", choices=tuple(LEAST), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1, help="steps per turn")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    config = dataclasses.replace(CONFIG, precision=options.precision)
    frames = 3 * options.steps * config.batch_frames
    features, labels, targets = make_stores(
        options.work / f"{frames}", frames, config.net.states, TargetConfig("topk", 20)
    )
    trainer = Trainer(config, TrainingData(features, labels, None, TargetStore(targets)))
    rate, peak = 0.0, 0.0
    for turn in range(options.rounds + 1):
        began = time.perf_counter()
        done = trainer.steps(options.steps)
        took = time.perf_counter() - began
        of_products = products(config.precision, trainer.device, config.batch_frames, done * trainer.operations)
        if turn:
            rate, peak = max(rate, done / took), max(peak, of_products)
    report(trainer, rate, peak, f"{config.precision}, {options.threads} threads", LEAST[options.precision])


def report(trainer: Trainer, rate: float, peak: float, how: str, least: float | None = None) -> None:
    """Print the row of ``rate`` frames/s, beside ``peak`` FLOP/s of ``products``."""
    batch, net, speed = trainer.config.batch_frames, trainer.config.net, trainer.operations * rate
    against = f"matrix products {batch} x {net.width} x {net.width} ({peak / 1e12:.3f} TFLOP/s)"
    name = f"the paper's network from top-20 shards, batches of {batch}, {how}"
    unit = f"of the FLOP/s ({speed / 1e12:.3f} TFLOP/s, {rate:,.0f} frames/s)"
    row(name, speed / peak, unit, against, least=least)


def products(precision: str, device: torch.device, rows: int, total: int, width: int = 2560) -> float:
    """FLOP/s of matrix products of a hidden layer's size, ``total`` operations in all.

    A turn has as many operations as one of training: on a machine of varying speed, shorter turns would catch faster
    moments.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(rows, width, device=device).to(kind), torch.randn(width, width, device=device).to(kind)
    each = 2 * rows * width**2
    repeats = max(1, total // each)
    left @ right
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        left @ right
    wait(device)
    return repeats * each / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
