"""A training that is killed at random moments, again and again, ends with the weights of one that never was."""

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

STEPS_KEPT = 5  # between two checkpoints


def learn(stores: list[Path], config: TrainConfig, folder: Path) -> None:
    """Train on ``stores`` (features and states to learn from, then of dev) with one thread."""
    import torch

    torch.set_num_threads(1)
    features, states, dev_features, dev_states = map(FrameStore, stores)
    train(config, TrainingData(features, states), TrainingData(dev_features, dev_states), folder)


def killed_again_and_again(folder: Path, make_data: MakeData, kills: int) -> None:
    """Kill a process that trains ``kills`` times, each time some way past the checkpoint that it went on from."""
    parts = make_data([50] * 12), make_data([50] * 4, seed=1)
    stores = [Path(store.path) for part in parts for store in (part.features, part.states) if store is not None]
    net = dataclasses.replace(CONFIG.net, dropout=0.2)
    steps = kills * 6 * STEPS_KEPT  # more than the kills leave time for
    epochs = -(-steps * CONFIG.batch_frames // 600)
    config = dataclasses.replace(
        CONFIG, net=net, frequency_masks=1, frequency_width=2, epochs=epochs, checkpoint_steps=STEPS_KEPT
    )
    learn(stores, config, folder / "whole")
    context = multiprocessing.get_context("forkserver")  # torch is loaded once, in a process of one thread
    context.set_forkserver_preload(["asr_kd.train", "torch._dynamo"])  # the optimiser imports the latter
    moments, checkpoint, cut = random.Random(1), folder / "killed" / "checkpoint.safetensors", 0
    for _ in range(kills):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = context.Process(target=learn, args=(stores, config, folder / "killed"))
        process.start()
        while process.is_alive() and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.001)
        time.sleep(moments.random() * 0.03)  # some steps, an evaluation, or another checkpoint, further
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        cut += process.exitcode != 0 and not (folder / "killed" / "summary.json").exists()
    assert cut > kills // 2
    learn(stores, config, folder / "killed")
    weights = {name: digests(folder / name)["model.safetensors"] for name in ("whole", "killed")}
    assert weights["whole"] == weights["killed"]


def test_ten_kills(tmp_path: Path, make_data: MakeData) -> None:
    killed_again_and_again(tmp_path, make_data, 10)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_fifty_kills(tmp_path: Path, make_data: MakeData) -> None:
    killed_again_and_again(tmp_path, make_data, 50)
