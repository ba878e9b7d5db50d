"""What a recipe measured, as RESULTS.md to read and results.json to compute with.

A row is one measurement: ``table``, ``system``, ``seed``, ``set`` and what was measured (``wer``, ``errors``,
``words``, ``frame_accuracy``, ...; rates are fractions); or, of a benchmark, ``table``, ``name``, ``value``, ``unit``,
``against``, ``bar``, ``met``. Rows that differ in the seed only become one line of RESULTS.md.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import read_text, write_text
from asr_kd.progress import duration
from asr_kd.score.bootstrap import permutation_p
from asr_kd.score.compare import compare, describe, records, tuning_notes
from asr_kd.score.files import TUNING
from asr_kd.score.table import Column, Record, p_value, percent_range, plain, render
from asr_kd.score.wer import Score


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row, and the score it is from where there is one."""

    row: Record
    score: Score | None = None


def scored_entries(table: str, system: str, folders: Sequence[str | Path]) -> list[Entry]:
    """The rows of one system's decode folders, one for each seed.

    The set is the folder's name without ``decode_``; the seed is N where the path has ``seedN``, else None.
    """
    entries = []
    for folder in map(Path, folders):
        alone = compare([folder])
        seeds = re.findall(r"seed[_-]?(\d+)", str(folder))
        labels: dict[str, Any] = {
            "table": table,
            "system": system,
            "seed": int(seeds[-1]) if seeds else None,
            "set": folder.name.removeprefix("decode_"),
        }
        entries.append(Entry(labels | records(alone)[0] | labels, alone.systems[0].score))
    return entries


def read_rows(path: str | Path, table: str) -> list[Entry]:
    """Rows from a file of JSON objects, one a line; ``table`` where a row names none."""
    entries = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON: {error}") from None
        if not isinstance(row, dict) or not {"system", "name"} & set(row):
            raise UserError(f"{path}:{number}: expected an object with 'system' or 'name'; found {line[:80]}")
        entries.append(Entry({"table": table, **row}))
    return entries


def write_report(
    folder: str | Path, title: str, entries: Sequence[Entry], provenance: Record, remarks: Sequence[str] = ()
) -> str:
    """Write ``results.json`` and ``RESULTS.md`` into ``folder``; returns the text of the latter."""
    rows = [entry.row for entry in entries]
    seeds = sorted({row["seed"] for row in rows if row.get("seed") is not None})
    provenance = {**provenance, "seeds": seeds}
    content = {"rows": rows, "provenance": provenance}
    write_text(Path(folder) / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    parts = [f"# {title}\n", *(f"{remark}\n" for remark in remarks)]
    for table in dict.fromkeys(row["table"] for row in rows):
        chosen = [entry for entry in entries if entry.row["table"] == table]
        parts += [f"## {table}\n", _bench_table(chosen) if "name" in chosen[0].row else _system_table(chosen)]
    parts.append(_provenance_text(provenance))
    text = "\n".join(parts)
    write_text(Path(folder) / "RESULTS.md", text)
    return text


def summarise(entries: Sequence[Entry]) -> list[Record]:
    """One record for each system and set: the mean over seeds of every number, and the 95 % interval of that mean.

    ``KEY_spread`` is the half-width of Student's t interval over seeds (n - 1 degrees of freedom), where there are
    several. Of scored entries, ``wer_low`` and ``wer_high`` bound the mean's bootstrap interval over speakers, and
    ``p`` is the paired permutation test of errors, summed over seeds, against the first system on the same set.
    """
    groups: dict[tuple[Any, Any], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.row["system"], entry.row.get("set")), []).append(entry)
    baselines: dict[Any, list[Score]] = {}
    summaries: list[Record] = []
    for (system, dataset), members in groups.items():
        summary: dict[str, Any] = {"system": system, "set": dataset, "seeds": len(members)}
        summary |= _means([item.row for item in members])
        scores = [item.score for item in members if item.score is not None]
        if scores:
            interval = _pool(scores).interval
            summary |= {"wer_low": interval.low, "wer_high": interval.high}
            baseline = baselines.setdefault(dataset, scores)
            if baseline is not scores:
                summary["p"] = _pooled_p(baseline, scores)
        summaries.append(summary)
    return summaries


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
            means[f"{key}_spread"] = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return means


def _pool(scores: Sequence[Score]) -> Score:
    """One score with the counts of all seeds added up: its rate is the mean of theirs, its clusters still speakers."""
    return dataclasses.replace(scores[0], counts=np.sum([score.counts for score in scores], axis=0))


def _pooled_p(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    if first[0].utterances != second[0].utterances:
        return None
    change = _pool(second).errors * len(first) - _pool(first).errors * len(second)
    return permutation_p(change, first[0].clusters)


def _spread(key: str, digits: int) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        if record.get(key) is None:
            return ""
        half = record.get(f"{key}_spread")
        return f"{100 * record[key]:.{digits}f}" + ("" if half is None else f" ± {100 * half:.{digits}f}")

    return show


_SYSTEM = (
    Column("system", plain("system"), left=True),
    Column("set", plain("set"), left=True),
    Column("seeds", plain("seeds")),
    Column("WER %", _spread("wer", 2)),
    Column("95 % CI", percent_range("wer_low", "wer_high")),
    Column("p", p_value),
    Column("sub", plain("substitutions")),
    Column("del", plain("deletions")),
    Column("ins", plain("insertions")),
    Column("SER %", _spread("sentence_error_rate", 1)),
    Column("train frame acc. %", _spread("train_frame_accuracy", 2)),
    Column("frame acc. %", _spread("frame_accuracy", 2)),
    Column("parameters", plain("parameters")),
    Column("RTF", plain("real_time_factor")),
)
_NOT_SHOWN = {
    "table", "system", "set", "seed", "seeds", "wer", "wer_low", "wer_high", "p", "substitutions", "deletions",
    "insertions", "errors", "words", "missing", "sentence_error_rate", "train_frame_accuracy", "frame_accuracy",
    "parameters", "real_time_factor", "normaliser", "jiwer", *TUNING,
}  # fmt: skip
_BENCH = tuple(
    Column(key, plain(key), left=key in ("name", "unit", "against", "bar"))
    for key in ("name", "value", "unit", "against", "bar", "met")
)


def _system_table(entries: Sequence[Entry]) -> str:
    summaries = summarise(entries)
    further = dict.fromkeys(key for entry in entries for key in entry.row if key not in _NOT_SHOWN)
    columns = (*_SYSTEM, *(Column(key.replace("_", " "), plain(key)) for key in further))
    return render(summaries, columns, _notes(entries), "markdown")


def _bench_table(entries: Sequence[Entry]) -> str:
    return render([entry.row for entry in entries], _BENCH, form="markdown")


def _notes(entries: Sequence[Entry]) -> list[str]:
    scores = {entry.row["set"]: entry.score for entry in entries if entry.score is not None}
    notes = [f"{name}: {describe(score)}" for name, score in scores.items()]
    if any("p" in summary for summary in summarise(entries)):
        notes.append("p: two-sided paired permutation test by speaker against the first system of the same set.")
    if any(summary["seeds"] > 1 for summary in summarise(entries)):
        notes.append("±: 95 % interval of the mean over seeds (Student's t), the test set held fixed.")
    for entry in entries:
        if entry.score is not None and entry.score.missing:
            notes.append(f"{_name(entry)}: {len(entry.score.missing)} utterances without hypothesis: all deletions.")
    return notes + tuning_notes([(_name(entry), entry.row) for entry in entries if entry.score is not None])


def _name(entry: Entry) -> str:
    seed = entry.row.get("seed")
    return f"{entry.row['system']}" + ("" if seed is None else f" (seed {seed})")


def _provenance_text(provenance: Record) -> str:
    machine = provenance["machine"]
    commit = provenance["commit"] or "not a git checkout"
    lines = [
        f"commit {commit}{', with local changes' if provenance['modified'] else ''}; {provenance['date']}",
        ", ".join(f"{name} {number}" for name, number in provenance["versions"].items()),
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''}; {machine['system']}",
    ]
    if provenance["seeds"]:
        lines.append(f"seeds {', '.join(map(str, provenance['seeds']))}")
    if provenance["seconds"] is not None:
        lines.append(f"wall time {duration(provenance['seconds'])}")
    return "## Where the figures come from\n\n" + "".join(f"- {line}\n" for line in lines)
