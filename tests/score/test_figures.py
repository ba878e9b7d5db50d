import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.score.entries import scored_entries, summarise
from asr_kd.score.figures import COLOURS
from asr_kd.score.score_files import save_score
from asr_kd.score.series import results_against, training_curves
from asr_kd.score.wer import score


def _experiment(folder: Path, dev: list[float], train: float | None = 0.9, steps: int = 10, first: int = 1) -> str:
    """An experiment folder whose dev cross-entropy is 3 minus the dev accuracy."""
    folder.mkdir(parents=True)
    entries = [
        {
            "epoch": epoch,
            "step": steps * epoch,
            "train_accuracy": train,
            "dev_accuracy": value,
            "dev_cross_entropy": 3 - value,
        }
        for epoch, value in enumerate(dev, first)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(folder)


def _decode_folder(folder: Path, wrong: int, **summary: float) -> str:
    references = {f"s{n % 4}-u{n:02d}": ["A", "B"] for n in range(20)}
    hypotheses = {utt: ["A", "X" if n < wrong else "B"] for n, utt in enumerate(references)}
    save_score(score(references, hypotheses, {utt: utt[:2] for utt in references}), folder / "wer.json")
    (folder / "decode.json").write_text(json.dumps(summary))
    return str(folder)


def _drawn(file: Path, number: int, panel: int) -> np.ndarray:
    """The heights (0 at the bottom) at which a panel has pixels of a series' colour, for each column that has some."""
    from matplotlib.image import imread

    pixels = np.round(imread(file)[:, :, :3] * 255).astype(int)
    colour = [int(COLOURS[number][place : place + 2], 16) for place in (1, 3, 5)]
    found = (pixels == colour).all(axis=2)[:320, panel * 495 : panel * 495 + 495]  # above the legend
    return np.array([320 - np.flatnonzero(column).mean() for column in found.T if column.any()])


def test_curves_are_the_mean_and_the_range_of_seeds_at_the_epochs_that_all_have(tmp_path: Path) -> None:
    long = _experiment(tmp_path / "seed1", [0.2, 0.4, 0.5, 0.6], train=0.8)
    short = _experiment(tmp_path / "seed2", [0.3, 0.4], train=0.9, steps=12)
    curves = training_curves("hard", [long, short])
    assert curves.x.tolist() == [11, 22]
    assert curves.dev_accuracy.mean.tolist() == pytest.approx([0.25, 0.4])
    assert (curves.dev_accuracy.low.tolist(), curves.dev_accuracy.high.tolist()) == ([0.2, 0.4], [0.3, 0.4])
    assert curves.dev_cross_entropy.mean.tolist() == pytest.approx([2.75, 2.6])
    assert curves.train_accuracy is not None
    assert curves.train_accuracy.mean.tolist() == pytest.approx([0.85, 0.85])
    assert training_curves("hard", [long, short], "epoch").x.tolist() == [1, 2]


def test_a_training_without_labels_has_no_curve_of_its_own(tmp_path: Path) -> None:
    assert training_curves("soft", [_experiment(tmp_path / "a", [0.5], train=None)]).train_accuracy is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"metrics\.jsonl:2: not valid JSON"),
        ("[2]", r"metrics\.jsonl:2: not an evaluation as `asr-kd train` writes it: found \[2\]"),
        ('{"epoch": 2, "step": 3, "dev_accuracy": 0.5}', r"metrics\.jsonl:2: not an evaluation.*dev_cross_entropy"),
        (
            '{"epoch": 2, "step": 3, "dev_accuracy": NaN, "dev_cross_entropy": 1}',
            r"jsonl:2: .* not a finite number",
        ),
    ],
)
def test_a_line_that_training_did_not_write_is_named(line: str, message: str, tmp_path: Path) -> None:
    folder = Path(_experiment(tmp_path / "a", [0.5]))
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UserError, match=message):
        training_curves("hard", [folder])


def test_runs_without_a_common_epoch_are_refused(tmp_path: Path) -> None:
    folders = [_experiment(tmp_path / "a", [0.5]), _experiment(tmp_path / "b", [0.5], first=2)]
    with pytest.raises(UserError, match="hard: no epoch was evaluated in all of"):
        training_curves("hard", folders)


def test_results_are_those_of_the_report_s_table_in_rising_order(tmp_path: Path) -> None:
    large = [_decode_folder(tmp_path / f"l{n}" / "decode_test", n, frame_accuracy=0.6 + n / 100) for n in (2, 3)]
    small = _decode_folder(tmp_path / "s" / "decode_test", 9, frame_accuracy=0.4)
    found = results_against("soft", [(100.0, large[0]), (3.0, small), (100.0, large[1])])
    (expected,) = summarise(scored_entries("t", "soft", large))
    assert (found.dataset, found.x.tolist()) == ("test", [3, 100])
    for key, band in (("wer", found.wer), ("frame_accuracy", found.frame_accuracy)):
        assert band.mean[1] == expected[key]
        assert band.high[1] - band.mean[1] == pytest.approx(expected[f"{key}_spread"])
        assert band.mean[1] - band.low[1] == pytest.approx(expected[f"{key}_spread"])
    assert found.wer.mean[0] == 9 / 40
    assert np.isnan([found.wer.low[0], found.wer.high[0]]).all()  # one seed


def test_a_figure_of_several_sets_or_without_frame_accuracy_is_refused(tmp_path: Path) -> None:
    test, dev = (_decode_folder(tmp_path / "a" / f"decode_{name}", 3, frame_accuracy=0.5) for name in ("test", "dev"))
    for x in (1.0, 2.0):
        with pytest.raises(UserError, match="results on 'test' and 'dev'; a figure shows one set"):
            results_against("soft", [(1.0, test), (x, dev)])
    with pytest.raises(UserError, match="no frame_accuracy; decode with --states"):
        results_against("GMM", [(1.0, _decode_folder(tmp_path / "gmm" / "decode_test", 3))])


def _curves_command(tmp_path: Path) -> list[str]:
    hard = [_experiment(tmp_path / f"hard{n}", [0.2, 0.5, 0.45, 0.4, 0.35 + n / 100]) for n in (1, 2)]
    soft = [_experiment(tmp_path / f"soft{n}", [0.3, 0.5, 0.6, 0.63, 0.64 + n / 100], 0.7) for n in (1, 2)]
    return ["plot", "curves", "--title", "T", "--series", "hard", *hard, "--series", "soft", *soft]


def test_curves_show_which_training_turns_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made" / "curves.png"
    assert main([*_curves_command(tmp_path), "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    hard, soft = (_drawn(file, number, panel=1) for number in (0, 1))
    assert hard[-1] > hard.min() + 20  # cross-entropy falls and rises again
    assert soft[-1] == pytest.approx(soft.min(), abs=5)
    hard, soft = (_drawn(file, number, panel=0) for number in (0, 1))
    assert len(hard) > 100
    assert len(soft) > 100


def test_the_same_data_gives_the_same_bytes_whatever_the_user_s_settings(tmp_path: Path) -> None:
    command = _curves_command(tmp_path)
    (tmp_path / "matplotlibrc").write_text("figure.facecolor: red\nsavefig.dpi: 50\nfont.size: 20\n")
    assert main([*command, "--output", str(tmp_path / "a.png")]) == 0
    settings = {**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    again = [sys.executable, "-m", "asr_kd", *command, "--output", str(tmp_path / "b.png")]
    subprocess.run(again, env=settings, check=True)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_figure_is_990_by_396_pixels_and_says_nothing_of_when_and_by_what(tmp_path: Path) -> None:
    from PIL import Image

    assert main([*_curves_command(tmp_path), "--log", "--axis", "epoch", "--output", str(tmp_path / "a.png")]) == 0
    image = Image.open(tmp_path / "a.png")
    assert image.size == (990, 396)
    assert set(image.info) == {"dpi"}


def test_results_are_drawn_against_their_x_below_a_level(tmp_path: Path) -> None:
    points = [
        f"{x}={_decode_folder(tmp_path / f'{x}seed{seed}' / 'decode_test', wrong, frame_accuracy=1 - wrong / 20)}"
        for x, wrong in ((1, 12), (10, 8), (100, 3))
        for seed in (1, 2)
    ]
    level = _decode_folder(tmp_path / "ensemble" / "decode_test", 1, frame_accuracy=0.95)
    command = ["plot", "against", "--title", "T", "--x", "data (%)", "--log", "--output", str(tmp_path / "a.png")]
    assert main([*command, "--series", "soft", *points, "--level", "ensemble", level]) == 0
    accuracy, wer = (_drawn(tmp_path / "a.png", 0, panel) for panel in (0, 1))
    assert accuracy[-1] > accuracy[0] + 50
    assert wer[-1] < wer[0] - 50
    assert len(accuracy) == pytest.approx(len(wer), abs=5)
    rises = np.diff(accuracy[[10, len(accuracy) // 2, -10]])  # on the logarithmic axis 10 is half-way from 1 to 100
    assert rises[0] == pytest.approx(rises[1] * 4 / 5, rel=0.15)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--series", "soft"], "--series 'soft': expected a name and at least one folder"),
        (["--series", "soft", "many=DIR"], "expected X=DECODE_DIR with a number X; found 'many=DIR'"),
        (["--series", "soft", "nan=DIR"], "found 'nan=DIR'"),
        (["--series", "soft", "DIR"], "found 'DIR'"),
        (["--series", "soft", "0=DIR", "--log"], "--log: size is 0 at one point"),
        (["--series", "soft", "1=DIR", "--level", "e", "DEV"], "e: results on 'dev', but those of soft are on 'test'"),
        (["--series", "soft", "1=DIR", "--output", "a.pdf"], "a.pdf: figures are PNG files"),
        (["--series", "s", "1=DIR"] * 8, "8 series; a figure has colours for 7 at most"),
        (["--series", "s", "1=DIR"] + ["--level", "l", "DIR"] * 5, "5 levels; a figure has line styles for 4 at most"),
        (["--series", "s", "1=nowhere"], "nowhere: no such folder; expected a decode folder"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_explained(
    changed: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test, dev = (_decode_folder(tmp_path / f"decode_{name}", 3, frame_accuracy=0.5) for name in ("test", "dev"))
    words = [word.replace("DIR", test).replace("DEV", dev) for word in changed]
    command = ["plot", "against", "--title", "T", "--x", "size", "--output", str(tmp_path / "a.png"), *words]
    assert main(command) == 1
    assert message in capsys.readouterr().err.replace(test, "DIR")
    assert not (tmp_path / "a.png").exists()
