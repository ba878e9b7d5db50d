"""Writing soft targets against the ensemble's bare forward passes, and the bytes of a frame at 14,000 states."""

import argparse
import shutil
import time
from pathlib import Path

import torch
from made import BINS, make_stores
from measuring import row

from asr_kd.frames import FrameStore
from asr_kd.nets import (
    AcousticModel,
    NetConfig,
    autocast,
    hold_weights,
    logits_by_chunk,
    open_model,
    save_ensemble,
    save_model,
    settle_precision,
)
from asr_kd.targets import TargetConfig, Teacher, write_targets

FRAMES, MEMBERS = 40_000, 4
SIZES = {2000: NetConfig(bins=BINS, states=2000), 14_000: NetConfig(bins=BINS, states=14_000, layers=8, width=1024)}


def main() -> None:
    """Alternate the two, and compare the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the made-up stores")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for states, net in SIZES.items():
        writing(options.work / f"write{states}", states, net, max(2, options.rounds // 2))


def writing(work: Path, states: int, net: NetConfig, rounds: int) -> None:
    """Top 20 at four temperatures, by one process."""
    config = TargetConfig("topk", 20, precision=settle_precision("auto", "cpu"))
    features, _, _ = make_stores(work, FRAMES, states, config)
    save_random_ensemble(work, net)
    written, bare, held = float("inf"), float("inf"), float("inf")
    for _ in range(rounds):
        bare = min(bare, forward(work / "ensemble", features, config.precision))
        held = min(held, forward(work / "ensemble", features, config.precision, hold=True))
        shutil.rmtree(work / "targets", ignore_errors=True)
        began = time.perf_counter()
        store = write_targets(Teacher(work / "ensemble", features), work / "targets", config)
        written = min(written, time.perf_counter() - began)
    name = f"writing top-20 targets of {MEMBERS} networks {net.layers}x{net.width}, {states:,} states, one core"
    against = f"their bare forward passes and mean under torch.autocast ({FRAMES / bare:,.0f} frames/s), with loading"
    unit = f"times as long ({FRAMES / written:,.0f} frames/s)"
    row(name, written / bare, unit, against, most=1.1)
    row(name, written / held, unit, f"the same with weights that stay in {config.precision} ({FRAMES / held:,.0f})")
    size = store.store.total_bytes / FRAMES
    row(
        f"top-20 targets at four temperatures, {states:,} states",
        size,
        "bytes per frame",
        "size of the shards",
        most=90,
    )


def save_random_ensemble(work: Path, net: NetConfig) -> Path:
    """An ensemble of ``MEMBERS`` networks with random weights, in ``work``; returns its folder."""
    members = [work / f"member{seed}" for seed in range(MEMBERS)]
    for seed, member in enumerate(members):
        torch.manual_seed(seed)
        save_model(AcousticModel(net), member)
    save_ensemble(work / "ensemble", members)
    return work / "ensemble"


@torch.inference_mode()
def forward(ensemble: Path, features: FrameStore, precision: str, hold: bool = False) -> float:
    """Seconds to open the ensemble and score every frame."""
    began = time.perf_counter()
    model = open_model(ensemble)
    if hold:
        hold_weights(model, precision)
    for utterance in features.utterances:
        with autocast("cpu", precision):
            for logits in logits_by_chunk(model, features.read(utterance)["fbank"]):
                logits.shape  # noqa: B018
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
