"""The rows of a report, and their means over seeds.

A row is one measurement: ``table``, ``system``, ``seed``, ``set`` and the numbers measured (``wer``, ``errors``,
``words``, ``frame_accuracy``, ...; rates are fractions). The row of a benchmark has ``table``, ``name``, ``value``,
``unit``, ``against``, ``bar`` and ``met`` instead.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import parse_json, read_lines
from asr_kd.score.bootstrap import permutation_p
from asr_kd.score.compare_systems import compare, records
from asr_kd.score.score_files import FILES, is_number, is_text, load_score
from asr_kd.score.table import Record
from asr_kd.score.wer import Score

_MEASURED = (
    "wer", "wer_low", "wer_high", "p", "p_of_gain", "frame_accuracy", "accuracy_low", "accuracy_high", "frame_errors",
    "train_frame_accuracy", "sentence_error_rate", "difference_low", "difference_high",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReportEntry:
    """One row, the score it was made from, if any, and the score of the frames beside a score of words."""

    row: Record
    score: Score | None = None
    frames: Score | None = None


def scored_entries(table: str, system: str, folders: Sequence[str | Path]) -> list[ReportEntry]:
    """The rows of one system's decode folders, one for each seed.

    The set is the folder's name without ``decode_`` or ``frames_``. The seed is N where the path has ``seedN``, else
    None.
    """
    entries = []
    for folder in map(Path, folders):
        alone = compare([folder])
        seeds = re.findall(r"seed[_-]?([0-9]{1,18})", str(folder))
        labels: dict[str, Any] = {
            "table": table,
            "system": system,
            "seed": int(seeds[-1]) if seeds else None,
            "set": folder.name.removeprefix("decode_").removeprefix("frames_"),
        }
        beside = folder / FILES["frames"]
        frames = load_score(beside) if beside.is_file() else None
        entries.append(ReportEntry(labels | records(alone)[0] | labels, alone.systems[0].score, frames))
    return entries


def read_rows(path: str | Path, table: str) -> list[ReportEntry]:
    """Rows from a file of JSON objects, one to a line; ``table`` where a row names none. Blank lines are skipped.

    Raises ``UserError`` for a line that is not an object with ``system`` or ``name``, or has a value that no table can
    show.
    """
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            entries.append(ReportEntry({"table": table, **_row(line, f"{path}:{number}")}))
    return entries


def _row(line: str, where: str) -> Record:
    row = parse_json(line, where)
    if not isinstance(row, dict) or not {"system", "name"} & set(row):
        raise UserError(f"{where}: expected an object with 'system' or 'name'; found {shown(row)}")
    for key, value in row.items():
        if key in ("table", "system", "name", "set"):
            fits, expected = is_text(value), "text"
        elif key == "seed":
            fits, expected = value is None or (type(value) is int and is_number(value)), "a whole number or null"
        elif key in _MEASURED:
            fits, expected = value is None or is_number(value), "a finite number or null"
        else:
            fits = value is None or isinstance(value, bool) or is_text(value) or is_number(value)
            expected = "text, a finite number, true, false or null"
        if key == "seeds" or key.endswith(("_spread", "_range")):
            raise UserError(f"{where}: {shown(key)} is a computed column; give it another name")
        if not (fits and is_text(key)):
            raise UserError(f"{where}: {shown(key)} is {shown(value)}; expected {expected}")
    return {key: value for key, value in row.items() if value is not None or key == "seed"}


def grouped(entries: Sequence[ReportEntry]) -> dict[tuple[Any, Any], list[ReportEntry]]:
    """The entries of each system and set, which differ in the seed only, in order of first appearance."""
    groups: dict[tuple[Any, Any], list[ReportEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.row["system"], entry.row.get("set")), []).append(entry)
    return groups


def summarise(entries: Sequence[ReportEntry]) -> list[Record]:
    """One record for each system and set: the mean over seeds of every number, and the 95 % interval of that mean.

    With several seeds, ``KEY_spread`` is the half-width of Student's t interval over them (n - 1 degrees of freedom)
    and ``KEY_range`` their minimum and maximum; text is kept only from a single row. For scored entries,
    ``wer_low`` and ``wer_high`` (of frames ``accuracy_low`` and ``accuracy_high``) bound the mean's bootstrap interval
    over speakers. ``p`` is that of the paired permutation test of errors, summed over seeds, against the first system
    on the same set.
    """
    baselines: dict[Any, list[Score]] = {}
    summaries: list[Record] = []
    for (system, dataset), members in grouped(entries).items():
        summary: dict[str, Any] = {"system": system, "set": dataset, "seeds": len(members)}
        if len(members) == 1:  # text has no mean
            summary |= {key: value for key, value in members[0].row.items() if isinstance(value, str)}
        summary |= _means([item.row for item in members])
        scores = [item.score for item in members if item.score is not None]
        if scores:
            interval = pool(scores).interval
            summary |= (
                {"wer_low": interval.low, "wer_high": interval.high}
                if scores[0].unit == "words"
                else {"accuracy_low": 1 - interval.high, "accuracy_high": 1 - interval.low}
            )
            baseline = baselines.setdefault(dataset, scores)
            if baseline is not scores:
                summary["p"] = _pooled_p(baseline, scores)
        summaries.append(summary)
    return summaries


def pool(scores: Sequence[Score]) -> Score:
    """One score with the counts of all seeds added up: its rate is the mean of theirs; its clusters remain speakers."""
    return dataclasses.replace(scores[0], counts=np.sum([score.counts for score in scores], axis=0))


def _means(rows: Sequence[Record]) -> Record:
    from scipy.special import stdtrit

    means: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row if key != "seed"):
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if not values or len(values) < len(rows):
            continue  # text, or not measured for every seed
        mean = sum(values) / len(values)
        means[key] = int(mean) if mean == int(mean) and all(isinstance(value, int) for value in values) else mean
        if len(values) > 1:
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
            means[f"{key}_range"] = min(values), max(values)
            means[f"{key}_spread"] = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return means


def _pooled_p(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    if first[0].utterances != second[0].utterances:
        return None
    change = pool(second).errors * len(first) - pool(first).errors * len(second)
    return permutation_p(change, first[0].clusters)
