"""``asr-kd compare``."""

import argparse

from asr_kd.score.table import FORMATS


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the verb and add its options."""
    parser.description = (
        "One table of several systems on the same set, each tested against the first.\n"
        "A folder has the wer.json of asr-kd score; what decode.json tells (frame accuracy, parameters,\n"
        "real-time factor, tuning) is shown too. Or each has the frames.json of asr-kd train --evaluate --out."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd score --ref data/test --hyp exp/gmm/decode_test\n"
        "  asr-kd score --ref data/test --hyp exp/hard/decode_test\n"
        "  asr-kd compare exp/gmm/decode_test exp/hard/decode_test --format markdown"
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="decode folders; the first is the baseline")
    parser.add_argument("--format", default="terminal", choices=FORMATS, help="default: terminal")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare and print."""
    from asr_kd.score.compare_systems import COLUMNS, compare, notes, records
    from asr_kd.score.table import render

    comparison = compare(options.folders)
    print(render(records(comparison), COLUMNS, notes(comparison), options.format), end="")
