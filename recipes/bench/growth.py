"""Peak memory of writing targets and of training on them, with a corpus and with one ten times as large."""

import argparse
import sys
from pathlib import Path

from measuring import ASR_KD, row, run

SMALL, TIMES = 100_000, 10  # frames


def main() -> None:
    """Run each command, and the making of the stores, in a process of its own: peak memory counts from its start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the synthetic stores")
    work = parser.parse_args().work
    peaks: dict[str, list[float]] = {"writing": [], "training on": []}
    for frames in (SMALL, SMALL * TIMES):
        own = work / f"{frames}"
        make = f"from made import *; make_stores(Path({str(own)!r}), {frames}, 2000, TargetConfig('topk', 20))"
        run(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {make}")
        common = ("--feats", own / "feats", "--states", own / "states")
        dev = ("--dev-feats", work / f"{SMALL}" / "feats", "--dev-states", work / f"{SMALL}" / "states")
        pool = ("--set", "pool_frames=50000", "--set", "net.width=64", "--set", "net.layers=1", "--set", "epochs=1")
        teacher = work / "teacher"
        if not (teacher / "summary.json").exists():
            run(*ASR_KD, "train", *common, *dev, *pool, "--out", teacher)
        out = own / "written"
        cost = run(*ASR_KD, "targets", "write", out, "--teacher", teacher, "--feats", own / "feats", "--force")
        peaks["writing"].append(cost.memory)
        student = ("--out", own / "student", "--targets", out, "--set", "batch_frames=4096")
        peaks["training on"].append(run(*ASR_KD, "train", *common, *dev, *pool, *student).memory)
    for what, (small, large) in peaks.items():
        name = f"peak memory of {what} targets, {TIMES} times the corpus"
        row(name, large / small, f"times the memory ({large:,.0f} MB)", f"{SMALL:,} frames ({small:,.0f} MB)", most=1.1)


if __name__ == "__main__":
    main()
