"""The share of the gap between two systems that a third one closes: (system - low) / (high - low).

With hard targets for 3 % and for 100 % of the data as ``low`` and ``high``, it is the share of the loss that soft
targets for 3 % recover: (57.0 - 44.5) / (58.9 - 44.5) = 87 % of frame accuracy in table 5 of Hinton, Vinyals and
Dean, "Distilling the knowledge in a neural network", 2015. With a baseline and an ensemble, it is the share of the
ensemble's gain that one distilled network keeps.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asr_kd.errors import UserError
from asr_kd.score.bootstrap import LEVEL, rate_interval
from asr_kd.score.entries import ReportEntry, grouped, pool
from asr_kd.score.table import Record
from asr_kd.score.wer import WORDS, Score

UNBOUNDED = "unbounded"
_EVERYWHERE = (-math.inf, math.inf)

Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Recovery:
    """A request: place the other systems of ``table`` between its systems ``low`` (0 %) and ``high`` (100 %)."""

    table: str
    low: str
    high: str


def recoveries(entries: Sequence[ReportEntry], request: Recovery) -> list[Record]:
    """One flat record for each other system of the table, on each set that has both ends.

    - ``KEY_recovered``: the share, a fraction, of the means over seeds; KEY is ``frame_accuracy`` or ``wer``, where all
      three systems have it. None where the ends are equal.
    - ``KEY_interval`` (``ratio_interval``) and ``KEY_interval_by_speaker`` (``speaker_interval``): [low, high],
      ``UNBOUNDED``, or None where nothing varies.
    - ``runs``: the seeds of system, low and high.

    Raises ``UserError`` where the table lacks an end.
    """
    groups = grouped([entry for entry in entries if entry.row["table"] == request.table and "system" in entry.row])
    _check_ends(groups, request)
    found: list[Record] = []
    for (system, dataset), members in groups.items():
        low, high = groups.get((request.low, dataset)), groups.get((request.high, dataset))
        if low and high and system not in (request.low, request.high):
            labels = {**dataclasses.asdict(request), "system": system, "set": dataset}
            found.append({**labels, **_measure((members, low, high))})
    if not found:
        raise UserError(
            f"--recovery {request.low!r} {request.high!r}: the table {request.table!r} has no other system on the set"
            " of these two"
        )
    return found


def ratio_interval(system: Sequence[float], low: Sequence[float], high: Sequence[float]) -> Bounds | None:
    """The 95 % interval of (system - low) / (high - low) of three means, each over independent runs.

    Fieller's ("Some problems in interval estimation", JRSS B 16, 1954): all ratios r at which the t test of
    system - (1 - r) low - r high = 0 does not reject. The variances may differ; the degrees of freedom are those of
    Welch and Satterthwaite at the estimated ratio (Hasler, Vonk and Hothorn, "Assessing non-inferiority of a new
    treatment in a three-arm trial in the presence of heteroscedasticity", Statistics in Medicine 27, 2008).

    The interval is (-inf, inf) unless high - low differs from 0 in Welch's test at the same level: otherwise the data
    do not bound the ratio. An end with one run counts as exact; a system with one run has no interval (None).
    """
    counts = (len(system), len(low), len(high))
    if counts[0] < 2:
        return None
    means = [float(np.mean(values)) for values in (system, low, high)]
    variances = [
        float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0 for values in (system, low, high)
    ]
    gained, whole = means[0] - means[1], means[2] - means[1]
    if abs(whole) <= student((0.0, *variances[1:]), counts) * math.sqrt(variances[1] + variances[2]):
        return _EVERYWHERE
    ratio = gained / whole
    terms = (variances[0], (1 - ratio) ** 2 * variances[1], ratio**2 * variances[2])
    square = student(terms, counts) ** 2
    # whole2 r^2 - 2 cross r + gained2 <= 0
    whole2 = whole**2 - square * (variances[1] + variances[2])
    cross = gained * whole - square * variances[1]
    gained2 = gained**2 - square * (variances[0] + variances[1])
    if whole2 <= 0:
        return _EVERYWHERE
    root = math.sqrt(max(cross**2 - whole2 * gained2, 0.0))
    return (cross - root) / whole2, (cross + root) / whole2


def speaker_interval(system: Sequence[Score], low: Sequence[Score], high: Sequence[Score]) -> Bounds | None:
    """The 95 % interval of the ratio of errors, pooled over runs, under resampling of speakers (``rate_interval``).

    The three systems are resampled together. It is (-inf, inf) where the interval of high - low contains 0, and None
    where the systems were not scored on the same utterances.
    """
    if len({scores[0].utterances for scores in (system, low, high)}) > 1:
        return None
    runs = math.lcm(len(system), len(low), len(high))
    errors = [pool(scores).errors * (runs // len(scores)) for scores in (system, low, high)]
    gained, whole = errors[0] - errors[1], errors[2] - errors[1]
    if whole.sum() < 0:  # the usual case: high has fewer errors
        gained, whole = -gained, -whole
    clusters = system[0].clusters
    if rate_interval(whole, system[0].counts[:, WORDS], clusters).low <= 0:
        return _EVERYWHERE
    interval = rate_interval(gained, whole, clusters)
    return interval.low, interval.high


def _check_ends(groups: Mapping[tuple[Any, Any], object], request: Recovery) -> None:
    names = list(dict.fromkeys(system for system, _ in groups))
    for end in (request.low, request.high):
        if end not in names:
            has = f"its systems are {', '.join(map(repr, names))}" if names else "it has no systems"
            raise UserError(f"--recovery: no system {end!r} in the table {request.table!r}; {has}")
    if request.low == request.high:
        raise UserError(f"--recovery: {request.low!r} is both LOW and HIGH; name two systems")


def _measure(groups: tuple[list[ReportEntry], list[ReportEntry], list[ReportEntry]]) -> Record:
    measured: dict[str, Any] = {"runs": [len(group) for group in groups]}
    for key in ("frame_accuracy", "wer"):
        system, low, high = ([entry.row[key] for entry in group if key in entry.row] for group in groups)
        if [len(system), len(low), len(high)] != measured["runs"]:
            continue  # not measured for every seed
        start, end = np.mean(low), np.mean(high)
        measured[f"{key}_recovered"] = None if start == end else float((np.mean(system) - start) / (end - start))
        measured[f"{key}_interval"] = _as_json(ratio_interval(system, low, high))
    words = [[entry.score for entry in group if entry.score and entry.score.unit == "words"] for group in groups]
    frames = [[entry.frames for entry in group if entry.frames] for group in groups]
    for key, scores in (("wer", words), ("frame_accuracy", frames)):
        if [len(scored) for scored in scores] == measured["runs"]:
            measured[f"{key}_interval_by_speaker"] = _as_json(speaker_interval(*scores))
    return measured


def student(terms: Sequence[float], counts: Sequence[int]) -> float:
    """The two-sided quantile of Student's t with Welch's and Satterthwaite's degrees of freedom; 0 without variance.

    ``terms`` are the parts of a variance, each estimated from one of ``counts`` runs.
    """
    from scipy.special import stdtrit

    if not any(terms):
        return 0.0
    freedom = sum(terms) ** 2 / sum(term**2 / (count - 1) for term, count in zip(terms, counts, strict=True) if term)
    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def _as_json(bounds: Bounds | None) -> list[float] | str | None:
    """Bounds in a form that JSON can hold."""
    return UNBOUNDED if bounds == _EVERYWHERE else bounds and list(bounds)
