import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.score.score_files import load_score, read_decode_summary, read_speakers, read_transcripts, save_score
from asr_kd.score.wer import score


def test_transcripts_are_read_in_any_order_and_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("b ZWEI\u00a0DREI\na\nc EINS")
    expected = {"b": ("ZWEI", "DREI"), "a": (), "c": ("EINS",)}
    assert read_transcripts(tmp_path / "text") == expected
    assert read_transcripts(tmp_path) == expected


def test_only_newlines_end_a_transcript_and_a_byte_order_mark_is_no_part_of_the_id(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffa ONE\u2028TWO\x0cTHREE\r\nb FOUR\u0085FIVE\n".encode())
    assert read_transcripts(tmp_path) == {"a": ("ONE", "TWO", "THREE"), "b": ("FOUR", "FIVE")}


def test_an_id_ends_at_white_space_of_ascii_only(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\u00a0b ONE\u3000TWO\nc\u2028d\n", encoding="utf-8")
    assert read_transcripts(tmp_path) == {"a\u00a0b": ("ONE", "TWO"), "c\u2028d": ()}


def test_an_empty_first_line_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\na ONE\n")
    with pytest.raises(UserError, match="text:1: the line is empty"):
        read_transcripts(tmp_path)


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


GOOD = {
    "utterances": {"u": ["s", 3, 1, 0, 0]}, "missing": [], "confused": [["A", "B", 1]], "deleted": [], "inserted": [],
    "normaliser": "none", "jiwer": "4.0.0", "unit": "words",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"utterances": {}},
        {"utterances": {"u": ["s", 10**400, 0, 0, 0]}},
        {"utterances": {"u": ["s", -1, 0, 0, 0]}},
        {"utterances": {"u": ["s", 3, 2, 2, 0]}},
        {"utterances": {"u": ["s", 3.5, 1, 0, 0]}},
        {"utterances": {"u": ["s", True, 1, 0, 0]}},
        {"utterances": {"u": ["s", 3, 1, 0]}},
        {"utterances": {"u": ["s", 3, 1, 0, 0], "v": [None, 3, 1, 0, 0]}},
        {"utterances": {"u": [["s"], 3, 1, 0, 0]}},
        {"utterances": [["s", 3, 1, 0, 0]]},
        {"missing": "u"},
        {"missing": [3]},
        {"confused": [["A", "B"]]},
        {"confused": {"A": 1}},
        {"deleted": [["A", "many"]]},
        {"inserted": 7},
        {"normaliser": None},
        {"jiwer": ["4"]},
        {"unit": "letters"},
        {"unit": []},
        {"normaliser": "\ud800"},
    ],
    ids=str,
)
def test_every_value_of_a_wer_json_is_checked(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "wer.json"
    path.write_text("\ufeff" + json.dumps(GOOD))  # a byte-order mark does not matter
    assert load_score(path).total.words == 3
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(UserError, match=r"wer.json: not a wer.json of asr-kd score: .*; score the decode folder again"):
        load_score(path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_wer_json_that_python_cannot_parse_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "wer.json").write_text(content)
    with pytest.raises(UserError, match=r"wer.json: (nested too deeply|not valid JSON)"):
        load_score(tmp_path / "wer.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("beam", "13"), ("real_time_factor", [1]), ("parameters", True), ("frame_accuracy", float("nan")),
     ("acoustic_scale", 10**400), ("tuned_on", 7), ("real_time_factor_from", {})],
)  # fmt: skip
def test_a_wrong_value_in_decode_json_is_named(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "decode.json").write_text(json.dumps({"parameters": 1, key: value}))
    with pytest.raises(UserError, match=f"decode.json: {key} is .*; expected (a number|text). Decode this set again"):
        read_decode_summary(tmp_path)


@pytest.mark.parametrize(("content", "message"), [('{"a": ', "not valid JSON"), ("[1]", "found .1.")])
def test_a_broken_json_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "wer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_score(tmp_path / "wer.json")


def test_the_decoders_summary_is_optional(tmp_path: Path) -> None:
    assert read_decode_summary(tmp_path) == {}
    (tmp_path / "decode.json").write_text(json.dumps({"real_time_factor": 0.01, "parameters": None, "seconds": 11}))
    assert read_decode_summary(tmp_path) == {"real_time_factor": 0.01}
