import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.score.entries import ReportEntry
from asr_kd.score.frames import score_counts
from asr_kd.score.recovery import Recovery, ratio_interval, recoveries, speaker_interval
from asr_kd.score.score_files import save_score
from asr_kd.score.wer import Score, score

HARD, SOFT, FULL = [0.441, 0.447, 0.448], [0.568, 0.571, 0.570], [0.588, 0.591, 0.587]


def _entries(**systems: list[float]) -> list[ReportEntry]:
    return [
        ReportEntry({"table": "t", "system": name, "set": "test", "seed": seed, "frame_accuracy": value})
        for name, values in systems.items()
        for seed, value in enumerate(values)
    ]


def _scores(errors: np.ndarray) -> list[Score]:
    """A score for each run of ``errors`` ``[runs, speakers]``; each speaker said one utterance of 200 words."""
    names = tuple(f"s{number:02d}" for number in range(errors.shape[1]))
    counts = [np.stack([np.full(len(row), 200), row, 0 * row, 0 * row], axis=1) for row in errors]
    return [Score(names, names, table, (), (), (), (), "none", "4") for table in counts]


def test_the_share_is_that_of_the_paper() -> None:
    (record,) = recoveries(_entries(hard=[0.445], full=[0.589], soft=[0.570]), Recovery("t", "hard", "full"))
    assert record["frame_accuracy_recovered"] == pytest.approx(0.868, abs=0.0005)
    assert record["frame_accuracy_interval"] is None  # one seed
    assert "wer_recovered" not in record


def test_between_exact_ends_the_interval_is_student_s() -> None:
    low, high = stats.t.interval(0.95, 2, np.mean(SOFT), stats.sem(SOFT))
    expected = ((low - 0.445) / (0.589 - 0.445), (high - 0.445) / (0.589 - 0.445))
    assert ratio_interval(SOFT, [0.445], [0.589]) == pytest.approx(expected)


def test_the_bounds_are_where_the_t_test_of_the_ratio_begins_to_reject() -> None:
    means, errors = [np.mean(x) for x in (SOFT, HARD, FULL)], [stats.sem(x) ** 2 for x in (SOFT, HARD, FULL)]
    ratio = (means[0] - means[1]) / (means[2] - means[1])
    terms = np.array([1, (1 - ratio) ** 2, ratio**2]) * errors
    limit = stats.t.ppf(0.975, terms.sum() ** 2 / (terms**2 / 2).sum())

    def rejects(r: float) -> float:
        distance = means[0] - (1 - r) * means[1] - r * means[2]
        return float(abs(distance) / math.sqrt(errors[0] + (1 - r) ** 2 * errors[1] + r**2 * errors[2]) - limit)

    expected = (optimize.brentq(rejects, ratio - 0.5, ratio), optimize.brentq(rejects, ratio, ratio + 0.5))
    assert ratio_interval(SOFT, HARD, FULL) == pytest.approx(expected)


def test_exchanged_ends_mirror_the_interval_and_units_do_not_matter() -> None:
    bounds = ratio_interval(SOFT, HARD, FULL)
    assert bounds is not None
    assert ratio_interval(SOFT, FULL, HARD) == pytest.approx((1 - bounds[1], 1 - bounds[0]))
    scaled = [[100 - 100 * value for value in values] for values in (SOFT, HARD, FULL)]
    assert ratio_interval(*scaled) == pytest.approx(bounds)


@pytest.mark.parametrize("full", [[0.444, 0.450, 0.449], [0.45, 0.46, 0.47], [0.46, 0.48, 0.50], [0.5, 0.51, 0.52]])
def test_the_ratio_is_bounded_only_where_the_ends_differ_significantly(full: list[float]) -> None:
    bounds = ratio_interval(SOFT, HARD, full)
    significant = stats.ttest_ind(HARD, full, equal_var=False).pvalue < 0.05
    assert (bounds == (-math.inf, math.inf)) == (not significant)


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.6, 0.6]])
def test_runs_that_do_not_vary_give_a_point_and_equal_ends_no_bounds(values: list[float]) -> None:
    assert ratio_interval(values, [0.5, 0.5], [0.6, 0.6]) == pytest.approx(((values[0] - 0.5) * 10,) * 2)
    assert ratio_interval(values, [0.5, 0.5], [0.5]) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("deviations", "runs"),
    [((1, 1, 1), (3, 3, 3)), ((0.3, 3, 1), (3, 3, 3)), ((1, 1, 0), (3, 3, 1)), ((2, 1, 1), (5, 3, 4))],
)
def test_three_seeds_cover_the_true_share_as_often_as_promised(
    deviations: tuple[float, ...], runs: tuple[int, ...]
) -> None:
    generator, trials, covered = np.random.default_rng(0), 2000, 0
    for _ in range(trials):
        drawn = [generator.normal(m, d, n) for m, d, n in zip((57.0, 50.0, 60.0), deviations, runs, strict=True)]
        bounds = ratio_interval(*map(list, drawn))
        covered += bounds is not None and bounds[0] <= 0.7 <= bounds[1]
    assert 0.935 < covered / trials < 0.985


def test_a_system_that_recovers_half_for_every_speaker_has_a_point_by_speaker() -> None:
    low, high = np.array([[40, 60, 20], [44, 64, 24]]), np.array([[10, 20, 8]])
    half = np.array([[26, 41, 15]])
    assert speaker_interval(_scores(half), _scores(low), _scores(high)) == pytest.approx((0.5, 0.5))
    assert speaker_interval(_scores(high), _scores(low), _scores(high)) == (1, 1)


def test_ends_that_differ_for_one_speaker_only_do_not_bound_the_ratio() -> None:
    low, high = np.array([[40, 60, 20, 30]]), np.array([[20, 60, 20, 30]])
    assert speaker_interval(_scores(low), _scores(low), _scores(high)) == (-math.inf, math.inf)


def test_systems_of_other_utterances_have_no_interval_by_speaker() -> None:
    few, many = _scores(np.array([[1, 2]])), _scores(np.array([[1, 2, 3]]))
    assert speaker_interval(few, many, many) is None


def test_the_interval_by_speaker_covers_the_true_share() -> None:
    generator, covered = np.random.default_rng(1), 0
    for _ in range(200):
        skill = generator.gamma(4, 0.25, 15)
        low, soft, high = (_scores(generator.poisson(rate * skill * np.ones((3, 1)))) for rate in (40.0, 26.0, 20.0))
        bounds = speaker_interval(soft, low, high)
        covered += bounds is not None and bounds[0] <= 0.7 <= bounds[1]
    assert 0.9 <= covered / 200 <= 0.995


def test_a_set_without_both_ends_is_left_out() -> None:
    entries = _entries(hard=HARD, soft=SOFT, full=FULL)
    dev = [ReportEntry({**entry.row, "set": "dev"}) for entry in entries if entry.row["system"] != "full"]
    elsewhere = [ReportEntry({**entry.row, "table": "u", "system": "other"}) for entry in entries]
    found = recoveries([*entries, *dev, *elsewhere], Recovery("t", "hard", "full"))
    assert [(record["system"], record["set"], record["runs"]) for record in found] == [("soft", "test", [3, 3, 3])]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ("hard", "fool", "no system 'fool' in the table 't'; its systems are 'hard', 'soft'"),
        ("hard", "hard", "'hard' is both LOW and HIGH"),
        ("hard", "soft", "no other system"),
    ],
)
def test_ends_that_the_table_lacks_are_named(low: str, high: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recoveries(_entries(hard=HARD, soft=SOFT), Recovery("t", low, high))


def _decode_folder(folder: Path, wrong: int, accuracy: float) -> str:
    references = {f"s{n % 5}-u{n:02d}": ["A", "B"] for n in range(40)}
    hypotheses = {utt: ["A", "X" if n < wrong else "B"] for n, utt in enumerate(references)}
    save_score(score(references, hypotheses, {utt: utt[:2] for utt in references}), folder / "wer.json")
    (folder / "decode.json").write_text(json.dumps({"frame_accuracy": accuracy}))
    frames = {utt: (1000, round(1000 * (1 - accuracy)) + int(utt[1])) for utt in references}
    save_score(score_counts(frames, {utt: utt[:2] for utt in references}), folder / "frames.json")
    return str(folder)


def test_the_report_shows_and_keeps_what_is_recovered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["report", "--title", "T", "--output", str(tmp_path), "--table", "Targets"]
    for name, wrong, accuracies in (("hard", 31, HARD), ("soft", 15, SOFT), ("full", 9, FULL)):
        made = [
            _decode_folder(tmp_path / f"{name}_seed{seed}" / "decode_test", wrong, accuracy)
            for seed, accuracy in enumerate(accuracies)
        ]
        command += ["--system", name, *made]
    ensemble = _decode_folder(tmp_path / "ensemble" / "decode_test", 5, 0.6)
    command += ["--system", "ensemble", ensemble, "--recovery", "hard", "full", "--recovery", "full", "ensemble"]
    assert main([*command, "--table", "Again", "--system", "ensemble", ensemble]) == 0
    first, _, _, soft, *_ = found = json.loads((tmp_path / "results.json").read_text())["recovery"]
    assert [(r["table"], r["low"], r["high"], r["system"]) for r in found] == [
        ("Targets", "hard", "full", "soft"), ("Targets", "hard", "full", "ensemble"),
        ("Targets", "full", "ensemble", "hard"), ("Targets", "full", "ensemble", "soft"),
    ]  # fmt: skip
    assert first["wer_recovered"] == pytest.approx(16 / 22)
    assert first["frame_accuracy_interval"] == pytest.approx(ratio_interval(SOFT, HARD, FULL))
    assert first["wer_interval_by_speaker"][0] < 16 / 22 < first["wer_interval_by_speaker"][1]
    low, high = first["frame_accuracy_interval_by_speaker"]
    assert low - 0.02 < first["frame_accuracy_recovered"] < high + 0.02  # the frames' errors are rounded
    assert soft["runs"] == [3, 3, 1]
    text = capsys.readouterr().out
    assert (
        text.index("## Targets")
        < text.index("### Share of the gap from “hard” to “full” that is closed")
        < text.index("## Again")
    )
    low, high = (100 * bound for bound in first["frame_accuracy_interval"])
    assert f"| {100 * first['frame_accuracy_recovered']:.1f} |" in " ".join(text.split())
    assert f"{low:.1f} to {high:.1f}" in text
    assert "Systems with a single run are taken as exact: “ensemble”." in text


def test_an_unbounded_ratio_is_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [entry.row for entry in _entries(hard=HARD, soft=SOFT, full=[0.444, 0.450, 0.449])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["report", "--title", "T", "--output", str(tmp_path), "--table", "t"]
    assert main([*command, "--rows", str(tmp_path / "rows.jsonl"), "--recovery", "hard", "full"]) == 0
    assert "unbounded, seeds: “full” does not differ significantly from “hard” over seeds" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "results.json").read_text())["recovery"]
    assert record["frame_accuracy_interval"] == "unbounded"
