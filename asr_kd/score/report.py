"""A recipe's measurements as RESULTS.md, to read, and results.json, to compute with.

Rows that differ only in the seed become one line of RESULTS.md; see ``entries``.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from asr_kd.errors import UserError
from asr_kd.files import write_text
from asr_kd.progress import duration
from asr_kd.score.compare_systems import describe, real_time_notes, tuning_notes, unicode_note
from asr_kd.score.difference import Difference, difference_table, differences
from asr_kd.score.entries import ReportEntry, summarise
from asr_kd.score.recovery import UNBOUNDED, Recovery, recoveries
from asr_kd.score.score_files import TUNING, is_text
from asr_kd.score.table import Column, Record, p_value, percent, percent_range, plain, render


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of the report: its file, in or below the report's folder, and its caption."""

    file: Path
    caption: str


def write_report(
    folder: str | Path,
    title: str,
    parts: Sequence[ReportEntry | Recovery | Difference | Picture],
    provenance: Record,
    remarks: Sequence[str] = (),
) -> str:
    """Write ``results.json`` and ``RESULTS.md`` into ``folder``; returns the text of the latter.

    The page follows the order of ``parts``: a table stands where its first entry is, followed by its recoveries and
    differences. Raises ``UserError`` for a picture that is missing or outside ``folder``, a table that mixes systems
    and benchmarks, and as ``recoveries`` and ``differences`` do.
    """
    entries = [part for part in parts if isinstance(part, ReportEntry)]
    recovered = {part: recoveries(entries, part) for part in parts if isinstance(part, Recovery)}
    differing = {part: differences(entries, part) for part in parts if isinstance(part, Difference)}
    below = [(request.table, _recovery_table(request, found)) for request, found in recovered.items()]
    below += [(request.table, difference_table(request, found)) for request, found in differing.items()]
    rows = [entry.row for entry in entries]
    seeds = sorted({row["seed"] for row in rows if row.get("seed") is not None})
    provenance = {**provenance, "seeds": seeds}
    blocks = [f"# {title}\n", *(f"{remark}\n" for remark in remarks)]
    tables = set()
    for part in parts:
        if isinstance(part, Picture):
            blocks.append(_picture(part, Path(folder)))
        elif isinstance(part, ReportEntry) and (table := part.row["table"]) not in tables:
            tables.add(table)
            blocks += _table([entry for entry in entries if entry.row["table"] == table])
            blocks += [text for name, text in below if name == table]
    text = "\n".join([*blocks, _provenance_text(provenance)])
    content = {
        "rows": rows,
        "recovery": [*itertools.chain(*recovered.values())],
        "differences": [*itertools.chain(*differing.values())],
        "provenance": provenance,
    }
    write_text(Path(folder) / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(Path(folder) / "RESULTS.md", text)
    return text


def _table(entries: Sequence[ReportEntry]) -> list[str]:
    """The heading and the table."""
    title = entries[0].row["table"]
    benchmarks = ["system" not in entry.row for entry in entries]
    if any(benchmarks) and not all(benchmarks):
        raise UserError(
            f"the table {title!r} mixes rows of systems and of benchmarks ('name'); give each its own --table"
        )
    return [f"## {title}\n", _bench_table(entries) if benchmarks[0] else _system_table(entries)]


def _picture(picture: Picture, folder: Path) -> str:
    """The figure and its caption in Markdown; its path is relative to ``folder``, so both can be moved together."""
    if not picture.file.is_file():
        raise UserError(f"{picture.file}: no such picture; make it with asr-kd plot")
    file, folder = picture.file.resolve(), folder.resolve()
    if not is_text(str(file)):
        raise UserError(f"{str(picture.file)!r}: not a UTF-8 name, which RESULTS.md cannot hold; rename the picture")
    if not file.is_relative_to(folder):
        raise UserError(f"{picture.file}: not in or below {folder}, the folder of RESULTS.md; put the picture there")
    return f"![{file.stem}]({quote(file.relative_to(folder).as_posix())})\n\n{picture.caption}\n"


def _spread(key: str, digits: int) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        if record.get(key) is None:
            return ""
        half = record.get(f"{key}_spread")
        return f"{100 * record[key]:.{digits}f}" + ("" if half is None else f" ± {100 * half:.{digits}f}")

    return show


def _count_and_range(key: str) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        if record.get(key) is None:
            return ""
        bounds = record.get(f"{key}_range")
        return f"{record[key]:,.{0 if bounds is None else 1}f}" + (
            "" if bounds is None else f" ({bounds[0]:,} to {bounds[1]:,})"
        )

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
    Column("95 % CI", percent_range("accuracy_low", "accuracy_high")),
    Column("frame errors", _count_and_range("frame_errors")),
    Column("parameters", plain("parameters")),
    Column("RTF", plain("real_time_factor")),
)
_NOT_SHOWN = {
    "table", "system", "set", "seed", "seeds", "wer", "wer_low", "wer_high", "p", "substitutions", "deletions",
    "insertions", "errors", "words", "missing", "sentence_error_rate", "train_frame_accuracy", "frame_accuracy",
    "accuracy_low", "accuracy_high", "frame_errors", "parameters", "real_time_factor", "real_time_factor_from",
    "normaliser", "jiwer", *TUNING,
}  # fmt: skip
_COLUMN_NOTES = {
    "train_frame_accuracy": "train frame acc.: measured on each system's own training data; not comparable across"
    " rows.",
    "p_of_gain": "gain: points of frame accuracy; its 95 % CI is from a bootstrap and its p from a paired permutation"
    " test, both over speakers, or over utterances where the speakers are unknown.",
}
_BENCH = tuple(
    Column("target" if key == "bar" else key, plain(key), left=key in ("name", "unit", "against", "bar"))
    for key in ("name", "value", "unit", "against", "bar", "met")
)


def _bounds(key: str) -> Callable[[Record], str]:
    def show(record: Record) -> str:
        bounds = record.get(key)
        return bounds or "" if bounds in (None, UNBOUNDED) else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"

    return show


_RECOVERY = (
    Column("system", plain("system"), left=True),
    Column("set", plain("set"), left=True),
    Column("frame acc., % of gap closed", percent("frame_accuracy_recovered", 1)),
    Column("frame acc., 95 % CI, seeds", _bounds("frame_accuracy_interval")),
    Column("frame acc., 95 % CI, speakers", _bounds("frame_accuracy_interval_by_speaker")),
    Column("WER, % of gap closed", percent("wer_recovered", 1)),
    Column("WER, 95 % CI, seeds", _bounds("wer_interval")),
    Column("WER, 95 % CI, speakers", _bounds("wer_interval_by_speaker")),
)


def _system_table(entries: Sequence[ReportEntry]) -> str:
    summaries = summarise(entries)
    further = dict.fromkeys(key for entry in entries for key in entry.row if key not in _NOT_SHOWN)
    columns = (*_SYSTEM, *(Column(key.replace("_", " "), plain(key)) for key in further))
    return render(summaries, columns, _notes(entries), "markdown")


def _bench_table(entries: Sequence[ReportEntry]) -> str:
    return render([entry.row for entry in entries], _BENCH, form="markdown")


def _recovery_table(request: Recovery, found: Sequence[Record]) -> str:
    title = f"### Share of the gap from “{request.low}” to “{request.high}” that is closed\n"
    return f"{title}\n{render(found, _RECOVERY, _recovery_notes(request, found), 'markdown')}"


def _recovery_notes(request: Recovery, found: Sequence[Record]) -> list[str]:
    low, high = f"“{request.low}”", f"“{request.high}”"
    notes = [f"gap closed: (system - {low}) / ({high} - {low}), of means over seeds."]
    intervals = [record.get(f"{key}_interval") for record in found for key in ("frame_accuracy", "wer")]
    if any(intervals):
        runs = [min(record["runs"][end] for record in found) for end in (1, 2)]
        exact = [end for end, count in zip((low, high), runs, strict=True) if count == 1]
        notes.append(
            "CI, seeds: Fieller's interval, for systems with several runs, with Welch-Satterthwaite degrees of freedom"
            " and the test set held fixed"
            + (f". Systems with a single run are taken as exact: {' and '.join(exact)}." if exact else ".")
        )
    by_speaker = [record.get(f"{key}_interval_by_speaker") for record in found for key in ("frame_accuracy", "wer")]
    if any(by_speaker):
        notes.append(
            "CI, speakers: bootstrap over speakers of the errors pooled over seeds, with the seeds held fixed."
        )
    for bounds, over in ((intervals, "seeds"), (by_speaker, "speakers")):
        if UNBOUNDED in bounds:
            notes.append(
                f"{UNBOUNDED}, {over}: {high} does not differ significantly from {low} over {over}, so the data do not"
                " bound the ratio."
            )
    return notes


def _notes(entries: Sequence[ReportEntry]) -> list[str]:
    scores = {entry.row["set"]: entry.score for entry in entries if entry.score is not None}
    notes = [f"{name}: {describe(score)}" for name, score in scores.items()]
    if any("p" in summary for summary in summarise(entries)):
        units = " or ".join(sorted({score.cluster_unit for score in scores.values()}))
        notes.append(
            f"p: two-sided paired permutation test by {units} against the first system on the same set, not corrected"
            " for multiple comparisons."
        )
    if any(summary["seeds"] > 1 for summary in summarise(entries)):
        notes.append("±: 95 % confidence interval of the mean over seeds (Student's t), with the test set held fixed.")
    if any(summary.get("frame_errors_range") for summary in summarise(entries)):
        notes.append("frame errors: mean over seeds (lowest to highest).")
    for column, note in _COLUMN_NOTES.items():
        if any(entry.row.get(column) is not None for entry in entries):
            notes.append(note)
    for entry in entries:
        if entry.score is not None and entry.score.missing:
            count = len(entry.score.missing)
            notes.append(f"{_name(entry)}: {count} utterances have no hypothesis; all their words count as deletions.")
        if entry.score is not None and entry.score.unit == "words":
            notes += unicode_note(f"{_name(entry)}: ", entry.score)
    decoded = [entry for entry in entries if entry.score is not None and entry.score.unit == "words"]
    timed = real_time_notes([(entry.row["system"], entry.row) for entry in entries])
    return notes + timed + tuning_notes(_searches(decoded))


def _searches(decoded: Sequence[ReportEntry]) -> list[tuple[str, Record]]:
    """Names and rows for ``tuning_notes``: one for a system whose seeds all have the same search options."""
    found: list[tuple[str, Record]] = []
    for system, group in itertools.groupby(decoded, key=lambda entry: entry.row["system"]):
        entries = list(group)
        same = len({tuple(entry.row.get(key) for key in TUNING) for entry in entries}) == 1
        found += [(system, entries[0].row)] if same else [(_name(entry), entry.row) for entry in entries]
    return found


def _name(entry: ReportEntry) -> str:
    seed = entry.row.get("seed")
    return f"{entry.row['system']}" + ("" if seed is None else f" (seed {seed})")


def _provenance_text(provenance: Record) -> str:
    machine = provenance["machine"]
    commit = provenance["commit"] or "not a git checkout"
    lines = [
        f"commit {commit}{', with local changes' if provenance['modified'] else ''}; {provenance['date']}",
        *(f"{what}: commit {commit}" for commit, what in provenance["made_at"].items()),
        ", ".join(f"{name} {number}" for name, number in provenance["versions"].items()),
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''}; {machine['system']}",
    ]
    if provenance["seeds"]:
        lines.append(f"seeds {', '.join(map(str, provenance['seeds']))}")
    if provenance["seconds"] is not None:
        lines.append(f"wall time {duration(provenance['seconds'])}")
    return "## Where the numbers come from\n\n" + "".join(f"- {line}\n" for line in lines)
