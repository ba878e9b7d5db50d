import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.score.bootstrap import rate_interval
from asr_kd.score.entries import ReportEntry, read_rows, scored_entries, summarise
from asr_kd.score.provenance import provenance
from asr_kd.score.report import write_report
from asr_kd.score.score_files import save_score
from asr_kd.score.wer import score

REFERENCES = {f"s{n % 5}-u{n:02d}": ["A", "B", "C", "D"] for n in range(20)}
SPEAKERS = {utt: utt[:2] for utt in REFERENCES}


def _decode_folder(folder: Path, wrong: int, **summary: float) -> Path:
    hypotheses = {utt: ["A", "X" if n < wrong else "B", "C", "D"] for n, utt in enumerate(REFERENCES)}
    save_score(score(REFERENCES, hypotheses, SPEAKERS), folder / "wer.json")
    (folder / "decode.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    gmm = _decode_folder(tmp_path / "model" / "tri" / "decode_test", 16)
    seeds = [
        _decode_folder(tmp_path / "model" / f"dnn_seed{seed}" / "decode_test", wrong, frame_accuracy=0.6 + seed / 100)
        for seed, wrong in ((1, 4), (2, 6), (3, 5))
    ]
    return [gmm, *seeds]


def _entries(folders: list[Path]) -> list[ReportEntry]:
    return scored_entries("WER", "GMM", folders[:1]) + scored_entries("WER", "DNN", folders[1:])


def test_a_row_is_labelled_from_its_folder(folders: list[Path]) -> None:
    rows = [entry.row for entry in _entries(folders)]
    assert [row["seed"] for row in rows] == [None, 1, 2, 3]
    assert {row["set"] for row in rows} == {"test"}
    assert rows[1]["wer"] == 4 / 80
    assert rows[1]["frame_accuracy"] == 0.61


def test_seeds_become_a_mean_and_student_s_interval(folders: list[Path]) -> None:
    _, dnn = summarise(_entries(folders))
    values = [4 / 80, 6 / 80, 5 / 80]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert dnn["seeds"] == 3
    assert dnn["wer"] == pytest.approx(np.mean(values))
    assert dnn["wer_spread"] == pytest.approx((high - low) / 2)
    assert dnn["frame_accuracy"] == pytest.approx(0.62)


def test_the_training_s_frame_accuracy_stands_before_that_of_the_set(tmp_path: Path) -> None:
    folders = [
        _decode_folder(tmp_path / f"seed{seed}" / "decode_test", 4, frame_accuracy=0.5, train_frame_accuracy=train)
        for seed, train in ((1, 0.8), (2, 0.9))
    ]
    write_report(tmp_path, "T", scored_entries("WER", "DNN", folders), provenance())
    header, _, row = (tmp_path / "RESULTS.md").read_text().splitlines()[4:7]
    shown = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (header, row)), strict=True))
    assert shown["train frame acc. %"] == "85.00 ± 63.53"  # t(1) = 12.706 times half the difference
    assert shown["frame acc. %"] == "50.00 ± 0.00"
    assert header.index("train frame acc. %") < header.index(" frame acc. %")


def test_the_mean_s_interval_is_by_speaker_and_its_test_is_paired(folders: list[Path]) -> None:
    entries = _entries(folders)
    gmm, dnn = summarise(entries)
    scores = [entry.score for entry in entries[1:] if entry.score is not None]
    errors = sum(item.errors for item in scores)
    interval = rate_interval(np.asarray(errors), np.full(20, 12), scores[0].clusters)
    assert (dnn["wer_low"], dnn["wer_high"]) == (interval.low, interval.high)
    assert "p" not in gmm
    assert dnn["p"] == 2 / 2**5  # better for each of the five speakers


def test_sets_are_not_mixed(folders: list[Path], tmp_path: Path) -> None:
    dev = _decode_folder(tmp_path / "model" / "dnn_seed1" / "decode_dev", 1)
    summaries = summarise(_entries(folders) + scored_entries("WER", "DNN", [dev]))
    assert [(line["system"], line["set"], line["seeds"]) for line in summaries] == [
        ("GMM", "test", 1), ("DNN", "test", 3), ("DNN", "dev", 1),
    ]  # fmt: skip


def test_rows_without_a_score_are_averaged_too() -> None:
    rows = [{"table": "t", "system": "s", "seed": n, "set": "x", "test_errors": 70 + n, "note": "a"} for n in (1, 2)]
    (line,) = summarise([ReportEntry(row) for row in rows])
    assert line["test_errors"] == 71.5
    assert "note" not in line


def test_both_files_are_written(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = {"name": "features", "value": 812.3, "unit": "x real time", "against": "1", "bar": ">= 500", "met": True}
    (tmp_path / "bench.jsonl").write_text(json.dumps(bench) + "\n")
    gmm, *dnn = map(str, folders)
    command = ["report", "--title", "AN4", "--output", str(tmp_path), "--seconds", "130", "--remark", "One remark."]
    command += ["--made-at", "ab12", "stages 0 and 1", "--made-at", "cd34", "stage 2"]
    command += ["--table", "Words", "--system", "GMM", gmm, "--system", "DNN", *dnn]
    assert main([*command, "--table", "Speed", "--rows", str(tmp_path / "bench.jsonl")]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(row["table"], row["system"], row["seed"]) for row in results["rows"][:4]] == [
        ("Words", "GMM", None), ("Words", "DNN", 1), ("Words", "DNN", 2), ("Words", "DNN", 3),
    ]  # fmt: skip
    assert {"set", "wer", "errors", "words", "frame_accuracy"} <= set(results["rows"][1])
    assert results["rows"][4] == {"table": "Speed", **bench}
    assert results["provenance"]["seeds"] == [1, 2, 3]
    assert {"commit", "versions", "machine", "seconds"} <= set(results["provenance"])
    assert results["provenance"]["made_at"] == {"ab12": "stages 0 and 1", "cd34": "stage 2"}
    text = (tmp_path / "RESULTS.md").read_text()
    assert capsys.readouterr().out == text
    for part in (
        "# AN4",
        "One remark.",
        "## Words",
        "6.25 ± ",
        "## Speed",
        "| yes |",
        "normaliser: none",
        "2 min 10 s",
        "- stages 0 and 1: commit ab12\n- stage 2: commit cd34\n",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "rows.jsonl:1: not valid JSON"),
        ("[" * 100_000, "rows.jsonl:1: not valid JSON: nested too deeply"),
        ('{"wer": 1}', "expected an object with 'system'"),
        ('{"system": 3}', "rows.jsonl:1: 'system' is 3; expected text"),
        ('{"system": "a", "wer": "0.1"}', "'wer' is '0.1'; expected a finite number or null"),
        ('{"system": "a", "wer": NaN}', "'wer' is nan; expected a finite number or null"),
        ('{"system": "a", "seed": 1.5}', "'seed' is 1.5; expected a whole number or null"),
        ('{"system": "a", "gain": {"by": 1}}', "'gain' is {'by': 1}; expected text, a finite number, true, false"),
        ('{"system": "a", "value": ' + "9" * 400 + "}", "'value' is 9+...9+; expected text, a finite number"),
        ('{"system": "a\\ud800"}', "expected text"),
        ('{"system": "a", "wer": 0.1, "wer_spread": "x"}', "'wer_spread' is a computed column"),
        ('{"system": "a", "frame_errors": 3, "frame_errors_range": 3}', "'frame_errors_range' is a computed column"),
        ('{"system": "a", "seeds": "many"}', "'seeds' is a computed column"),
    ],
)
def test_a_malformed_row_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / "rows.jsonl", "t")


@pytest.mark.parametrize(
    ("options", "message"), [([], "nothing to report"), (["--system", "GMM"], "at least one decode folder")]
)
def test_an_empty_report_is_an_error(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--title", "T", "--output", str(tmp_path), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_picture_stands_between_the_tables_with_its_address_from_the_report(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "my figures").mkdir(parents=True)
    (tmp_path / "out" / "my figures" / "curve.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    gmm, *dnn = map(str, folders)
    command = ["report", "--title", "T", "--output", "out", "--table", "First", "--system", "GMM", gmm]
    command += ["--picture", "out/my figures/curve.png", "Hard targets\n  turn over."]
    assert main([*command, "--system", "DNN", dnn[0], "--table", "Second", "--system", "DNN", *dnn]) == 0
    text = capsys.readouterr().out
    picture = "![curve](my%20figures/curve.png)\n\nHard targets turn over.\n"
    assert text.index("## First") < text.index(picture) < text.index("## Second")
    assert text.count("## First") == 1


def test_a_picture_that_would_not_move_with_the_report_is_refused(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere.png").write_bytes(b"")
    out = tmp_path / "out"
    for file, message in (("elsewhere.png", "elsewhere.png: not in or below"), ("none.png", "none.png: no such pict")):
        command = ["report", "--title", "T", "--output", str(out), "--system", "GMM", str(folders[0])]
        assert main([*command, "--picture", str(tmp_path / file), "Caption"]) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_null_is_a_value_that_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"system": "a", "set": "x", "wer": null}\n\n{"system": "b", "wer": 0.1}\n')
    first, second = summarise(read_rows(tmp_path / "rows.jsonl", "t"))
    assert ("wer" in first, second["wer"]) == (False, 0.1)


def test_a_table_holds_systems_or_benchmarks(tmp_path: Path) -> None:
    entries = [ReportEntry({"table": "t", "name": "speed", "value": 3}), ReportEntry({"table": "t", "system": "a"})]
    with pytest.raises(UserError, match="the table 't' mixes"):
        write_report(tmp_path, "T", entries, provenance())


def test_the_footnote_says_what_the_real_time_factor_was_measured_from(tmp_path: Path) -> None:
    def note(**origins: str | None) -> str:
        entries = []
        for name, origin in origins.items():
            folder = _decode_folder(tmp_path / name / "decode_test", 1, real_time_factor=0.1)
            summary = {"real_time_factor": 0.1} | ({"real_time_factor_from": origin} if origin else {})
            (folder / "decode.json").write_text(json.dumps(summary))
            entries += scored_entries("t", name, [folder])
        page = write_report(tmp_path, "T", entries, provenance())
        assert "real time factor from" not in page  # no column of its own
        return next(line for line in page.splitlines() if line.startswith("- RTF"))

    start = "- RTF: CPU time of decoding divided by the duration of the audio"
    assert note(a="audio", b="audio") == start.replace("RTF", "RTF, from audio") + "."
    assert note(a="features") == start.replace("RTF", "RTF, from stored features") + "."
    assert note(a="audio", b="features") == f"{start}; from audio: a; from stored features: b."
    assert note(a=None) == f"{start}."
    assert note(a=None, b="audio") == f"{start}; input not recorded: a; from audio: b."


def test_a_bar_or_a_line_break_in_a_name_does_not_break_the_table(tmp_path: Path) -> None:
    rows = [ReportEntry({"table": "t", "system": "a|b\nc", "set": "x", "wer": 0.1})]
    page = write_report(tmp_path, "T", rows, provenance())
    assert "| a\\|b c | x " in page


def test_words_that_differ_in_unicode_form_only_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "decode_test"
    save_score(score({"u": ["caf\u00e9", "A"]}, {"u": ["cafe\u0301", "B"]}), folder / "wer.json")
    page = write_report(tmp_path, "T", scored_entries("t", "net", [folder]), provenance())
    assert "net: warning: 1 of 2 substitutions differ only in Unicode form (NFC and NFD)" in page


BAD = "\udcff"  # how Python holds a byte of the command line that is not UTF-8


@pytest.mark.parametrize(
    "options", [["--title", BAD], ["--table", BAD], ["--system", BAD, "FOLDER"], ["--remark", BAD]], ids=lambda o: o[0]
)
def test_text_that_is_not_utf_8_is_refused_and_nothing_is_written(
    options: list[str], folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", "--output", str(tmp_path / "out"), "--title", "T", "--system", "GMM", str(folders[0])]
    assert main([*command, *[str(folders[0]) if word == "FOLDER" else word for word in options]]) == 1
    assert "not UTF-8, so RESULTS.md cannot hold it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_or_picture_whose_name_is_not_utf_8_is_refused(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = folders[0].rename(folders[0].with_name(f"decode_{BAD}"))
    assert main(["report", "--output", str(tmp_path), "--title", "T", "--system", "GMM", str(odd)]) == 1
    assert "cannot be written as UTF-8" in capsys.readouterr().err
    (tmp_path / f"{BAD}.png").write_bytes(b"")
    command = ["report", "--output", str(tmp_path), "--title", "T", "--system", "GMM", str(folders[1])]
    assert main([*command, "--picture", str(tmp_path / f"{BAD}.png"), "Caption"]) == 1
    assert "not a UTF-8 name" in capsys.readouterr().err
    assert not (tmp_path / "RESULTS.md").exists()
