"""``asr-kd report``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class _InOrder(argparse.Action):
    """Collects the parts of the report in one list, in the order of the command line."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        namespace.parts = [*namespace.parts, (self.dest, values)]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the verb and add its options."""
    parser.description = (
        "Write RESULTS.md and results.json from the measurements of a recipe, in the order of the options.\n"
        "--table starts a table. --system adds a line: the mean, with intervals, over decode folders, one per seed\n"
        "(the N of seedN in the path). --rows adds lines from a file with one JSON object per line. --recovery adds\n"
        "a table of recovery: the share of the gap between two systems that each other system closes. --difference\n"
        "adds a table of the differences from one system. --picture adds a figure."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd report --title AN4 --output recipes/an4 --table 'Word error rate' \\\n"
        "    --system 'GMM triphone' exp/model/tri/decode_test \\\n"
        "    --system 'DNN 4x512, hard' exp/model/dnn_seed*/decode_test \\\n"
        "    --system 'DNN 4x512, soft' exp/model/soft_seed*/decode_test \\\n"
        "    --system 'Ensemble' exp/model/ensemble/decode_test --recovery 'DNN 4x512, hard' Ensemble"
    )
    parser.add_argument("--title", required=True, metavar="TEXT", help="heading of RESULTS.md")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for both files; existing ones are replaced"
    )
    parser.add_argument(
        "--remark", action="append", default=[], metavar="TEXT", help="add a paragraph under the title; repeatable"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="wall time of the run, to report (default: none)")
    made = "note that WHAT (such as stages 1 and 2) was made at another COMMIT; repeatable"
    parser.add_argument("--made-at", action="append", default=[], nargs=2, metavar=("COMMIT", "WHAT"), help=made)
    parser.add_argument(
        "--table", action=_InOrder, metavar="TITLE", help="start a table; the systems and rows that follow belong to it"
    )
    folders = ("NAME DECODE_DIR", "DECODE_DIR")
    parser.add_argument("--system", action=_InOrder, nargs="+", metavar=folders, help="add a line to the table")
    rows = (
        "add rows from a file of JSON lines, each with system (or name), set and the columns to show, such as"
        " data/hinton2015/table1.jsonl"
    )
    parser.add_argument("--rows", action=_InOrder, type=Path, metavar="FILE", help=rows)
    recovery = "add the recovery: the share of the gap from LOW to HIGH that each other system closes"
    parser.add_argument("--recovery", action=_InOrder, nargs=2, metavar=("LOW", "HIGH"), help=recovery)
    difference = "add the differences of the other systems from BASE, with intervals and tests"
    parser.add_argument("--difference", action=_InOrder, metavar="BASE", help=difference)
    picture = "add a figure (from asr-kd plot) with its caption; FILE is in the --output folder or below it"
    parser.add_argument("--picture", action=_InOrder, nargs=2, metavar=("FILE", "CAPTION"), help=picture)
    parser.set_defaults(run=run, parts=[])


def run(options: argparse.Namespace) -> None:
    """Collect, write and print."""
    from asr_kd.score.provenance import provenance
    from asr_kd.score.report import write_report

    parts = _parts(options.parts)
    remarks = [_one_line(remark) for remark in options.remark]
    origin = provenance(options.seconds, dict(options.made_at))
    print(write_report(options.output, _one_line(options.title), parts, origin, remarks), end="")


def _parts(given: Sequence[tuple[str, Any]]) -> list[Any]:
    from asr_kd.errors import UserError
    from asr_kd.score.difference import Difference
    from asr_kd.score.entries import read_rows, scored_entries
    from asr_kd.score.recovery import Recovery
    from asr_kd.score.report import Picture

    table = "Results"
    parts: list[Any] = []
    for option, value in given:
        if option == "table":
            table = _one_line(value)
        elif option == "rows":
            parts += read_rows(value, table)
        elif option == "recovery":
            parts.append(Recovery(table, *map(_one_line, value)))
        elif option == "difference":
            parts.append(Difference(table, _one_line(value)))
        elif option == "picture":
            parts.append(Picture(Path(value[0]), _one_line(value[1])))
        elif len(value) < 2:
            raise UserError(f"--system {value[0]!r}: expected a name and at least one decode folder")
        else:
            parts += scored_entries(table, _one_line(value[0]), value[1:])
    if not parts:
        raise UserError("nothing to report; give --system NAME DECODE_DIR..., --rows FILE or --picture FILE CAPTION")
    return parts


def _one_line(text: str) -> str:
    """Join a text that a shell script broke into lines; ``UserError`` if it is not UTF-8."""
    from asr_kd.errors import UserError
    from asr_kd.score.score_files import is_text

    if not is_text(text):
        raise UserError(f"{text!r}: not UTF-8, so RESULTS.md cannot hold it; give another name")
    return " ".join(text.split())
