"""Data directories: what is written is read back, and every inconsistency is refused by file and line."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.corpus import datadir as datadir_module
from asr_kd.corpus.datadir import AudioSegment, read_data_dir, scan, write_data_dir
from asr_kd.errors import UserError
from tests.killing import Killed, killed_at

WAV = {"b-1": "/b1.wav", "a-2": "/a 2.wav", "a-1": "/a1.wav"}
TEXT = {"b-1": ["ÉTÉ"], "a-2": ["TWO", "TWO"], "a-1": ["ONE"]}
UTT2SPK = {"b-1": "b", "a-2": "a", "a-1": "a"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data_dir(tmp_path, WAV, TEXT, UTT2SPK)
    return tmp_path


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def test_what_is_written_is_read_back(folder: Path) -> None:
    datadir = read_data_dir(folder)
    assert datadir.utterances == ("a-1", "a-2", "b-1")
    assert datadir.wav == WAV
    assert datadir.words("a-2") == ["TWO", "TWO"]
    assert datadir.speakers == {"a": ["a-1", "a-2"], "b": ["b-1"]}
    assert datadir.segments is None
    assert (folder / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1), st.just("/x.wav")))
def test_any_ids_come_back_sorted_by_their_bytes(tmp_path_factory: pytest.TempPathFactory, wav: dict[str, str]) -> None:
    if not wav:
        return
    datadir = write_data_dir(tmp_path_factory.mktemp("data"), wav, {}, {utt: utt for utt in wav})
    assert list(datadir.utterances) == sorted(wav, key=str.encode)


def test_segments_are_written_to_the_microsecond(tmp_path: Path) -> None:
    segments = {"u1": AudioSegment("rec", 0.0, 12345.678901), "u2": AudioSegment("rec", 12345.678901, 12346.0)}
    datadir = write_data_dir(tmp_path, {"rec": "/r.wav"}, {}, {"u1": "s", "u2": "s"}, segments)
    assert datadir.segments == segments
    assert datadir.utterances == ("u1", "u2")


def test_a_rewritten_directory_keeps_no_stale_tables(folder: Path) -> None:
    datadir = write_data_dir(folder, {"x": "/x.wav"}, {}, {"x": "s"})
    assert not (folder / "text").exists()
    assert datadir.text == {}


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_directory_whose_writing_was_killed_is_not_taken_for_whole(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"x": "/x.wav"}, {"x": ["OLD"]}, {"x": "s"}
    new = {"y": "/y.wav", "z": "/z.wav"}, {"y": ["NEW"], "z": ["NEW"]}, {"y": "s", "z": "s"}
    write_data_dir(tmp_path, *old)
    with monkeypatch.context() as patch:
        patch.setattr(datadir_module, "write_text", killed_at(datadir_module.write_text, call))
        with pytest.raises(Killed):
            write_data_dir(tmp_path, *new)
    with pytest.raises(UserError, match=r"wav\.scp: no such file"):
        read_data_dir(tmp_path)
    assert write_data_dir(tmp_path, *new).utterances == ("y", "z")


def test_a_transfer_set_has_no_words(tmp_path: Path) -> None:
    datadir = write_data_dir(tmp_path, {"x": "/x.wav"}, {}, {"x": "s"})
    with pytest.raises(UserError, match="no transcript of 'x'"):
        datadir.words("x")


def test_subset_keeps_only_what_it_needs(tmp_path: Path) -> None:
    segments = {"u1": AudioSegment("r1", 0.0, 1.0), "u2": AudioSegment("r2", 0.0, 1.0)}
    datadir = write_data_dir(
        tmp_path, {"r1": "/1", "r2": "/2"}, {"u1": ["A"], "u2": []}, dict.fromkeys(segments, "s"), segments
    )
    part = datadir.subset(["u2"])
    assert (part.utterances, part.wav, part.text) == (("u2",), {"r2": "/2"}, {"u2": ()})


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("wav.scp", "a-1 /again.wav", r"wav.scp:4: 'a-1' is a duplicate of line 1"),
        ("utt2spk", "a-0 a", r"utt2spk:4: 'a-0' comes after 'b-1': not sorted"),
        ("text", "c-1 WORD", r"text:4: 'c-1' has no audio: it is not in wav.scp"),
        ("wav.scp", "c-1 /c.wav", r"wav.scp:4: 'c-1' is not in utt2spk"),
        ("wav.scp", "c-1", r"wav.scp:4: 'c-1' has nothing after it"),
        ("text", "", r"text:4: the line is empty"),
        ("spk2utt", "c c-1", r"spk2utt:3: 'c' disagrees with utt2spk"),
        ("segments", "a-1 rec 0 1", r"segments:1: 'a-1': recording 'rec' is not in wav.scp"),
        ("segments", "a-1 a-1 1 one", r"segments:1: 'a-1': expected RECORDING START END"),
        ("segments", "a-1 a-1 2 1", r"segments:1: 'a-1': expected 0 <= start < end .*, found 2 to 1"),
        ("segments", "a-1 a-1 0 nan", r"segments:1: 'a-1': expected 0 <= start < end .*, found 0 to nan"),
    ],
)
def test_a_bad_line_is_named(folder: Path, file: str, line: str, message: str) -> None:
    (folder / file).touch()
    append(folder / file, line)
    with pytest.raises(UserError, match=message):
        read_data_dir(folder)


def test_an_utterance_twice_on_a_line_of_spk2utt_is_named(folder: Path) -> None:
    (folder / "spk2utt").write_text("a a-1 a-2 a-1\nb b-1\n")
    with pytest.raises(UserError, match=r"spk2utt:1: 'a' has 'a-1' twice; remove one"):
        read_data_dir(folder)


def test_audio_without_a_transcript_is_named(folder: Path) -> None:
    (folder / "text").write_text("a-1 ONE\nb-1 TWO\n")
    with pytest.raises(UserError, match=r"wav.scp:2: 'a-2' is not in text"):
        read_data_dir(folder)


def test_all_problems_are_found_and_counted(folder: Path) -> None:
    (folder / "text").write_text("a-1 ONE\nc-1 X\nb-1 TWO\n")
    _, problems = scan(folder)
    assert len(problems) == 3  # unsorted, a-2 without text, c-1 without audio
    with pytest.raises(UserError, match=r"\(2 more; list them with: asr-kd corpus validate"):
        read_data_dir(folder)


def test_a_line_without_a_speaker_is_one_problem_not_two(folder: Path) -> None:
    lines = (folder / "utt2spk").read_text().splitlines()
    (folder / "utt2spk").write_text("\n".join([lines[0].split()[0], *lines[1:]]) + "\n")
    _, problems = scan(folder)
    assert [problem.file.name for problem in problems] == ["utt2spk"]


def test_an_empty_transcript_is_only_a_warning(folder: Path) -> None:
    (folder / "text").write_text("a-1\na-2 X\nb-1 Y\n")
    assert read_data_dir(folder).words("a-1") == []
    _, problems = scan(folder)
    assert [str(problem) for problem in problems] == [f"{folder}/text:1: warning: 'a-1': the transcript is empty"]


def test_pipes_are_refused_unless_allowed(folder: Path) -> None:
    (folder / "wav.scp").write_text("a-1 touch /tmp/pwned |\na-2 /x\nb-1 /y\n")
    with pytest.raises(UserError, match=r"wav.scp:1: 'a-1' is a pipe.*--allow-pipes"):
        read_data_dir(folder)
    assert read_data_dir(folder, allow_pipes=True).wav["a-1"] == "touch /tmp/pwned |"


@pytest.mark.parametrize("file", ["wav.scp", "utt2spk"])
def test_a_missing_table_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file}: no such file"):
        read_data_dir(folder)


def test_an_empty_table_and_bytes_that_are_not_text_are_named(folder: Path) -> None:
    (folder / "text").write_bytes(b"a-1 \xff\xfe\n")
    with pytest.raises(UserError, match=r"text: not UTF-8 text"):
        read_data_dir(folder)
    (folder / "wav.scp").write_text("")
    with pytest.raises(UserError, match=r"wav.scp: the file is empty"):
        read_data_dir(folder)


def test_segments_may_end_with_the_recording_and_name_a_channel(tmp_path: Path) -> None:
    segments = {"u1": AudioSegment("rec", 0.0, -1), "u2": AudioSegment("rec", 0.5, 1.0, 1)}
    assert write_data_dir(tmp_path, {"rec": "/r.wav"}, {}, dict.fromkeys(segments, "s"), segments).segments == segments
    assert (tmp_path / "segments").read_text() == "u1 rec 0 -1\nu2 rec 0.5 1 1\n"
    (tmp_path / "segments").write_text("u1 rec 0 -1.0 A\nu2 rec 0.5 1 B\n")
    assert [segment.channel for segment in (read_data_dir(tmp_path).segments or {}).values()] == [0, 1]


@pytest.mark.parametrize("line", ["0", "0 1 2 3", "0 1 -1", "0 1 C", "a b", "0 1 1.5", "0 1 99999"])
def test_a_malformed_segment_is_named(tmp_path: Path, line: str) -> None:
    write_data_dir(tmp_path, {"rec": "/r.wav"}, {}, {"u": "s"}, {"u": AudioSegment("rec", 0.0, 1.0)})
    (tmp_path / "segments").write_text(f"u rec {line}\n")
    with pytest.raises(UserError, match="segments:1: 'u': expected RECORDING START END in seconds"):
        read_data_dir(tmp_path)


@pytest.mark.parametrize("times", ["-1 1", "2 1", "0 -2", "0 nan", "nan 1", "0 inf", "inf -1"])
def test_impossible_times_of_a_segment_are_named(tmp_path: Path, times: str) -> None:
    write_data_dir(tmp_path, {"rec": "/r.wav"}, {}, {"u": "s"}, {"u": AudioSegment("rec", 0.0, 1.0)})
    (tmp_path / "segments").write_text(f"u rec {times}\n")
    with pytest.raises(UserError, match=r"segments:1: 'u': expected 0 <= start < end \(or end -1\)"):
        read_data_dir(tmp_path)


def test_ids_that_would_escape_as_file_names_are_warned_of(tmp_path: Path) -> None:
    ids = ["../up", "a/b", "a\x07b", "good", "naïve-1"]
    write_data_dir(tmp_path, dict.fromkeys(ids, "/x.wav"), {}, dict.fromkeys(ids, "s"))
    warned = [problem.message.split()[0] for problem in scan(tmp_path)[1] if problem.kind == "unsafe id"]
    assert warned == ["'../up'", r"'a\x07b'", "'a/b'"]


def test_a_folder_of_audio_files_is_explained(tmp_path: Path) -> None:
    (tmp_path / "b.wav").touch()
    (tmp_path / "a.FLAC").touch()
    with pytest.raises(UserError, match=r"is a folder of audio files \(a.FLAC, ...\): to decode them, name the files"):
        read_data_dir(tmp_path)


def test_text_from_other_systems_is_read_by_its_lines(tmp_path: Path) -> None:
    write_data_dir(tmp_path, {"u1": "/1.wav", "u2": "/2.wav"}, {}, {"u1": "s", "u2": "s"})
    (tmp_path / "text").write_bytes("\ufeffu1\tONE\x0cTWO\u2028THREE\u0085FOUR\r\nu2 FIVE\r\n".encode())
    assert [len(read_data_dir(tmp_path).words(utt)) for utt in ("u1", "u2")] == [4, 1]
    os.remove(tmp_path / "text")
    os.mkfifo(tmp_path / "text")
    with pytest.raises(UserError, match=r"text: is a device or a named pipe"):
        read_data_dir(tmp_path)


def test_an_id_ends_at_white_space_of_ascii_only(tmp_path: Path) -> None:
    # Kaldi, too, takes a no-break space for a part of the id; the rest of the id was read as a word, or as a path
    write_data_dir(tmp_path, {"a": "/1.wav", "b": "/2.wav"}, {}, {"a": "s", "b": "s"})
    for name in ("wav.scp", "utt2spk", "spk2utt"):
        content = (tmp_path / name).read_text()
        (tmp_path / name).write_text(re.sub(r"\bb\b", "b\u00a0c", content), encoding="utf-8")
    (tmp_path / "text").write_text("a ONE\u3000TWO\nb\u00a0c THREE\n", encoding="utf-8")
    found = read_data_dir(tmp_path)
    assert found.utterances == ("a", "b\u00a0c")
    assert found.text == {"a": ("ONE", "TWO"), "b\u00a0c": ("THREE",)}
    assert found.wav["b\u00a0c"] == "/2.wav"
    assert any("rename it" in str(problem) for problem in scan(tmp_path)[1])


def test_two_speakers_of_one_utterance_are_refused(tmp_path: Path) -> None:
    write_data_dir(tmp_path, {"a": "/1.wav"}, {}, {"a": "s"})
    (tmp_path / "utt2spk").write_text("a s t\n")
    (tmp_path / "spk2utt").unlink()
    with pytest.raises(UserError, match=r"utt2spk:1: 'a': expected one speaker, found 's t'"):
        read_data_dir(tmp_path)


def test_one_id_in_two_unicode_forms_is_explained(tmp_path: Path) -> None:
    write_data_dir(tmp_path, {"caf\u00e9": "/1.wav"}, {"caf\u00e9": ["A"]}, {"caf\u00e9": "s"})
    (tmp_path / "text").write_text("cafe\u0301 A\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not in text; wav.scp and text have this id in two Unicode forms"):
        read_data_dir(tmp_path)


def test_line_ends_of_an_old_macintosh_are_named_by_line(tmp_path: Path) -> None:
    write_data_dir(tmp_path, {"a": "/1.wav", "b": "/2.wav"}, {}, {"a": "s", "b": "s"})
    (tmp_path / "text").write_bytes(b"a ONE\rb TWO\r")
    with pytest.raises(UserError, match=r"text:1: a carriage return within the line"):
        read_data_dir(tmp_path)
