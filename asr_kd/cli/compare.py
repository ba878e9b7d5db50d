"""``asr-kd compare``."""

import argparse

from asr_kd.score.table import FORMATS


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the verb and add its options."""
    parser.description = (
        "Compare several systems on the same set in one table, with a significance test of each against the first.\n"
        "Either all folders have a wer.json (asr-kd score), with frame accuracy, parameters, real-time factor and\n"
        "tuning from decode.json, if there is one, or all have a frames.json (asr-kd train --evaluate --out)."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd score --ref data/test --hyp exp/gmm/decode_test\n"
        "  asr-kd score --ref data/test --hyp exp/hard/decode_test\n"
        "  asr-kd compare exp/gmm/decode_test exp/hard/decode_test --format markdown"
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="decode folders; the first is the baseline")
    parser.add_argument("--format", default="terminal", choices=FORMATS, help="output format (default: terminal)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare and print."""
    from asr_kd.score.compare_systems import COLUMNS, compare, notes, records
    from asr_kd.score.table import render

    comparison = compare(options.folders)
    print(render(records(comparison), COLUMNS, notes(comparison), options.format), end="")
