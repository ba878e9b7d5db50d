"""Validation: every problem of the tables and of the audio, in one go."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.cli import main
from asr_kd.corpus.datadir import DataDir
from asr_kd.corpus.validate import validate

MakeDir = Callable[..., DataDir]


def messages(path: Path, **options: object) -> list[str]:
    return [str(problem).removeprefix(f"{path}/").replace(f"{path}/", "") for problem in validate(path, **options)]  # type: ignore[arg-type]


def test_a_sound_directory_has_no_problems(make_dir: MakeDir) -> None:
    assert validate(make_dir({"a-1": 0.2, "b-1": 0.3}).path, lexicon={"ONE", "TWO"}) == []


def test_every_bad_recording_is_named_with_its_line(make_dir: MakeDir) -> None:
    path = make_dir({f"a-{n}": 0.2 for n in range(1, 9)}).path
    rng = np.random.default_rng(0)
    soundfile.write(path / "a-1.wav", np.zeros(3200), 16000)
    soundfile.write(path / "a-2.wav", [0.1], 16000)
    soundfile.write(path / "a-3.wav", np.sign(rng.standard_normal(3200)), 16000)
    (path / "a-4.wav").write_bytes((path / "a-4.wav").read_bytes()[:-100])
    (path / "a-5.wav").write_bytes(b"")
    (path / "a-6.wav").unlink()
    soundfile.write(path / "a-7.wav", 0.1 * rng.standard_normal((1600, 2)), 8000)
    assert messages(path) == [
        "wav.scp:1: 'a-1': a-1.wav: silent: every sample is 0",
        "wav.scp:2: 'a-2': a-2.wav: 1 sample, shorter than one frame (0.025 s)",
        "wav.scp:3: warning: 'a-3': a-3.wav: clipped: 100.0% at full scale",
        "wav.scp:4: 'a-4': a-4.wav: truncated: 6,300 bytes of samples where the header says 6,400",
        "wav.scp:5: 'a-5': a-5.wav: the file is empty; audio was expected",
        "wav.scp:6: 'a-6': a-6.wav: no such audio file",
        "wav.scp:7: warning: 'a-7': a-7.wav: has several channels, which are averaged; "
        "to take one, give it in the fifth column of segments",
        "wav.scp: warning: sample rates differ between utterances: 8000 Hz (1), 16000 Hz (4)",
    ]


def test_tables_lexicon_and_audio_are_checked_in_one_go(make_dir: MakeDir) -> None:
    path = make_dir({"a-1": 0.2, "a-2": 0.2, "b-1": 0.2}).path
    (path / "text").write_text("a-2 ONE THREE\na-1\nc-1 FOUR\n")
    (path / "spk2utt").write_text("a a-1\nb b-1 a-2\n")
    (path / "b-1.wav").write_bytes(b"text")
    assert [message.split(";")[0] for message in messages(path, lexicon={"ONE", "TWO"}, jobs=2)] == [
        "text:2: 'a-1' comes after 'a-2': not sorted",
        "wav.scp:3: 'b-1' is not in text",
        "text:3: 'c-1' has no audio: it is not in wav.scp",
        "text:2: warning: 'a-1': the transcript is empty",
        "spk2utt:1: 'a' disagrees with utt2spk on 1 utterance, first 'a-2'",
        "spk2utt:2: 'b' disagrees with utt2spk on 1 utterance, first 'a-2'",
        "text:1: 'a-2': not in the lexicon: THREE",
        "text:3: 'c-1': not in the lexicon: FOUR",
        "wav.scp:3: 'b-1': b-1.wav: not readable as audio, or truncated: Format not recognised",
    ]


def test_segments_beyond_the_recording_are_named(make_dir: MakeDir) -> None:
    path = make_dir({"a-1": 1.0}).path
    for name in ("text", "spk2utt"):
        (path / name).unlink()
    (path / "utt2spk").write_text("u1 a\nu2 a\nu3 a\n")
    (path / "segments").write_text("u1 a-1 0 0.5\nu2 a-1 0.5 1.5\nu3 other 0 1\n")
    assert [[*message.split(":", 2)[:2], message.split("'")[1]] for message in messages(path)] == [
        ["segments", "3", "u3"],
        ["segments", "2", "u2"],
    ]


def test_a_refused_pipe_is_not_run(make_dir: MakeDir, tmp_path: Path) -> None:
    path = make_dir({"a-1": 0.2}).path
    (path / "wav.scp").write_text(f"a-1 touch {tmp_path}/ran |\n")
    assert "is a pipe" in messages(path)[0]
    assert not (tmp_path / "ran").exists()


def test_the_command_exits_with_1_for_errors_and_0_for_warnings(
    make_dir: MakeDir, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_dir({"a-1": 0.2, "a-2": 0.2}).path
    (path / "text").write_text("a-1\na-2 ONE\n")
    assert main(["corpus", "validate", str(path), "--jobs", "1"]) == 0
    assert "text:1: warning" in capsys.readouterr().out
    (path / "a-2.wav").unlink()
    assert main(["corpus", "validate", str(path), "--jobs", "1"]) == 1
    captured = capsys.readouterr()
    assert "wav.scp:2: 'a-2'" in captured.out
    assert captured.err.endswith("1 error, 1 warning\n")


def test_of_many_problems_of_one_kind_a_few_are_shown(make_dir: MakeDir, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_dir({f"a-{number}": 0.1 for number in range(9)}).path
    for number in range(7):
        (path / f"a-{number}.wav").unlink()
    (path / "a-8.wav").write_bytes(b"text")
    assert main(["corpus", "validate", str(path)]) == 1
    shown = capsys.readouterr().out.replace(f"{path}/", "").splitlines()
    assert [line.split(";")[0] for line in shown] == [
        *(f"wav.scp:{n + 1}: 'a-{n}': a-{n}.wav: no such audio file" for n in range(3)),
        "wav.scp: 4 more of this kind (no such audio file)",
        "wav.scp:9: 'a-8': a-8.wav: not readable as audio, or truncated: Format not recognised",
    ]
    assert main(["corpus", "validate", str(path), "--all"]) == 1
    assert capsys.readouterr().out.count("no such audio file") == 7
