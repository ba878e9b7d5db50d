"""A decoding graph for a large vocabulary: time and memory of ``asr-kd graph compile``."""

import argparse
import shutil
from pathlib import Path

from measuring import ASR_KD, row, run


def main() -> None:
    """Compile the graph, measure, and delete it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with states and lexicon")
    parser.add_argument("arpa", type=Path, help="language model")
    parser.add_argument("work", type=Path, help="folder for the graph; removed at the end")
    options = parser.parse_args()
    cost = run(*ASR_KD, "graph", "compile", options.model, options.arpa, options.work)
    words = len((options.work / "words.txt").read_text().splitlines()) - 1
    shutil.rmtree(options.work)
    name = f"decoding graph of {words:,} words"
    row(name, cost.wall, "s", "wall time", most=180)
    row(name, cost.memory / 1000, "GB of peak memory", "the machine", most=2)


if __name__ == "__main__":
    main()
