import json
from pathlib import Path

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.score.score_files import load_score, read_speakers, read_told, read_transcripts, save_score
from asr_kd.score.wer import score


def test_transcripts_are_read_in_any_order_and_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("b ZWEI\u00a0DREI\na\nc EINS")
    expected = {"b": ("ZWEI", "DREI"), "a": (), "c": ("EINS",)}
    assert read_transcripts(tmp_path / "text") == expected
    assert read_transcripts(tmp_path) == expected


def test_an_empty_file_holds_no_transcripts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    assert read_transcripts(tmp_path / "text") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a A\na B\n", "text:2: a second transcript of 'a'"), ("a A\n\nb B\n", "text:2: the line is empty")],
)
def test_a_malformed_transcript_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "text").write_text(text)
    with pytest.raises(UserError, match=message):
        read_transcripts(tmp_path / "text")


def test_a_speaker_is_one_word(tmp_path: Path) -> None:
    (tmp_path / "utt2spk").write_text("a s\nb\n")
    with pytest.raises(UserError, match="'b' has 0 words after it; expected UTTERANCE SPEAKER"):
        read_speakers(tmp_path / "utt2spk")


@pytest.mark.parametrize("speakers", [None, {"u1": "s", "u2": "t"}])
def test_a_score_is_read_as_it_was_written(tmp_path: Path, speakers: dict[str, str] | None) -> None:
    written = score({"u1": ["É", "B"], "u2": ["C"]}, {"u1": ["X", "B", "D"]}, speakers, "upper-strip-punct")
    save_score(written, tmp_path / "wer.json")
    read = load_score(tmp_path / "wer.json")
    assert np.array_equal(read.counts, written.counts)
    assert read.interval == written.interval
    for field in ("utterances", "speakers", "missing", "confused", "deleted", "inserted", "normaliser", "jiwer"):
        assert getattr(read, field) == getattr(written, field)


def test_the_same_score_has_the_same_bytes(tmp_path: Path) -> None:
    for name, order in (("a", ("u1", "u2")), ("b", ("u2", "u1"))):
        save_score(score({utt: ["A", utt] for utt in order}, {"u1": ["B"]}), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", ["{}", '{"utterances": 3}', '{"utterances": {"u": ["s", 1]}}'])
def test_a_foreign_wer_json_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "wer.json").write_text(content)
    with pytest.raises(UserError, match="not a wer.json of asr-kd score"):
        load_score(tmp_path / "wer.json")


@pytest.mark.parametrize(("content", "message"), [('{"a": ', "not valid JSON"), ("[1]", "found list")])
def test_a_broken_json_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "wer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_score(tmp_path / "wer.json")


def test_what_the_decoder_told_is_optional(tmp_path: Path) -> None:
    assert read_told(tmp_path) == {}
    (tmp_path / "decode.json").write_text(json.dumps({"real_time_factor": 0.01, "parameters": None, "seconds": 11}))
    assert read_told(tmp_path) == {"real_time_factor": 0.01}
