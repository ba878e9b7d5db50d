"""Ray with two local workers against two processes, from a running cluster: features and soft targets."""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

# Libraries are imported inside functions: each process imports this module too.

JOBS, MINUTES, FRAMES, STATES = 2, 10, 500_000, 2000
RATE, SECONDS = 16_000, 5  # of the audio, and of an utterance
SHARD = 5000  # frames: twelve shards of features, of which both workers get the same number


def main() -> None:
    """Alternate the engines, with a new cluster in each round, and compare the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the synthetic audio and stores; removed at the end")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    work, rounds = options.work, max(2, options.rounds // 2)
    compare(f"{MINUTES} minutes of features", features(work), rounds)
    compare(f"top-20 targets of {FRAMES:,} frames, {STATES:,} states", targets(work), rounds)
    shutil.rmtree(work)


def features(work: Path) -> Callable[[], object]:
    """Noise as FLAC -> log-mel features."""
    import numpy as np

    from asr_kd.corpus.audio import write_flac
    from asr_kd.corpus.datadir import write_data_dir
    from asr_kd.features.config import FeatureConfig
    from asr_kd.features.feature_store import write_features

    rng = np.random.default_rng(0)
    wav = {f"u{number:03d}": work / "audio" / f"u{number:03d}.flac" for number in range(MINUTES * 60 // SECONDS)}
    for path in wav.values():
        write_flac(path, rng.normal(0, 0.1, RATE * SECONDS).astype(np.float32), RATE)
    data, config = write_data_dir(work / "data", wav, {}, {utt: utt for utt in wav}), FeatureConfig()
    return lambda: write_features(data, work / "store", config, JOBS, force=True, shard_frames=SHARD)


def targets(work: Path) -> Callable[[], object]:
    """A 4x512 network with random weights -> top 20 at four temperatures."""
    import torch
    from made import BINS, make_stores

    from asr_kd.frames import WriteOptions
    from asr_kd.nets import AcousticModel, NetConfig, save_model
    from asr_kd.targets import TargetConfig, Teacher, write_targets

    torch.set_num_threads(1)
    torch.manual_seed(0)
    save_model(AcousticModel(NetConfig(bins=BINS, states=STATES)), work / "net")
    config = TargetConfig("topk", 20)
    teacher = Teacher(work / "net", make_stores(work / "made", FRAMES, STATES, config)[0])
    return lambda: write_targets(teacher, work / "targets", config, options=WriteOptions(JOBS, force=True))


def compare(name: str, work: Callable[[], object], rounds: int) -> None:
    """Seconds of wall-clock time, with the start of the processes and of Ray's tasks, but not of the cluster."""
    from measuring import row

    from asr_kd.parallel import parallel_map, using
    from asr_kd.parallel.processes import LocalEngine
    from asr_kd.parallel.ray_engine import RayEngine

    local = ray = float("inf")
    for _ in range(rounds):
        with using(LocalEngine()):
            local = min(local, seconds(work))
        with using(RayEngine(JOBS)):
            list(parallel_map(abs, range(4 * JOBS), JOBS))  # starts the cluster and its workers
            ray = min(ray, seconds(work))
    row(f"{name}, Ray with {JOBS} workers", ray / local, "times as long", f"{JOBS} processes ({local:.1f} s)", most=1.1)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one run."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
