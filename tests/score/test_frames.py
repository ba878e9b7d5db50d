"""Frame errors as a score: counted, stored, compared and reported like word errors."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.score.compare_systems import compare, notes, records
from asr_kd.score.entries import scored_entries, summarise
from asr_kd.score.frames import score_frames
from asr_kd.score.report import write_report
from asr_kd.score.score_files import save_score, score_in
from asr_kd.score.wer import Score

LABELS = np.array([0, 1, 2, 3, 4])
SPEAKERS = {"a1": "ann", "a2": "ann", "b1": "bob"}


def found(*wrong: int) -> Score:
    """Three utterances of five frames; in each, the given number of frames, the first ones, are wrong by one state."""
    return score_frames(
        (
            (name, LABELS, np.where(np.arange(5) < number, LABELS + 1, LABELS))
            for name, number in zip(SPEAKERS, wrong, strict=True)
        ),
        SPEAKERS,
    )


def test_frames_are_words_and_wrong_states_substitutions(tmp_path: Path) -> None:
    score = found(2, 0, 1)
    assert score.total.words == 15
    assert score.total.errors == score.total.substitutions == 3
    assert score.confused == ((("0", "1"), 2), (("1", "2"), 1))
    assert score.by_speaker["bob"].errors == 1
    save_score(score, tmp_path / "frames.json")
    assert score_in(tmp_path).unit == "frames"
    assert np.array_equal(score_in(tmp_path).counts, score.counts)
    with pytest.raises(UserError, match="no speaker in utt2spk for 1 utterance, first 'c1'"):
        score_frames([("c1", LABELS, LABELS)], SPEAKERS)


def test_frames_without_a_label_do_not_count() -> None:
    labels = np.array([0, -1, 2, -1, 4])
    score = score_frames([("a1", labels, np.array([0, 0, 0, 0, 0])), ("b1", np.full(3, -1), np.zeros(3, int))])
    assert score.counts.tolist() == [[3, 2, 0, 0], [0, 0, 0, 0]]
    assert score.confused == ((("2", "0"), 1), (("4", "0"), 1))
    assert 0 <= score.interval.low <= score.interval.high <= 1


def test_two_systems_are_compared_by_speaker_in_accuracy(tmp_path: Path) -> None:
    save_score(found(2, 1, 3), tmp_path / "worse" / "frames.json")
    save_score(found(1, 0, 2), tmp_path / "better" / "frames.json")
    comparison = compare([tmp_path / "worse", tmp_path / "better"])
    worse, better = records(comparison)
    assert (worse["frame_accuracy"], better["frame_accuracy"]) == (pytest.approx(9 / 15), pytest.approx(12 / 15))
    assert worse["accuracy_low"] <= 9 / 15 <= worse["accuracy_high"]
    assert 0 < better["difference_low"] <= 0.2 <= better["difference_high"]
    assert better["p"] == 0.5  # of two speakers: 2 of 4 exchanges
    assert notes(comparison)[0].startswith("errors in 15 frames of 3 utterances")
    save_score(Score(**{**vars(found(0, 0, 0)), "unit": "words"}), tmp_path / "words" / "wer.json")
    with pytest.raises(UserError, match=r"words were scored, but frames in .*worse"):
        compare([tmp_path / "worse", tmp_path / "words"])


def test_a_report_shows_mean_and_range_of_errors_over_seeds(tmp_path: Path) -> None:
    for seed, wrong in enumerate(((2, 1, 3), (2, 2, 3), (2, 1, 1)), 1):
        save_score(found(*wrong), tmp_path / f"net/seed{seed}" / "frames_test" / "frames.json")
    save_score(found(1, 1, 0), tmp_path / "teacher" / "frames_test" / "frames.json")
    entries = scored_entries("T", "net", sorted(tmp_path.glob("net/seed*/frames_test")))
    entries += scored_entries("T", "teacher", [tmp_path / "teacher" / "frames_test"])
    net, teacher = summarise(entries)
    assert (net["set"], net["seeds"], net["frame_errors"], net["frame_errors_range"]) == ("test", 3, 17 / 3, (4, 7))
    assert teacher["p"] == 0.5
    provenance = {
        "commit": "c", "modified": False, "made_at": {}, "date": "d", "versions": {}, "seconds": None,
        "machine": {"processor": "p", "cores": 1, "memory_gib": 1, "gpu": None, "system": "s"},
    }  # fmt: skip
    page = write_report(tmp_path, "Frames", entries, provenance)
    assert "5.7 (4 to 7)" in page
    assert "WER" not in page
    assert "by speaker against the first system" in page
