"""Several systems on the same set, each tested against the first."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.errors import UserError, counted
from asr_kd.score.bootstrap import Interval, least_p, permutation_p, rate_interval
from asr_kd.score.score_files import TUNING, read_decode_summary, score_in
from asr_kd.score.table import Column, Record, p_value, percent, percent_range, plain
from asr_kd.score.wer import WORDS, Score


@dataclasses.dataclass(frozen=True)
class ScoredSystem:
    """One scored system.

    - ``decoding``: what its ``decode.json`` says (``read_decode_summary``).
    - ``difference`` (of the word error rate) and ``p``: against the first system; None for the first.
    """

    name: str
    score: Score
    decoding: dict[str, Any]
    difference: Interval | None = None
    p: float | None = None


@dataclasses.dataclass(frozen=True)
class SystemComparison:
    """Systems scored on the same words; the others are compared with ``systems[0]``."""

    systems: tuple[ScoredSystem, ...]


_ORIGINS = {"features": "from stored features", "audio": "from audio"}  # of real_time_factor_from
COLUMNS = (
    Column("system", plain("system"), left=True),
    Column("WER %", percent("wer")),
    Column("95 % CI", percent_range("wer_low", "wer_high")),
    Column("sub", plain("substitutions")),
    Column("del", plain("deletions")),
    Column("ins", plain("insertions")),
    Column("SER %", percent("sentence_error_rate", 1)),
    Column("change, 95 % CI", percent_range("difference_low", "difference_high")),
    Column("p", p_value),
    Column("train frame acc. %", percent("train_frame_accuracy")),
    Column("frame acc. %", percent("frame_accuracy")),
    Column("95 % CI", percent_range("accuracy_low", "accuracy_high")),
    Column("frame errors", plain("frame_errors")),
    Column("parameters", plain("parameters")),
    Column("RTF", plain("real_time_factor")),
)


def compare(folders: Sequence[str | Path]) -> SystemComparison:
    """Compare decode folders with the first of them.

    Each has the ``wer.json`` of ``asr-kd score``, or each the ``frames.json`` of ``asr-kd train --evaluate``. Raises
    ``UserError`` where the folders were not scored on the same utterances, words and normaliser.
    """
    scores = [score_in(folder) for folder in folders]
    first = scores[0]
    systems: list[ScoredSystem] = []
    for folder, name, score in zip(folders, _names([Path(folder) for folder in folders]), scores, strict=True):
        _check_same(folders[0], first, folder, score)
        system = ScoredSystem(name, score, read_decode_summary(folder))
        if systems:
            change = score.errors - first.errors
            interval = rate_interval(change, first.counts[:, WORDS], first.clusters)
            system = dataclasses.replace(system, difference=interval, p=permutation_p(change, first.clusters))
        systems.append(system)
    return SystemComparison(tuple(systems))


def records(comparison: SystemComparison) -> list[dict[str, Any]]:
    """One flat record for each system, rates as fractions; ``COLUMNS`` shows them."""
    return [_record(system) for system in comparison.systems]


def notes(comparison: SystemComparison) -> list[str]:
    """The footnotes of the table."""
    first = comparison.systems[0]
    score, count = first.score, first.score.interval.clusters
    lines = [describe(score)]
    if len(comparison.systems) > 1:
        lines.append(
            f"Change and p against {first.name}: paired bootstrap and two-sided paired permutation test over"
            f" {count} {score.cluster_unit}s (smallest possible p: {least_p(count):.2g}); not corrected for"
            " multiple comparisons."
        )
    if score.unit == "frames":
        return lines
    for system in comparison.systems:
        if system.score.missing:
            missing, total = len(system.score.missing), len(score.utterances)
            lines.append(
                f"{system.name}: {missing} of {total} utterances have no hypothesis; their words count as deletions."
            )
        lines += unicode_note(f"{system.name}: ", system.score)
    named = [(system.name, system.decoding) for system in comparison.systems]
    return [*lines, *real_time_notes(named), *tuning_notes(named)]


def describe(score: Score) -> str:
    """The footnote of every error rate: its words, their normaliser, and the method of its interval."""
    spread = f"95 % CI: bootstrap over {score.interval.clusters:,} {score.cluster_unit}s."
    if score.unit == "frames":
        return (
            f"errors in {counted(score.total.words, 'frame')} of {counted(len(score.utterances), 'utterance')};"
            f" {spread}"
        )
    return (
        f"WER over {counted(score.total.words, 'word')} of {counted(len(score.utterances), 'utterance')}; normaliser:"
        f" {score.normaliser}; jiwer {score.jiwer}; {spread}"
    )


def unicode_note(prefix: str, score: Score) -> list[str]:
    """A warning where substitutions are only another Unicode form of the same word; ``prefix`` opens it."""
    if not (count := score.unicode_form_only):
        return []
    return [
        f"{prefix}warning: {count:,} of {score.total.substitutions:,} substitutions differ only in Unicode form (NFC"
        " and NFD); convert both sides to one form, or score with --normaliser upper-strip-punct."
    ]


def real_time_notes(systems: Sequence[tuple[str, Record]]) -> list[str]:
    """What the real-time factor of each named system measures: from audio, or from stored features."""
    origins: dict[str, list[str]] = {}
    for name, record in systems:
        if record.get("real_time_factor") is not None:
            origins.setdefault(_ORIGINS.get(str(record.get("real_time_factor_from")), ""), []).append(name)
    if not origins:
        return []
    meaning = "CPU time of decoding divided by the duration of the audio"
    if len(origins) == 1:
        return [f"RTF{''.join(f', {origin}' for origin in origins if origin)}: {meaning}."]
    parts = [
        f"{origin or 'input not recorded'}: {', '.join(dict.fromkeys(names))}" for origin, names in origins.items()
    ]
    return [f"RTF: {meaning}; {'; '.join(parts)}."]


def tuning_notes(systems: Sequence[tuple[str, Record]]) -> list[str]:
    """Where the search options of each named system come from; systems with the same values share a line."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, record in systems:
        groups.setdefault(tuple(record.get(key) for key in TUNING), []).append(name)
    lines = []
    for (scale, penalty, beam, max_active, tuned_on), names in groups.items():
        if scale is None and penalty is None:
            lines.append(f"{', '.join(names)}: acoustic scale and word insertion penalty unknown (no decode.json).")
        else:
            origin = f"tuned on {tuned_on}" if tuned_on else "not tuned"
            search = f"acoustic scale {scale}, word insertion penalty {penalty}"
            search += (f", beam {beam:g}" if beam else "") + (f", max_active {max_active}" if max_active else "")
            lines.append(f"{', '.join(names)}: {search}, {origin}.")
    return lines


def _names(folders: Sequence[Path]) -> list[str]:
    """NAME of ``exp/NAME/decode_test``; the whole paths where two systems would have the same name."""
    names = [folder.absolute().parent.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _check_same(folder_a: str | Path, a: Score, folder_b: str | Path, b: Score) -> None:
    if a.unit != b.unit:
        raise UserError(
            f"{folder_b}: {b.unit} were scored, but {a.unit} in {folder_a}; compare scores of the same kind"
        )
    if a.utterances != b.utterances:
        odd = sorted(set(a.utterances) ^ set(b.utterances))[0]
        raise UserError(
            f"{folder_b}: scored on {counted(len(b.utterances), 'utterance')}, but {folder_a} on {len(a.utterances)};"
            f" for example only one of them has {odd!r}. Compare systems on the same set"
        )
    if a.normaliser != b.normaliser:
        raise UserError(
            f"{folder_b}: normaliser {b.normaliser!r}, but {folder_a} has {a.normaliser!r}; score both with one"
        )
    if (different := np.flatnonzero(a.counts[:, WORDS] != b.counts[:, WORDS])).size:
        row = different[0]
        raise UserError(
            f"{folder_b}: the reference of {a.utterances[row]!r} has {counted(b.counts[row, WORDS], 'word')}, but"
            f" {folder_a} has {a.counts[row, WORDS]}; score both against the same transcripts"
        )


def _record(system: ScoredSystem) -> dict[str, Any]:
    total, interval = system.score.total, system.score.interval
    if system.score.unit == "frames":
        return {
            "system": system.name,
            "frame_accuracy": 1 - total.wer,
            "accuracy_low": 1 - interval.high,
            "accuracy_high": 1 - interval.low,
            "frame_errors": total.errors,
            **({} if system.difference is None else _change(system, -1)),
        }
    record: dict[str, Any] = {
        "system": system.name,
        "wer": total.wer,
        "wer_low": interval.low,
        "wer_high": interval.high,
        "errors": total.errors,
        "words": total.words,
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
        "sentence_error_rate": total.sentence_error_rate,
        "missing": len(system.score.missing),
    }
    if system.difference is not None:
        record |= _change(system)
    return record | system.decoding | {"normaliser": system.score.normaliser, "jiwer": system.score.jiwer}


def _change(system: ScoredSystem, sign: int = 1) -> dict[str, Any]:
    """The change from the first system: of the error rate, or with ``sign`` -1 of the accuracy."""
    assert system.difference is not None
    low, high = sorted((sign * system.difference.low, sign * system.difference.high))
    return {"difference_low": low, "difference_high": high, "p": system.p}
