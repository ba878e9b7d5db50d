"""Differences of the systems of a table from a base system, with intervals over seeds and over speakers."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from asr_kd.errors import UserError
from asr_kd.score.bootstrap import permutation_p, rate_interval
from asr_kd.score.entries import ReportEntry, grouped, pool
from asr_kd.score.recovery import Bounds, student
from asr_kd.score.table import Column, Record, p_value, percent, percent_range, plain, render
from asr_kd.score.wer import WORDS, Score


@dataclasses.dataclass(frozen=True)
class Difference:
    """A request: subtract the system ``base`` from the other systems of ``table``."""

    table: str
    base: str


def differences(entries: Sequence[ReportEntry], request: Difference) -> list[Record]:
    """One flat record for each other system of the table, on each set that ``base`` has too.

    KEY is ``frame_accuracy`` or ``wer``, where both systems have it.

    - ``KEY_change``: the difference of the means over seeds, a fraction.
    - ``KEY_low``, ``KEY_high``: ``welch_interval``.
    - ``KEY_low_by_speaker``, ``KEY_high_by_speaker``, ``KEY_p``: a bootstrap over speakers and a paired permutation
      test of the errors pooled over seeds.

    Raises ``UserError`` where the table lacks ``base``, or has no other system on the same set.
    """
    groups = grouped([entry for entry in entries if entry.row["table"] == request.table and "system" in entry.row])
    found: list[Record] = [
        {"table": request.table, "base": request.base, "system": system, "set": dataset, **_measure(members, base)}
        for (system, dataset), members in groups.items()
        if system != request.base and (base := groups.get((request.base, dataset)))
    ]
    if not found:
        names = ", ".join(dict.fromkeys(repr(system) for system, _ in groups))
        raise UserError(
            f"--difference {request.base!r}: the table {request.table!r} has {names or 'no systems'}; expected this"
            " system and another on the same set"
        )
    return found


def welch_interval(system: Sequence[float], base: Sequence[float]) -> Bounds | None:
    """The 95 % interval of the difference of two means, each over independent runs; the variances may differ.

    Welch's ("The generalization of 'Student's' problem", Biometrika 34, 1947). A single run counts as exact; None where
    both systems have one.
    """
    counts = len(system), len(base)
    if max(counts) < 2:
        return None
    terms = [float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0 for values in (system, base)]
    change, half = float(np.mean(system) - np.mean(base)), student(terms, counts) * math.sqrt(sum(terms))
    return change - half, change + half


def _measure(members: Sequence[ReportEntry], base: Sequence[ReportEntry]) -> Record:
    measured: dict[str, Any] = {}
    for key in ("frame_accuracy", "wer"):
        here, there = ([entry.row[key] for entry in group if key in entry.row] for group in (members, base))
        if (len(here), len(there)) != (len(members), len(base)):
            continue  # not measured for every seed
        measured[f"{key}_change"] = float(np.mean(here) - np.mean(there))
        if bounds := welch_interval(here, there):
            measured[f"{key}_low"], measured[f"{key}_high"] = bounds
        scores = [[entry.frames if key == "frame_accuracy" else entry.score for entry in g] for g in (members, base)]
        known = [[score for score in group if score is not None] for group in scores]
        if [len(group) for group in known] == [len(members), len(base)]:
            measured |= _by_speaker(key, *known)
    return measured


def _by_speaker(key: str, system: Sequence[Score], base: Sequence[Score]) -> Record:
    if system[0].utterances != base[0].utterances:
        return {}
    runs = math.lcm(len(system), len(base))
    here, there = (pool(scores).errors * (runs // len(scores)) for scores in (system, base))
    change, clusters = here - there, system[0].clusters
    interval = rate_interval(change, runs * system[0].counts[:, WORDS], clusters)
    bounds = (interval.low, interval.high) if key == "wer" else (-interval.high, -interval.low)
    return {
        f"{key}_low_by_speaker": bounds[0],
        f"{key}_high_by_speaker": bounds[1],
        f"{key}_p": permutation_p(change, clusters),
    }


def difference_table(request: Difference, found: Sequence[Record]) -> str:
    """Heading, table and notes in Markdown."""
    columns = [Column("system", plain("system"), left=True), Column("set", plain("set"), left=True)]
    for key, name in (("frame_accuracy", "frame acc."), ("wer", "WER")):
        columns += [
            Column(f"{name}, points", percent(f"{key}_change")),
            Column(f"{name}, 95 % CI, seeds", percent_range(f"{key}_low", f"{key}_high", 2)),
            Column(f"{name}, 95 % CI, speakers", percent_range(f"{key}_low_by_speaker", f"{key}_high_by_speaker", 2)),
            Column(f"{name}, p", _p(f"{key}_p")),
        ]
    over_seeds = "CI, seeds: Welch's interval, with the test set held fixed; a system with one run is taken as exact."
    notes = [
        f"points: percentage points, system - {request.base}, of means over seeds.",
        *([over_seeds] if any(f"{key}_low" in record for record in found for key in ("frame_accuracy", "wer")) else []),
        "CI, speakers, and p: bootstrap over speakers and two-sided paired permutation test by speaker, of the errors"
        " pooled over seeds, with the seeds held fixed; not corrected for multiple comparisons.",
    ]
    return f"### Differences from {request.base}\n\n{render(found, columns, notes, 'markdown')}"


def _p(key: str) -> Callable[[Record], str]:
    return lambda record: p_value({"p": record.get(key)})
