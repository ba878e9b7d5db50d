"""``asr-kd compare``."""

import argparse

from asr_kd.score.table import FORMATS


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the verb and add its options."""
    parser.description = (
        "Compare several systems on the same set in one table; each is tested against the first.\n"
        "Every folder holds a wer.json of asr-kd score; frame accuracy, parameters, real-time factor and tuning come\n"
        "from its decode.json, if any. Or every folder holds a frames.json of asr-kd train --evaluate --out."
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
