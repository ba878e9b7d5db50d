"""All stages of GMM-HMM training, and alignment, as a user runs them."""

import argparse
import shutil
from pathlib import Path

from measuring import ASR_KD, row, run


def main() -> None:
    """Run ``asr-kd hmm train`` and ``asr-kd hmm align`` from scratch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="data directory")
    parser.add_argument("feats", type=Path, help="its cepstra")
    parser.add_argument("lexicon", type=Path)
    parser.add_argument("work", type=Path, help="folder for the models; removed at the end")
    parser.add_argument("--jobs", default="2")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    jobs = ("--jobs", options.jobs)
    model, states = options.work / "gmm", options.work / "states"
    training = run(*ASR_KD, "hmm", "train", options.data, options.feats, options.lexicon, model, *jobs)
    aligning = run(*ASR_KD, "hmm", "align", model / "lda", options.data, options.feats, states, *jobs)
    shutil.rmtree(options.work)
    row(
        "GMM-HMM on AN4: monophones, triphones, LDA+MLLT, alignment",
        training.wall + aligning.wall,
        f"s with --jobs {options.jobs}",
        "wall time",
        most=180,
    )


if __name__ == "__main__":
    main()
