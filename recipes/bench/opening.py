"""Opening a lexicon and a language model: lines read each second on one core."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import row

from asr_kd.graph.arpa_reader import read_arpa
from asr_kd.hmm.lexicon_reader import read_lexicon

WORDS, BIGRAMS = 100_000, 400_000


def main() -> None:
    """Write both files, open each several times, and report the fastest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the two files")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    phones = [f"P{number}" for number in range(40)]
    lines = [f"WORD{n} {' '.join(rng.choice(phones, rng.integers(2, 10)))}\n" for n in range(WORDS)]
    (options.work / "lexicon.txt").write_text("".join(lines))
    (options.work / "lm.arpa").write_text(_arpa(rng))
    for name, path, size, read in (
        ("lexicon opened", options.work / "lexicon.txt", WORDS, read_lexicon),
        ("ARPA language model opened", options.work / "lm.arpa", WORDS + BIGRAMS + 2, read_arpa),
    ):
        row(name, size / _fastest(read, path, options.rounds), "lines a second on one core", "an earlier commit")


def _arpa(rng: np.random.Generator) -> str:
    pairs = np.unique(rng.integers(0, WORDS, (2 * BIGRAMS, 2)), axis=0)
    pairs = pairs[np.sort(rng.choice(len(pairs), BIGRAMS, replace=False))]
    numbers = rng.uniform(-6, -1, WORDS + BIGRAMS).round(5)
    unigrams = "".join(f"{p}\tWORD{n}\t-0.3\n" for n, p in enumerate(numbers[:WORDS].tolist()))
    bigrams = "".join(
        f"{p}\tWORD{a} WORD{b}\n" for p, (a, b) in zip(numbers[WORDS:].tolist(), pairs.tolist(), strict=True)
    )
    head = f"\\data\\\nngram 1={WORDS + 2}\nngram 2={BIGRAMS}\n\n\\1-grams:\n-99\t<s>\t-0.3\n-2\t</s>\n"
    return f"{head}{unigrams}\n\\2-grams:\n{bigrams}\n\\end\\\n"


def _fastest(read: Callable[[Path], object], path: Path, rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        read(path)
        seconds.append(time.process_time() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
