"""The gain of specialists over a generalist: tables 3 and 4 of Hinton et al. 2015.

Table 3 has two accuracies: on all frames, and the conditional one, on frames whose state some specialist covers, when
only such states may be predicted. Table 4 divides the frames by the number of specialists that cover their state.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from asr_kd.errors import UserError, counted
from asr_kd.nets import Ensemble
from asr_kd.score.bootstrap import permutation_p, rate_interval
from asr_kd.score.table import Record
from asr_kd.train import TrainingData, outputs
from asr_kd.train.evaluate import check_fits

ALL, CONDITIONAL = -2, -1  # instead of a number of specialists
RARE = 0.01  # from the first group with a smaller share of the frames on, groups are merged


@dataclasses.dataclass(frozen=True)
class CoverCounts:
    """Frames of each utterance, and how many of them the generalist and the joint model classify correctly.

    ``groups``: ``ALL`` frames, ``CONDITIONAL``, and each number of specialists that cover a state. ``counts``
    ``[utterances, groups, 3]``: frames, correct by the generalist, correct by the joint model.
    """

    utterances: tuple[str, ...]
    groups: tuple[int, ...]
    counts: np.ndarray


@torch.inference_mode()
def count_by_cover(joint: Ensemble, data: TrainingData, name: str = "the ensemble") -> CoverCounts:
    """Classify every labelled frame of ``data`` with ``joint`` and with its generalist alone.

    Raises ``UserError`` for an ensemble of another kind, and for data that does not fit it or has no labels.
    """
    if joint.mean_kind != "joint":
        raise UserError(f"{name}: averages its members; expected an ensemble from asr-kd specialists join")
    check_fits(data, joint.bins, joint.num_states, name)
    cover = np.zeros(joint.num_states, np.int64)
    for own in joint.own:
        cover[own] += 1
    groups = (ALL, CONDITIONAL, *np.unique(cover).tolist())
    found: dict[str, np.ndarray] = {}
    batches = zip(outputs(joint.members[0], data), outputs(joint, data), strict=True)
    for (utterances, general, truth), (_, both, _) in batches:
        assert truth is not None
        labels = truth.cpu().numpy()
        scores = (logits.cpu() for logits in (general, both))
        answers = [(logits.argmax(-1).numpy(), _restricted(logits.numpy(), cover)) for logits in scores]
        for row, utterance in enumerate(utterances):
            counted = _count(labels[row], [(free[row], bound[row]) for free, bound in answers], cover, groups)
            found[utterance] = found.get(utterance, 0) + counted
    return CoverCounts(tuple(found), groups, np.stack(list(found.values())))


def _restricted(logits: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """The best state among those that some specialist covers."""
    covered = np.flatnonzero(cover)
    return covered[logits[..., covered].argmax(-1)]


def _count(
    labels: np.ndarray, answers: list[tuple[np.ndarray, np.ndarray]], cover: np.ndarray, groups: tuple[int, ...]
) -> np.ndarray:
    """``[groups, 3]`` of some frames of one utterance; labels of -1 do not count."""
    counts = np.zeros((len(groups), 3), np.int64)
    known, number = labels >= 0, cover[labels]
    for place, group in enumerate(groups):
        chosen = known & {ALL: np.ones_like(known), CONDITIONAL: number > 0}.get(group, number == group)
        right = [((bound if group == CONDITIONAL else free) == labels)[chosen].sum() for free, bound in answers]
        counts[place] = chosen.sum(), *right
    return counts


def cover_records(found: CoverCounts, speakers: Mapping[str, str] | None = None) -> list[Record]:
    """A record for each group: accuracies as fractions, and the ``gain`` with its 95 % interval and paired ``p``.

    The unit of intervals and tests is the speaker, or without ``speakers`` the utterance. ``relative`` is the gain
    divided by the generalist's accuracy, the paper's measure (4.4 % on all of its images). From the first group with
    less than ``RARE`` of the frames on, groups are merged into one record, ``more``. Groups without a frame are left
    out. Raises ``UserError`` for an utterance without a speaker.
    """
    if speakers is not None and (unknown := [each for each in found.utterances if each not in speakers]):
        raise UserError(
            f"no speaker in utt2spk for {counted(len(unknown), 'utterance')}, first {unknown[0]!r}; give the utt2spk"
            " of this set"
        )
    clusters = [each if speakers is None else speakers[each] for each in found.utterances]
    counts, last = _rare_as_one(found)
    records: list[Record] = []
    for place, group in enumerate(found.groups[: counts.shape[1]]):
        frames, general, both = counts[:, place].T
        if not frames.sum():
            continue
        interval = rate_interval(both - general, frames, clusters)
        before, after = (float(right.sum() / frames.sum()) for right in (general, both))
        records.append({
            "system": _title(group, group == last), "cover": group, "more": group == last,
            "frames": int(frames.sum()), "generalist": before, "joint": after,
            "gain": after - before, "gain_low": interval.low, "gain_high": interval.high,
            "relative": (after - before) / before if before else 0.0, "p": permutation_p(both - general, clusters),
        })  # fmt: skip
    return records


def _rare_as_one(found: CoverCounts) -> tuple[np.ndarray, int | None]:
    """Counts ``[utterances, groups, 3]`` with rare groups merged into the last one, and this group, if any."""
    frames = found.counts[:, :, 0].sum(0)
    for place, group in enumerate(found.groups[:-1]):
        if group > 0 and frames[place] < RARE * frames[found.groups.index(ALL)]:
            rest = found.counts[:, place:].sum(1, keepdims=True)
            return np.concatenate([found.counts[:, :place], rest], axis=1), group
    return found.counts, None


def cover_row(record: Record, table: str, dataset: str) -> Record:
    """A record as a row of a report, in percent."""
    shown = {"generalist": "generalist_%", "joint": "with_specialists_%", "gain": "gain", "relative": "relative_gain_%"}
    numbers = {title: round(100 * record[key], 2) for key, title in shown.items()}
    interval = f"{100 * record['gain_low']:.2f} to {100 * record['gain_high']:.2f}"
    name = {"table": table, "system": record["system"], "set": dataset}
    return {**name, "frames": record["frames"], **numbers, "CI_of_gain": interval, "p_of_gain": record["p"]}


def _title(group: int, more: bool) -> str:
    if more:
        return f"{group} or more specialists cover the state"
    special = {
        ALL: "all frames",
        CONDITIONAL: "covered states only (conditional)",
        1: "1 specialist covers the state",
    }
    return special.get(group, f"{group or 'no'} specialists cover the state")
