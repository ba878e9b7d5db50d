"""Kaldi's alignments as a store of states."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError, counted
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays
from asr_kd.frames.kaldi_archives import read_kaldi, unpacked
from asr_kd.limits import STATES


@dataclasses.dataclass(frozen=True)
class KaldiAlignments:
    """Archives of alignments (``ali.*.gz``, ``.ark`` or ``.scp`` of integer vectors).

    ``transitions``: the pdf of each transition-id (from ``read_transitions``); None where the archives hold pdf-ids.
    ``num_states``: how many pdfs there are; by default those of ``transitions``, else up to the highest found.
    """

    archives: Sequence[str | Path]
    transitions: np.ndarray | None = None
    num_states: int | None = None


def import_alignment(
    source: KaldiAlignments,
    out: str | Path,
    features: FrameStore | None = None,
    skip_bad: bool = False,
    force: bool = False,
) -> FrameStore:
    """Write Kaldi's alignments as a store of states.

    With ``features`` an utterance must be among them and have as many frames; ``skip_bad`` leaves out others, and the
    store lists them. Raises ``UserError`` for an utterance that occurs twice, a label out of range, or no utterance.
    """
    states: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for archive in source.archives:
        for utt, labels in _read_archive(archive, out):
            if utt in states or utt in left_out:
                raise UserError(f"{archive}: utterance {utt} occurs twice")
            if problem := _mismatch(utt, len(labels), features):
                if not skip_bad:
                    raise UserError(f"{archive}: utterance {utt} {problem}; --skip-bad leaves it out")
                left_out[utt] = problem
                continue
            states[utt] = _pdfs(labels, source.transitions, f"{archive}: utterance {utt}")
    if not states:
        raise UserError(f"{', '.join(map(str, source.archives))}: no utterance to import")
    count = _count(source, states)
    dtype = "uint16" if count <= 1 << 16 else "int32"
    spec = {"state": TensorSpec(dtype, (), "tied HMM state of the frame, from 0 (Kaldi's pdf-id)")}
    arrays = {utt: {"state": values.astype(dtype)} for utt, values in states.items()}
    content = StoreContent("states", spec, {"num_states": count}, left_out=left_out)
    return write_arrays(out, content, arrays, WriteOptions(force=force))


def _count(source: KaldiAlignments, states: dict[str, np.ndarray]) -> int:
    """How many states there are; ``UserError`` if one of the alignments is not among them."""
    low, high = min(int(s.min(initial=0)) for s in states.values()), max(int(s.max(initial=0)) for s in states.values())
    found = high + 1 if source.transitions is None else int(source.transitions.max()) + 1
    count = found if source.num_states is None else source.num_states
    if low < 0 or high >= count:
        raise UserError(f"{source.archives[0]}: state {low if low < 0 else high} is outside 0..{count - 1}")
    if count > STATES:
        raise UserError(
            f"{source.archives[0]}: {counted(count, 'state')}; at most {STATES:,} are possible. Are these pdf-ids?"
        )
    return count


def _mismatch(utt: str, frames: int, features: FrameStore | None) -> str:
    if features is None:
        return ""
    if utt not in features.frame_counts:
        return f"is not in {features.path}"
    expected = features.frame_counts[utt]
    return "" if frames == expected else f"has {counted(frames, 'frame')}, {features.path} {expected:,}"


def _pdfs(labels: np.ndarray, transitions: np.ndarray | None, where: str) -> np.ndarray:
    if transitions is None:
        return labels
    if len(labels) and not 1 <= labels.min() <= labels.max() < len(transitions):
        bad = labels.min() if labels.min() < 1 else labels.max()
        raise UserError(
            f"{where}: transition-id {bad} is outside 1..{len(transitions) - 1}; is --model the model that made the"
            " alignment?"
        )
    return transitions[labels]


def _read_archive(source: str | Path, out: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    with unpacked(source, out) as archive:
        yield from read_kaldi(archive, integers=True)
