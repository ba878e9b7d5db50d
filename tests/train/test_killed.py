"""A training run that was killed repeatedly, at random moments, ends with the weights of an uninterrupted one."""

import dataclasses
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

from asr_kd.frames import FrameStore
from asr_kd.train import TrainConfig, TrainingData, train
from tests.killing import digests
from tests.train.conftest import CONFIG, MakeData

CHECKPOINT_STEPS = 5  # steps between two checkpoints


def train_stores(stores: list[Path], config: TrainConfig, folder: Path) -> None:
    """Train with one thread on ``stores``: training features and states, then dev features and states."""
    import torch

    torch.set_num_threads(1)
    features, states, dev_features, dev_states = map(FrameStore, stores)
    train(config, TrainingData(features, states), TrainingData(dev_features, dev_states), folder)


def killed_again_and_again(folder: Path, make_data: MakeData, kills: int) -> None:
    """Kill a training process ``kills`` times, each time some steps after it has written a new checkpoint."""
    parts = make_data([50] * 12), make_data([50] * 4, seed=1)
    stores = [Path(store.path) for part in parts for store in (part.features, part.states) if store is not None]
    net = dataclasses.replace(CONFIG.net, dropout=0.2)
    steps = kills * 6 * CHECKPOINT_STEPS  # more than are done between the kills
    epochs = -(-steps * CONFIG.batch_frames // 600)
    config = dataclasses.replace(
        CONFIG, net=net, frequency_masks=1, frequency_width=2, epochs=epochs, checkpoint_steps=CHECKPOINT_STEPS
    )
    train_stores(stores, config, folder / "whole")
    context = multiprocessing.get_context("forkserver")  # imports torch once, in a single-threaded process
    context.set_forkserver_preload(["asr_kd.train"])
    moments, checkpoint, cut = random.Random(1), folder / "killed" / "checkpoint.safetensors", 0
    for _ in range(kills):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = context.Process(target=train_stores, args=(stores, config, folder / "killed"))
        process.start()
        while process.is_alive() and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.001)
        time.sleep(moments.random() * 0.03)  # some steps, an evaluation or a checkpoint later
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        cut += process.exitcode != 0 and not (folder / "killed" / "summary.json").exists()
    assert cut > kills // 2
    train_stores(stores, config, folder / "killed")
    weights = {name: digests(folder / name)["model.safetensors"] for name in ("whole", "killed")}
    assert weights["whole"] == weights["killed"]


def test_ten_kills(tmp_path: Path, make_data: MakeData) -> None:
    killed_again_and_again(tmp_path, make_data, 10)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_fifty_kills(tmp_path: Path, make_data: MakeData) -> None:
    killed_again_and_again(tmp_path, make_data, 50)
