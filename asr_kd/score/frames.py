"""Frame errors of one system on one set: a score whose words are the states of frames."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from asr_kd.errors import UserError
from asr_kd.score.wer import Score

MOST = 1000  # confusions that are kept, the commonest


def score_frames(
    predicted: Iterable[tuple[str, np.ndarray, np.ndarray]], speakers: Mapping[str, str] | None = None
) -> Score:
    """The score of utterances, each with its labels and the states that were found, ``[frames]`` each.

    Intervals and tests then take the speaker as the unit where ``speakers`` are given, else the utterance. Raises
    ``UserError`` for an utterance without a speaker.
    """
    counts: dict[str, tuple[int, int]] = {}
    confused: Counter[tuple[int, int]] = Counter()
    for utterance, labels, found in predicted:
        if speakers is not None and utterance not in speakers:
            raise UserError(f"utterance {utterance!r} has no speaker in utt2spk")
        wrong = labels != found
        counts[utterance] = len(labels), int(wrong.sum())
        confused.update(zip(labels[wrong].tolist(), found[wrong].tolist(), strict=True))
    utterances = tuple(sorted(counts))
    commonest = sorted(confused.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    return Score(
        utterances=utterances,
        speakers=None if speakers is None else tuple(speakers[utterance] for utterance in utterances),
        counts=np.array([[*counts[utterance], 0, 0] for utterance in utterances], np.int64).reshape(-1, 4),
        missing=(),
        confused=tuple(((str(label), str(state)), count) for (label, state), count in commonest),
        deleted=(),
        inserted=(),
        normaliser="none",
        jiwer="",
        unit="frames",
    )
