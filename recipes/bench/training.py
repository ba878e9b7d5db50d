"""Training from the stores against the same steps on one batch in memory, and against the peak of matrix products."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from measuring import row
from stepping import CPU, Trainer
from torch import nn

from asr_kd.frames import FrameStore
from asr_kd.nets import NetConfig, autocast, fused
from asr_kd.train import TrainConfig, TrainingData
from asr_kd.train.memory import keep_freed_memory

STEPS, PRODUCTS = 100, 8  # in one turn


def main() -> None:
    """Run in turns, so that all see the same machine load, and compare the best turn of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("feats", type=Path, help="features of the training set")
    parser.add_argument("states", type=Path)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for both
    data = TrainingData(FrameStore(options.feats), FrameStore(options.states))
    trainer = Trainer(TrainConfig(precision=options.precision), data)
    model, optimiser, config = trainer.model, trainer.optimiser, trainer.config
    (fixed,) = trainer.batches(1)

    def bare() -> int:
        for _ in range(STEPS):
            with autocast(CPU, config.precision):
                logits = model(fixed.features).flatten(0, 1)
            loss = nn.functional.cross_entropy(logits.float(), fixed.labels.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return STEPS * len(fixed.labels)

    def stored() -> int:
        return trainer.steps(STEPS)

    frames_bare, frames_stored, peak = best((bare, stored, products(config.precision)), options.rounds)
    name = f"training 4x512, batches of {config.batch_frames}, {config.precision}, {options.threads} threads"
    against = f"one batch in memory ({frames_bare:,.0f} frames/s)"
    row(name, frames_stored / frames_bare, f"times the frames/s ({frames_stored:,.0f})", against, least=0.9)
    rate = trainer.operations * frames_stored
    against = f"matrix products in {config.precision} ({peak / 1e9:,.0f} GFLOP/s)"
    row(f"{name}: arithmetic", rate / peak, f"times the FLOP/s ({rate / 1e9:,.0f} GFLOP/s)", against)
    if config.precision == "bf16":
        time_delay(data, options.threads, options.rounds)


def time_delay(data: TrainingData, threads: int, rounds: int) -> None:
    """A factored TDNN of AN4's size, whose layers are one operation each, against its modules."""
    net = NetConfig(kind="tdnn", width=320, bottleneck=80, dilations=(3,) * 6, dropout=0.05)
    config = TrainConfig(net=net, precision="bf16", every=3, batch_frames=800)
    trainer = Trainer(config, data)
    (batch,) = trainer.batches(1)

    def steps() -> int:
        return trainer.repeated(batch, STEPS) * config.every

    def modules() -> int:
        with mock.patch.object(fused, "applies", return_value=False):
            return steps()

    whole, apart = best((steps, modules), rounds)
    name = f"training TDNN-F 6x320, batches of {config.batch_frames}, bf16, {threads} threads"
    row(
        name,
        whole / apart,
        f"times the frames/s ({whole:,.0f})",
        f"layers as modules ({apart:,.0f} frames/s)",
        least=1.2,
    )


def best(works: tuple[Callable[[], int], ...], rounds: int) -> list[float]:
    """The most that each of ``works`` got done in a second of its turns, after one turn to warm up."""
    rates = [0.0] * len(works)
    for turn in range(rounds + 1):
        for number, work in enumerate(works):
            began = time.perf_counter()
            done = work()
            rate = done / (time.perf_counter() - began)
            rates[number] = max(rates[number], rate) if turn else 0.0
    return rates


def products(precision: str) -> Callable[[], int]:
    """A turn of large matrix products; it returns its floating-point operations."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2048, 2560).to(kind), torch.randn(2560, 2560).to(kind)

    def turn() -> int:
        for _ in range(PRODUCTS):
            left @ right
        return PRODUCTS * 2 * left.numel() * right.shape[1]

    return turn


if __name__ == "__main__":
    main()
