"""The reports of a table of systems -> steps that draw their figures and write RESULTS.md and results.json."""

import os
from collections.abc import Mapping
from pathlib import Path

from asr_kd.experiment.make_steps import features_of, states_of, tested_folders, trained_folders
from asr_kd.experiment.steps import Command, Input, Output, Step, Word
from asr_kd.experiment.table import Figure, Report, ResultTable, Specialists, Table


def report_steps(table: Table, results: Path) -> dict[str, Step]:
    """A step for each report of a table, by name; ``results``: where the folders of the reports are."""
    steps = [_report(table, name, report, results) for name, report in table.reports.items()]
    return {step.name: step for step in steps}


def _report(table: Table, name: str, report: Report, results: Path) -> Step:
    folder = os.path.normpath(results.resolve() / report.folder)
    words: list[Word] = ["report", "--title", report.title, "--output", Output(folder)]
    for remark in report.remarks:
        words += ["--remark", " ".join(remark.split())]
    commands: list[Command] = [_figure(table, figure, f"{folder}/{file}") for file, figure in report.figures.items()]
    for result in report.tables:
        if result.gains_of is not None:
            commands.append(_gains(table, result, folder))
        words += _table_words(table, result, folder)
    words += _pictures(report.pictures, folder)
    return Step(f"report {name}", (*commands, tuple(words)), f"{folder}/RESULTS.md", here=True)


def _table_words(table: Table, result: ResultTable, folder: str) -> list[Word]:
    words: list[Word] = ["--table", result.title]
    if result.gains_of is not None:
        words += ["--rows", Output(_gains_file(result.gains_of))]
    usual = next(iter(table.tests))
    for label, row in result.rows.items():
        folders = [each for test in row.tests or [usual] for each in tested_folders(table, row.system, test)]
        words += ["--system", label, *map(Input, folders)]
    if result.recovery and all(label in result.rows for label in result.recovery):
        words += ["--recovery", *result.recovery]
    if result.paper is not None:
        words += ["--rows", Input(str((table.path.parent / result.paper).resolve()))]
    if result.difference in result.rows:
        words += ["--difference", result.difference]
    return words + _pictures(result.pictures, folder)


def _pictures(captions: Mapping[str, str], folder: str) -> list[Word]:
    words: list[Word] = []
    for file, caption in captions.items():
        words += ["--picture", Output(f"{folder}/{file}"), " ".join(caption.split())]
    return words


def _figure(table: Table, figure: Figure, file: str) -> Command:
    words: list[Word] = ["plot", figure.kind, "--output", Output(file), "--title", figure.title]
    words += ["--log"] if figure.log else []
    if figure.kind == "curves":
        words += ["--axis", figure.x]
        for label, system in figure.series.items():
            folders = trained_folders(table, system)
            words += ["--series", label, *(Input(each, content=f"{each}/metrics.jsonl") for each in folders)]
        return tuple(words)
    usual = next(iter(table.tests))
    words += ["--x", figure.x]
    for label, points in figure.series.items():
        places = [
            Input(each, f"{point.at:g}=") for point in points for each in tested_folders(table, point.system, usual)
        ]
        words += ["--series", label, *places]
    for label, system in figure.levels.items():
        words += ["--level", label, *map(Input, tested_folders(table, system, usual))]
    return tuple(words)


def _gains(table: Table, result: ResultTable, folder: str) -> Command:
    """What specialists add, measured on the test set; its rows and its picture."""
    assert result.gains_of is not None
    system = table.systems[result.gains_of]
    assert isinstance(system, Specialists)
    test = next(iter(table.tests.values()))
    picture = next(iter(result.pictures))
    return (
        "specialists", "compare", Input(result.gains_of), "--feats", features_of(table, test.data),
        "--states", states_of(table, system.hmm, test.data),
        "--utt2spk", Input(f"data/{test.data}/utt2spk"), "--title", result.title,
        "--rows", Output(_gains_file(result.gains_of)), "--picture", Output(f"{folder}/{picture}"),
    )  # fmt: skip


def _gains_file(system: str) -> str:
    return f"{system}/gains.jsonl"
