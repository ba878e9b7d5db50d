"""``asr-kd plot``."""

import argparse
import math
from pathlib import Path

from asr_kd.cli import add_action

_SERIES = ("NAME EXP_DIR", "EXP_DIR")  # argparse shows the second one as "[EXP_DIR ...]"
_LEVEL = ("NAME DECODE_DIR", "DECODE_DIR")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``curves`` and ``against``."""
    parser.description = (
        "Draw figures (PNG) of training runs and results; asr-kd report --picture includes them in a report."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd plot curves --output curves.png --title 'Hard targets overfit' \\\n"
        "    --series hard exp/hard/seed* --series soft exp/soft/seed*"
    )
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    curves = _action(
        verbs,
        "curves",
        "draw frame accuracy and dev cross-entropy during training, from metrics.jsonl",
        "--title 'Hard targets overfit' --output curves.png \\\n"
        "    --series hard exp/hard/seed* --series soft exp/soft/seed*",
    )
    text = "add a curve: the mean over experiment folders, one per seed, with a band for their range"
    curves.add_argument("--series", action="append", nargs="+", required=True, metavar=_SERIES, help=text)
    curves.add_argument("--axis", choices=("step", "epoch"), default="step", help="horizontal axis (default: step)")
    curves.set_defaults(run=_curves)
    against = _action(
        verbs,
        "against",
        "draw test frame accuracy and WER against a variable, from scored decode folders",
        "--title 'Less data' --output less.png --x 'training data (%)' --log \\\n"
        "    --series hard 3=model/hard3/decode_test 100=model/hard/decode_test \\\n"
        "    --series soft {3=model/soft3,100=model/soft}_seed{1,2,3}/decode_test \\\n"
        "    --level ensemble model/ensemble/decode_test",
    )
    text = (
        "add a curve through scored decode folders at their values X; folders with the same X are averaged, as runs"
        " that differ in the seed"
    )
    points = ("NAME X=DECODE_DIR", "X=DECODE_DIR")
    against.add_argument("--series", action="append", nargs="+", required=True, metavar=points, help=text)
    text = "add a horizontal line: the mean over scored decode folders, one per seed"
    against.add_argument("--level", action="append", nargs="+", default=[], metavar=_LEVEL, help=text)
    against.add_argument("--x", required=True, metavar="LABEL", help="label of the horizontal axis")
    against.set_defaults(run=_against)
    for action in (curves, against):
        action.add_argument("--log", action="store_true", help="use a logarithmic horizontal axis")


def _action(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, purpose: str, example: str
) -> argparse.ArgumentParser:
    parser = add_action(verbs, "plot", name, purpose, example)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="PNG file to write; an existing one is replaced"
    )
    parser.add_argument("--title", required=True, metavar="TEXT", help="title of the figure")
    return parser


def _curves(options: argparse.Namespace) -> None:
    from asr_kd.score.figures import plot_curves
    from asr_kd.score.series import training_curves

    series = [training_curves(*_named("--series", words), options.axis) for words in options.series]
    plot_curves(series, options.title, options.output, options.log)
    print(options.output)


def _against(options: argparse.Namespace) -> None:
    from asr_kd.score.figures import plot_results
    from asr_kd.score.series import results_against

    named = [_named("--series", words) for words in options.series]
    series = [results_against(name, [_point(name, word) for word in words]) for name, words in named]
    named = [_named("--level", words) for words in options.level]
    levels = [results_against(name, [(0.0, folder) for folder in folders]) for name, folders in named]
    plot_results(series, levels, options.x, options.title, options.output, options.log)
    print(options.output)


def _named(option: str, words: list[str]) -> tuple[str, list[str]]:
    from asr_kd.errors import UserError

    if len(words) < 2:
        raise UserError(f"{option} {words[0]!r}: expected a name and at least one folder")
    return words[0], words[1:]


def _point(name: str, word: str) -> tuple[float, str]:
    """``X=DECODE_DIR`` as a number and a folder."""
    from asr_kd.errors import UserError

    number, equals, folder = word.partition("=")
    try:
        x = float(number)
    except ValueError:
        x = math.nan
    if not (equals and folder and math.isfinite(x)):
        raise UserError(f"--series {name!r}: expected X=DECODE_DIR with a number X; found {word!r}")
    return x, folder
