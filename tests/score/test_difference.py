import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.score.bootstrap import permutation_p
from asr_kd.score.difference import Difference, differences, welch_interval
from asr_kd.score.entries import ReportEntry
from asr_kd.score.frames import score_counts
from asr_kd.score.score_files import save_score
from asr_kd.score.wer import score

BASE, OTHER = [0.441, 0.447, 0.448], [0.452, 0.450, 0.457, 0.455]
SPEAKERS = [f"s{n}" for n in range(8)]


def entries(**systems: list[float]) -> list[ReportEntry]:
    return [
        ReportEntry({"table": "t", "system": name, "set": "test", "seed": seed, "frame_accuracy": value})
        for name, values in systems.items()
        for seed, value in enumerate(values)
    ]


def test_the_interval_is_welchs() -> None:
    expected = stats.ttest_ind(OTHER, BASE, equal_var=False).confidence_interval(0.95)
    assert welch_interval(OTHER, BASE) == pytest.approx(tuple(expected))
    (record,) = differences(entries(base=BASE, other=OTHER), Difference("t", "base"))
    assert record["frame_accuracy_change"] == pytest.approx(np.mean(OTHER) - np.mean(BASE))
    assert (record["frame_accuracy_low"], record["frame_accuracy_high"]) == pytest.approx(tuple(expected))
    assert "wer_change" not in record
    assert "frame_accuracy_p" not in record  # the frames are unknown


def test_one_run_is_exact_and_two_single_runs_have_no_interval_over_seeds() -> None:
    low, high = stats.t.interval(0.95, 2, np.mean(BASE), stats.sem(BASE))
    assert welch_interval(BASE, [0.4]) == pytest.approx((low - 0.4, high - 0.4))
    assert welch_interval([0.4], BASE) == pytest.approx((0.4 - high, 0.4 - low))
    assert welch_interval([0.5], [0.4]) is None


@pytest.mark.parametrize("base", ["nobody", "alone"])
def test_a_base_without_others_is_named(base: str) -> None:
    with pytest.raises(UserError, match=f"--difference '{base}': the table 't' has 'alone'"):
        differences(entries(alone=BASE), Difference("t", base))


def decode_folder(folder: Path, wrong: list[int], missed: list[int]) -> str:
    """One utterance of ten words and 1,000 frames per speaker, with the given numbers of errors."""
    of_whom = {f"{name}-u": name for name in SPEAKERS}
    references = {utterance: ["A"] * 10 for utterance in of_whom}
    hypotheses = {u: ["X"] * n + ["A"] * (10 - n) for u, n in zip(of_whom, wrong, strict=True)}
    save_score(score(references, hypotheses, of_whom), folder / "wer.json")
    frames = {u: (1000, n) for u, n in zip(of_whom, missed, strict=True)}
    save_score(score_counts(frames, of_whom), folder / "frames.json")
    (folder / "decode.json").write_text(json.dumps({"frame_accuracy": 1 - sum(missed) / 8000}))
    return str(folder)


def test_the_report_has_intervals_over_seeds_and_speakers_and_p(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [[300, 310, 290, 305, 295, 300, 320, 280], [310, 300, 295, 300, 290, 305, 315, 285]]
    better = [[missed - 20 - number for number, missed in enumerate(run)] for run in runs]
    base = [decode_folder(tmp_path / f"base_seed{n}" / "decode_test", [2] * 8, run) for n, run in enumerate(runs)]
    other = [decode_folder(tmp_path / f"o_seed{n}" / "decode_test", [2, 1] * 4, run) for n, run in enumerate(better)]
    command = ["report", "--title", "T", "--output", str(tmp_path), "--table", "One", "--system", "base", *base]
    command += ["--system", "other", *other, "--difference", "base"]
    assert main([*command, "--table", "Two", "--system", "x", *base]) == 0
    (record,) = json.loads((tmp_path / "results.json").read_text())["differences"]
    assert record["frame_accuracy_change"] == pytest.approx(0.0235)
    assert 0.020 <= record["frame_accuracy_low_by_speaker"] < 0.0235 < record["frame_accuracy_high_by_speaker"] <= 0.027
    assert record["frame_accuracy_p"] == pytest.approx(2 / 2**8)
    assert record["wer_change"] == pytest.approx(-0.05)
    assert record["wer_low_by_speaker"] < -0.05 < record["wer_high_by_speaker"]
    assert record["wer_p"] == permutation_p(np.array([0, -1] * 4), SPEAKERS)
    page = capsys.readouterr().out
    assert page.index("## One") < page.index("### Differences from base") < page.index("## Two")
    assert "| other  | test |" in page
