"""The data of figures: training curves, and results against a quantity, each over several seeds."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import check_folder, parse_json, read_lines
from asr_kd.score.entries import scored_entries, summarise
from asr_kd.score.score_files import is_number
from asr_kd.score.table import Record

AXES = ("step", "epoch")
_TRAIN, _DEV, _CROSS_ENTROPY = "train_accuracy", "dev_accuracy", "dev_cross_entropy"


@dataclasses.dataclass(frozen=True)
class Band:
    """A mean and the range around it, each ``[points]``; the range is NaN for a single value."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class TrainingCurves:
    """Evaluations during training: means over seeds with their minimum and maximum; accuracies are fractions.

    ``x`` ``[points]`` is the ``axis`` (``step`` or ``epoch``). ``train_accuracy`` is None where training had no labels;
    ``dev_cross_entropy`` is in nats a frame.
    """

    name: str
    axis: str
    x: np.ndarray
    train_accuracy: Band | None
    dev_accuracy: Band
    dev_cross_entropy: Band


@dataclasses.dataclass(frozen=True)
class ResultSeries:
    """Frame accuracy and word error rate (fractions) on ``dataset`` at each ``x`` ``[points]``, in ascending order.

    They are means over seeds with the 95 % interval of ``summarise`` (NaN for one seed), the ± of a report's tables.
    ``wer`` is NaN where frames were scored, not words.
    """

    name: str
    dataset: str
    x: np.ndarray
    frame_accuracy: Band
    wer: Band


def training_curves(name: str, folders: Sequence[str | Path], axis: str = "step") -> TrainingCurves:
    """The curves of experiment folders that differ in the seed, from their ``metrics.jsonl``.

    Only epochs that were evaluated in all folders count, so a mean is always over the same seeds. Raises ``UserError``
    if there are none, and for a file that training did not write.
    """
    for folder in folders:
        check_folder(folder, "metrics.jsonl", "a training folder", "give the --out folder of asr-kd train")
    runs = [_read_metrics(Path(folder) / "metrics.jsonl") for folder in folders]
    epochs = sorted(set.intersection(*(set(run) for run in runs)))
    if not epochs:
        raise UserError(f"{name}: no epoch was evaluated in all of {', '.join(map(str, folders))}")

    def collect(key: str) -> np.ndarray:
        return np.array([[run[epoch][key] for epoch in epochs] for run in runs], float)

    labelled = all(run[epoch].get(_TRAIN) is not None for run in runs for epoch in epochs)
    return TrainingCurves(
        name=name,
        axis=axis,
        x=collect(axis).mean(axis=0),
        train_accuracy=_extremes(collect(_TRAIN)) if labelled else None,
        dev_accuracy=_extremes(collect(_DEV)),
        dev_cross_entropy=_extremes(collect(_CROSS_ENTROPY)),
    )


def results_against(name: str, points: Sequence[tuple[float, str | Path]]) -> ResultSeries:
    """The results of scored decode folders, each at its ``x``; folders with the same ``x`` are seeds.

    Raises ``UserError`` for a folder without a score or frame accuracy, and for folders of different sets.
    """
    places = sorted({x for x, _ in points})
    summaries = [_summary(name, [folder for x, folder in points if x == place]) for place in places]
    sets = list(dict.fromkeys(summary["set"] for summary in summaries))
    if len(sets) > 1:
        raise UserError(f"{name}: results on {' and '.join(map(repr, sets))}; a figure shows one set")
    bands = (_interval(summaries, key) for key in ("frame_accuracy", "wer"))
    return ResultSeries(name, sets[0], np.array(places, float), *bands)


def _read_metrics(path: Path) -> dict[int, dict[str, Any]]:
    """The evaluations in ``metrics.jsonl``, by epoch."""
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(read_lines(path), 1):
        entry = parse_json(line, f"{path}:{number}")
        keys = [*AXES, _DEV, _CROSS_ENTROPY]
        if not isinstance(entry, dict) or (missing := [key for key in keys if key not in entry]):
            lacks = f"it lacks {', '.join(missing)}" if isinstance(entry, dict) else f"found {shown(entry)}"
            raise UserError(f"{path}:{number}: not an evaluation as `asr-kd train` writes it: {lacks}")
        keys += [_TRAIN] if entry.get(_TRAIN) is not None else []
        for key in keys:
            if not is_number(entry[key]):
                raise UserError(
                    f"{path}:{number}: {key} is {shown(entry[key])}, not a finite number; leave this run out"
                )
        found[int(entry["epoch"])] = entry
    return found


def _summary(name: str, folders: Sequence[str | Path]) -> Record:
    summaries = summarise(scored_entries("", name, folders))
    if len(summaries) > 1:
        sets = " and ".join(repr(summary["set"]) for summary in summaries)
        raise UserError(f"{name}: {', '.join(map(str, folders))}: results on {sets}; a figure shows one set")
    if "frame_accuracy" not in summaries[0]:
        raise UserError(
            f"{name}: {', '.join(map(str, folders))}: a decode.json has no frame_accuracy; decode with --states"
        )
    return summaries[0]


def _extremes(values: np.ndarray) -> Band:
    """Mean, minimum and maximum over seeds of ``[seeds, points]``."""
    return Band(values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _interval(summaries: Sequence[Record], key: str) -> Band:
    mean = np.array([summary.get(key, math.nan) for summary in summaries], float)
    half = np.array([summary.get(f"{key}_spread", math.nan) for summary in summaries], float)
    return Band(mean, mean - half, mean + half)
