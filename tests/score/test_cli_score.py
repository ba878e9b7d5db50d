import json
from pathlib import Path

import pytest

from asr_kd.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory without audio and a decode folder beside it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "text").write_text("a-1 ONE TWO\na-2 THREE\nb-1 FOUR\n")
    (folder / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b\n")
    (tmp_path / "decode_test").mkdir()
    (tmp_path / "decode_test" / "text").write_text("a-1 ONE TO\nb-1\n")
    return folder


def test_a_decode_folder_gets_its_wer_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decode = data.parent / "decode_test"
    assert main(["score", "--ref", str(data), "--hyp", str(decode)]) == 0
    content = json.loads((decode / "wer.json").read_text())
    assert (content["wer"], content["missing"]) == (0.75, ["a-2"])
    assert content["speakers"]["b"]["deletions"] == 1
    shown = capsys.readouterr().out
    for part in (
        "WER 75.00 %",
        "no hypothesis: 1 utterance, first 'a-2'",
        "TWO > TO (1)",
        "normaliser: none; jiwer",
        "2 speakers",
    ):
        assert part in shown


def test_files_are_scored_where_there_are_no_folders(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = data.parent / "out" / "wer.json"
    files = ["--ref", str(data / "text"), "--hyp", str(data.parent / "decode_test" / "text")]
    assert main(["score", *files]) == 0
    assert not list(data.parent.rglob("wer.json"))
    assert main(["score", *files, "--utt2spk", str(data / "utt2spk"), "-o", str(output)]) == 0
    assert json.loads(output.read_text())["interval"]["unit"] == "speaker"


def test_an_unknown_utterance_leaves_no_file(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decode = data.parent / "decode_test"
    (decode / "text").write_text("c-1 ONE\n")
    assert main(["score", "--ref", str(data), "--hyp", str(decode)]) == 1
    assert "first 'c-1'" in capsys.readouterr().err
    assert not (decode / "wer.json").exists()


def test_an_absent_hypothesis_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--ref", str(data), "--hyp", str(data.parent / "nothing")]) == 1
    assert "nothing: no such file" in capsys.readouterr().err


def test_fewer_than_no_errors_cannot_be_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--ref", str(data), "--hyp", str(data), "--top", "-1"]) == 1
    assert "--top -1: expected 0 or more" in capsys.readouterr().err
