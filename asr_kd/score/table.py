"""Records as a table: aligned for a terminal, Markdown, CSV or JSON."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

FORMATS = ("terminal", "markdown", "csv", "json")


@dataclasses.dataclass(frozen=True)
class Column:
    """A heading and how a record is shown below it; ``show`` returns an empty string where the record has no value."""

    heading: str
    show: Callable[[Record], str]
    left: bool = False  # text is aligned left, numbers right


def render(
    records: Sequence[Record], columns: Sequence[Column], notes: Sequence[str] = (), form: str = "terminal"
) -> str:
    """The table as text, with ``notes`` below it.

    A column that is empty in every record is left out. CSV and JSON contain the records' own values, unrounded; CSV has
    no place for notes.
    """
    if form == "json":
        return json.dumps({"rows": list(records), "notes": list(notes)}, indent=1, ensure_ascii=False) + "\n"
    if form == "csv":
        return _csv(records)
    shown = [(column, [_one_line(column.show(record), form) for record in records]) for column in columns]
    filled = [(column, cells) for column, cells in shown if any(cells)]
    lines = [[column.heading for column, _ in filled], *zip(*(cells for _, cells in filled), strict=True)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(filled))]
    left = [column.left for column, _ in filled]
    padded = [
        [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ]
        for line in lines
    ]
    if form == "markdown":
        rule = [
            ":" + "-" * (width - 1) if to_left else "-" * (width - 1) + ":"
            for width, to_left in zip(widths, left, strict=True)
        ]
        body = [f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]]
        return "\n".join([*body, *([""] if notes else []), *(f"- {note}" for note in notes)]) + "\n"
    rule = ["-" * width for width in widths]
    body = ["  ".join(line).rstrip() for line in [padded[0], rule, *padded[1:]]]
    return "\n".join([*body, *notes]) + "\n"


def _one_line(cell: str, form: str) -> str:
    """A cell without line breaks, and for Markdown without what would end the cell."""
    return " ".join(cell.split()).replace("|", "\\|" if form == "markdown" else "|")


def percent(key: str, digits: int = 2) -> Callable[[Record], str]:
    """Show a fraction as a percentage."""
    return lambda record: "" if record.get(key) is None else f"{100 * record[key]:.{digits}f}"


def percent_range(low: str, high: str, digits: int = 1) -> Callable[[Record], str]:
    """Show two fractions as a range of percentages."""
    return lambda record: (
        "" if record.get(low) is None else f"{100 * record[low]:.{digits}f} to {100 * record[high]:.{digits}f}"
    )


def plain(key: str) -> Callable[[Record], str]:
    """Format a value: whole numbers with thousands separators, other numbers with four significant digits."""

    def show(record: Record) -> str:
        value = record.get(key)
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}"
        if isinstance(value, float):
            return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
        return "" if value is None else str(value)

    return show


def p_value(record: Record) -> str:
    """Show ``p``."""
    value = record.get("p")
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _csv(records: Sequence[Record]) -> str:
    keys = list(dict.fromkeys(key for record in records for key in record))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()
