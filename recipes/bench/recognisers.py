"""From audio to words on one core: our real-time factor and PocketSphinx's on the same utterances."""

import argparse
import json
import sys
from pathlib import Path

from measuring import ASR_KD, row, run


def main() -> None:
    """Run each in a process of its own; compare real-time factors with and without program start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder with a network")
    parser.add_argument("data", type=Path, help="data directory")
    parser.add_argument("arpa", type=Path, help="language model for the peer")
    parser.add_argument("lexicon", type=Path, help="pronunciations for the peer")
    parser.add_argument("work", type=Path, help="folder for the decoded words of both")
    options = parser.parse_args()
    ours = run(*ASR_KD, "decode", options.model, options.data, "--jobs", "1", "--output", options.work / "ours")
    report = json.loads((options.work / "ours" / "decode.json").read_text())
    factor, seconds = report["real_time_factor"], report["seconds"]
    name = f"AN4's teacher, seed 1, WER {error_rate(options.data, options.work / 'ours')}"
    unit = "real-time factor on one core, from audio to words with times"
    row(name, factor, unit, "the length of the audio", most=0.01)
    script = Path(__file__).parent / "recognisers_peer.py"
    theirs = run(sys.executable, script, options.data, options.arpa, options.lexicon, options.work / "peer")
    peer = json.loads((options.work / "peer" / "decode.json").read_text())
    against = f"PocketSphinx and its en-us model, WER {error_rate(options.data, options.work / 'peer')}"
    row(name, factor / peer["real_time_factor"], "times as long", f"{against} ({peer['real_time_factor']:.5f})", most=1)
    row(
        f"{name}, program start included",
        ours.cpu / theirs.cpu,
        f"times as long (real-time factor {ours.cpu / seconds:.5f})",
        f"PocketSphinx, program start included ({theirs.cpu / seconds:.5f})",
    )


def error_rate(data: Path, folder: Path) -> str:
    """The word error rate of a decode folder, as text."""
    run(*ASR_KD, "score", "--ref", data, "--hyp", folder)
    return f"{100 * json.loads((folder / 'wer.json').read_text())['wer']:.1f} %"


if __name__ == "__main__":
    main()
