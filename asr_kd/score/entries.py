"""What a recipe measured as rows, and their means over seeds.

A row is one measurement: ``table``, ``system``, ``seed``, ``set`` and what was measured (``wer``, ``errors``,
``words``, ``frame_accuracy``, ...; rates are fractions); or, of a benchmark, ``table``, ``name``, ``value``, ``unit``,
``against``, ``bar``, ``met``.
"""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import read_lines
from asr_kd.score.bootstrap import permutation_p
from asr_kd.score.compare_systems import compare, records
from asr_kd.score.score_files import FILES, load_score
from asr_kd.score.table import Record
from asr_kd.score.wer import Score


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row, the score it is from where there is one, and that of its frames where it is of words."""

    row: Record
    score: Score | None = None
    frames: Score | None = None


def scored_entries(table: str, system: str, folders: Sequence[str | Path]) -> list[Entry]:
    """The rows of one system's decode folders, one for each seed.

    The set is the folder's name without ``decode_`` or ``frames_``; the seed is N where the path has ``seedN``, else
    None.
    """
    entries = []
    for folder in map(Path, folders):
        alone = compare([folder])
        seeds = re.findall(r"seed[_-]?(\d+)", str(folder))
        labels: dict[str, Any] = {
            "table": table,
            "system": system,
            "seed": int(seeds[-1]) if seeds else None,
            "set": folder.name.removeprefix("decode_").removeprefix("frames_"),
        }
        beside = folder / FILES["frames"]
        frames = load_score(beside) if beside.is_file() else None
        entries.append(Entry(labels | records(alone)[0] | labels, alone.systems[0].score, frames))
    return entries


def read_rows(path: str | Path, table: str) -> list[Entry]:
    """Rows from a file of JSON objects, one a line; ``table`` where a row names none."""
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON: {error}") from None
        if not isinstance(row, dict) or not {"system", "name"} & set(row):
            raise UserError(f"{path}:{number}: expected an object with 'system' or 'name'; found {line[:80]}")
        entries.append(Entry({"table": table, **row}))
    return entries


def grouped(entries: Sequence[Entry]) -> dict[tuple[Any, Any], list[Entry]]:
    """The entries of each system and set, which differ in the seed only, in the order in which they first appear."""
    groups: dict[tuple[Any, Any], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.row["system"], entry.row.get("set")), []).append(entry)
    return groups


def summarise(entries: Sequence[Entry]) -> list[Record]:
    """One record for each system and set: the mean over seeds of every number, and the 95 % interval of that mean;
    of a single row its words too.

    ``KEY_spread`` is the half-width of Student's t interval over seeds (n - 1 degrees of freedom), where there are
    several, and ``KEY_range`` their least and greatest. Of scored entries, ``wer_low`` and ``wer_high`` (of frames
    ``accuracy_low`` and ``accuracy_high``) bound the mean's bootstrap interval over speakers, and ``p`` is the paired
    permutation test of errors, summed over seeds, against the first system on the same set.
    """
    baselines: dict[Any, list[Score]] = {}
    summaries: list[Record] = []
    for (system, dataset), members in grouped(entries).items():
        summary: dict[str, Any] = {"system": system, "set": dataset, "seeds": len(members)}
        if len(members) == 1:  # the words of several have no mean
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
    """One score with the counts of all seeds added up: its rate is the mean of theirs, its clusters still speakers."""
    return dataclasses.replace(scores[0], counts=np.sum([score.counts for score in scores], axis=0))


def _means(rows: Sequence[Record]) -> Record:
    from scipy.special import stdtrit

    means: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row if key != "seed"):
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if not values or len(values) < len(rows):
            continue  # words, or not measured for every seed
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
