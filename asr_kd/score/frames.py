"""Frame errors of one system on one set: a score whose "words" are the tied states of frames."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from asr_kd.errors import UserError, counted
from asr_kd.score.wer import Score

MOST = 1000  # the most frequent confusions; the others are not kept


def score_frames(
    predicted: Iterable[tuple[str, np.ndarray, np.ndarray]], speakers: Mapping[str, str] | None = None
) -> Score:
    """The score of utterances, each with its labels and the states predicted, ``[frames]`` each.

    Frames without a label (-1) do not count. Raises ``UserError`` as ``score_counts`` does.
    """
    counts: dict[str, tuple[int, int]] = {}
    confused: Counter[tuple[int, int]] = Counter()
    for utterance, labels, found in predicted:
        known = labels >= 0
        wrong = known & (labels != found)
        counts[utterance] = int(known.sum()), int(wrong.sum())
        confused.update(zip(labels[wrong].tolist(), found[wrong].tolist(), strict=True))
    commonest = sorted(confused.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    pairs = tuple(((str(label), str(state)), count) for (label, state), count in commonest)
    return dataclasses.replace(score_counts(counts, speakers), confused=pairs)


def score_counts(counts: Mapping[str, tuple[int, int]], speakers: Mapping[str, str] | None = None) -> Score:
    """The score of utterances from the numbers of their frames and of the wrong ones among them.

    The unit of intervals and tests is the speaker where ``speakers`` are given, else the utterance. Raises
    ``UserError`` for an utterance without a speaker.
    """
    utterances = tuple(sorted(counts))
    if speakers is not None and (unknown := [utterance for utterance in utterances if utterance not in speakers]):
        raise UserError(
            f"no speaker in utt2spk for {counted(len(unknown), 'utterance')}, first {unknown[0]!r}; give the utt2spk"
            " of this set"
        )
    return Score(
        utterances=utterances,
        speakers=None if speakers is None else tuple(speakers[utterance] for utterance in utterances),
        counts=np.array([[*counts[utterance], 0, 0] for utterance in utterances], np.int64).reshape(-1, 4),
        missing=(),
        confused=(),
        deleted=(),
        inserted=(),
        normaliser="none",
        jiwer="",
        unit="frames",
    )
