"""The paper's network, 8 x 2560 and 14,000 states, on synthetic frames, against the peak of matrix products."""

import argparse
import time
from pathlib import Path

import torch
from made import BINS, make_stores
from measuring import row
from training import operations

from asr_kd.nets import NetConfig
from asr_kd.targets import TargetConfig, TargetStore
from asr_kd.train import TrainConfig, TrainingData
from asr_kd.train.checkpoint import Position
from asr_kd.train.loop import make_reader, new_model, training_step
from asr_kd.train.memory import keep_freed_memory
from asr_kd.train.optimiser import make_optimiser
from asr_kd.train.transfer_set import TrainingTask

LEAST = {("cpu", "fp32"): 0.9, ("cpu", "bf16"): 0.7, ("cuda", "bf16"): 0.6}
# Frames per batch: enough for the matrix products to take longer than AdamW's update of 85 million weights.
ROWS = {("cpu", "fp32"): 4096, ("cpu", "bf16"): 4096, ("cuda", "fp32"): 8192, ("cuda", "bf16"): 8192}


def main() -> None:
    """Run training from stores of top-20 targets, and matrix products of the network's sizes, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the synthetic stores")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0, help="steps per turn (default: 1 on a CPU, 50 on a GPU)")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, steps = ROWS[device.type, options.precision], options.steps or {"cpu": 1, "cuda": 50}[device.type]
    net = NetConfig(bins=BINS, states=14_000, layers=8, width=2560, norm="none")
    config = TrainConfig(net=net, batch_frames=batch, precision=options.precision)
    frames = 3 * steps * batch
    features, labels, targets = make_stores(options.work / f"{frames}", frames, 14_000, TargetConfig("topk", 20))
    data = TrainingData(features, labels, None, TargetStore(targets))
    task = TrainingTask.plan(config, data, device=device)
    model = new_model(task.config, data).to(device)
    optimiser = make_optimiser(model, task.config)
    reader = make_reader(data, task.config, model, device)
    objective = task.objective(reader, device)
    batches = (each for epoch in range(10**6) for each in reader.epoch(epoch))
    rate, peak = 0.0, 0.0
    for turn in range(options.rounds + 1):
        began, done = time.perf_counter(), 0
        for _ in range(steps):
            each = next(batches)
            training_step(model, each, reader, objective, optimiser, task.config, Position())
            done += len(each.labels)
        _wait(device)
        took = time.perf_counter() - began
        of_products = products(options.precision, device, batch, done * operations(model))
        if turn:
            rate, peak = max(rate, done / took), max(peak, of_products)
    speed = operations(model) * rate
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{options.threads} threads"
    against = f"matrix products {batch} x 2560 x 2560 in {options.precision} ({peak / 1e12:.3f} TFLOP/s)"
    name = f"the paper's network from top-20 shards, batches of {batch}, {options.precision}, {where}"
    unit = f"of the FLOP/s ({speed / 1e12:.3f} TFLOP/s, {rate:,.0f} frames/s)"
    row(name, speed / peak, unit, against, least=LEAST.get((device.type, options.precision)))


def products(precision: str, device: torch.device, rows: int, total: int) -> float:
    """FLOP/s of matrix products of a hidden layer's size, ``total`` operations in all.

    A turn has as many operations as one of training: on a machine of varying speed, shorter turns would catch faster
    moments.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(rows, 2560, device=device).to(kind), torch.randn(2560, 2560, device=device).to(kind)
    each = 2 * rows * 2560**2
    repeats = max(1, total // each)
    left @ right
    _wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        left @ right
    _wait(device)
    return repeats * each / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
