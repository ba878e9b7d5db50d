"""Training from stores in object storage, through a cache that holds half of them, against stores on the disk."""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from made import make_stores
from measuring import row
from stepping import Trainer
from training import best

from asr_kd.frames import FrameStore, WriteOptions
from asr_kd.frames.copy import copy_store
from asr_kd.targets import TargetConfig
from asr_kd.train import TrainConfig, TrainingData

FRAMES, SHARD, POOL, STATES = 100_000, 5_000, 25_000, 2000


def main() -> None:
    """Epochs from either place in turns, and the best turn of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the stores, the cache and the server's log")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = make_stores(options.work / "made", FRAMES, STATES, TargetConfig("topk", 1))
    cache = options.work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    size = made[0].total_bytes + made[1].total_bytes
    with served(options.work / "server.log") as url:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "made", "AWS_SECRET_ACCESS_KEY": "up", "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": "us-east-1", "ASR_KD_CACHE": str(cache), "ASR_KD_CACHE_SIZE": str(size // 2),
        }  # fmt: skip
        names = ("feats", "states")
        local, remote = (
            [
                copy_store(store, f"{place}/{name}", options=WriteOptions(shard_frames=SHARD))
                for name, store in zip(names, made, strict=False)
            ]
            for place in (options.work / "local", "s3://bench")
        )
        shutil.rmtree(cache)
        disk, storage = best((Epochs(local), Epochs([FrameStore(store.path) for store in remote])), options.rounds)
        kept = sum(path.stat().st_size for path in (cache / "files").iterdir())
    name = f"training 4x512 from object storage, a cache of half the stores, {options.threads} threads"
    row(name, storage / disk, f"times the frames/s ({storage:,.0f})", f"from disk ({disk:,.0f} frames/s)", least=0.8)
    row("the cache after it", kept / (size // 2), "times its stated size", f"{size // 2 / 1e6:,.1f} MB", most=1.0)


class Epochs:
    """Train one more epoch; returns its frames."""

    def __init__(self, stores: list[FrameStore]) -> None:
        config = TrainConfig(pool_frames=POOL, block_frames=SHARD, epochs=1000)
        self._trainer = Trainer(config, TrainingData(*stores))
        self._number = 0

    def __call__(self) -> int:
        batches = self._trainer.reader.epoch(self._number)
        self._number += 1
        return sum(self._trainer.step(batch) for batch in batches)


@contextlib.contextmanager
def served(log: Path) -> Iterator[str]:
    """moto's S3 server with an empty bucket, in a process of its own."""
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        for _ in range(300):
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(f"{url}/bench", method="PUT"), timeout=1).close()
                break
        else:
            sys.exit(f"moto's server does not answer; see {log}")
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
