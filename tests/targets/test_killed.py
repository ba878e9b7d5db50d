"""Targets whose writer was killed repeatedly, at random moments, equal those of an uninterrupted run."""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from asr_kd.frames import FrameStore, WriteOptions
from asr_kd.targets import TargetConfig, Teacher, write_targets
from tests.killing import digests
from tests.targets.conftest import BINS, network
from tests.train.conftest import write_features

CONFIG = TargetConfig("sampled", k=3, temperatures=(2.0,))
SHARDS = 60
SMALL = WriteOptions(shard_frames=20)


def killed_again_and_again(folder: Path, kills: int) -> None:
    """Kill a process that writes ``SHARDS`` shards ``kills`` times. Shards are deleted first, so that work remains."""
    arrays = np.random.default_rng(0).normal(size=(SHARDS, 20, BINS)).astype(np.float32)
    features = write_features(folder / "feats", {f"u{i:02d}": array for i, array in enumerate(arrays)})
    teacher, out = network(folder / "m"), folder / "killed"

    def write(out: Path) -> FrameStore:
        return write_targets(Teacher(teacher, features), out, CONFIG, options=SMALL).store

    write(folder / "whole")
    context = multiprocessing.get_context("forkserver")  # imports torch once, in a single-threaded process
    context.set_forkserver_preload(["asr_kd.targets"])
    moments, cut = random.Random(1), 0
    for _ in range(kills):
        shards = sorted(out.glob("shard-*"))
        for shard in moments.sample(shards, max(0, len(shards) - SHARDS // 3)):
            shard.unlink()
        (out / "index.json").unlink(missing_ok=True)
        before = len(list(out.glob("shard-*")))
        process = context.Process(target=write_targets, args=(Teacher(teacher, features), out, CONFIG, None, SMALL))
        process.start()
        wanted = before + moments.randrange(SHARDS // 3)
        while len(list(out.glob("shard-*"))) < wanted and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.random() * 0.02)  # somewhere inside a shard
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        cut += process.exitcode != 0 and not (out / "index.json").exists()
    assert cut > kills // 2
    write(out)
    assert digests(out) == digests(folder / "whole")


def test_ten_kills(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, 10)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1200)  # an idle machine takes 7
def test_fifty_kills(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, 50)
