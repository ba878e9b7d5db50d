"""Decoding with a large vocabulary on one core: the real-time factor, and the cost in WER of the tuned beam."""

import argparse
import json
from pathlib import Path

from measuring import ASR_KD, row, run

EVERY = 10  # one utterance in ten is decoded


def main() -> None:
    """Decode a part of the test set as a user would, with word times; the cost of the beam is measured on dev."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder, tuned")
    parser.add_argument("data", type=Path, help="data directory")
    parser.add_argument("work", type=Path, help="folder for the decoded words")
    options = parser.parse_args()
    lines = (options.data / "wav.scp").read_text().splitlines()[::EVERY]
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = options.work / "utterances"
    chosen.write_text("".join(f"{line.split()[0]}\n" for line in lines))
    output = options.work / "words"
    command = ("decode", options.model, options.data, "--utterances", chosen, "--jobs", "1", "--output", output)
    run(*ASR_KD, *command)
    factor = json.loads((output / "decode.json").read_text())["real_time_factor"]
    tuning = json.loads((options.model / "tune.json").read_text())
    best, widest = tuning["best"], tuning["beams"][0]
    words = len((options.model / "words.txt").read_text().splitlines()) - 1
    name = f"decoding of {words:,} words, beam {best['beam']:g}"
    row(name, factor, "real-time factor on one core, from audio to words with times", "the length of the audio",
        most=0.03)  # fmt: skip
    against = f"beam {widest['beam']:g} ({widest['wer']:.2f} % on dev)"
    unit = f"points of WER ({best['wer']:.2f} % at this beam)"
    row(f"{name}: loss from the beam", best["wer"] - widest["wer"], unit, against, most=0.3)


if __name__ == "__main__":
    main()
