"""Decoding that is interrupted, and what becomes of its results."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.cli import main
from asr_kd.decode import journal, recognise
from asr_kd.decode.model_folder import Model
from tests.killing import Killed, killed_at


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Ten files of half a second."""
    paths = [str(tmp_path / f"{number}.wav") for number in range(10)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, 8000).clip(-1, 1), 16000)
    return paths


def without_times(folder: Path) -> dict[str, str]:
    """The files of a decoding, without the computing times in ``decode.json``."""
    content = {path.name: path.read_text() for path in sorted(folder.iterdir())}
    summary = json.loads(content["decode.json"])
    del summary["cpu_seconds"], summary["real_time_factor"]
    return {**content, "decode.json": json.dumps(summary)}


@pytest.mark.parametrize("call", [1, 4, 10])
def test_a_killed_decoding_is_resumed_and_ends_as_if_it_had_not_been(
    model: Model, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    command = ["decode", str(model.path), *files, "--output"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    decode = recognise.Recogniser._decode
    with monkeypatch.context() as patch:
        patch.setattr(recognise.Recogniser, "_decode", killed_at(decode, call))
        with pytest.raises(Killed):
            main([*command, str(tmp_path / "out")])
    calls: list[str] = []

    def counted(self: recognise.Recogniser, name: str, *rest: object) -> object:
        calls.append(name)
        return decode(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(recognise.Recogniser, "_decode", counted)
    assert main([*command, str(tmp_path / "out")]) == 0
    assert calls == files[call - 1 :]
    assert without_times(tmp_path / "out") == without_times(tmp_path / "whole")


def test_a_line_that_was_cut_or_damaged_is_decoded_again(
    model: Model, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["decode", str(model.path), *files, "--output"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(recognise.Recogniser, "_decode", killed_at(recognise.Recogniser._decode, 6))
        with pytest.raises(Killed):
            main([*command, str(tmp_path / "out")])
    file = tmp_path / "out" / journal.NAME
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    damaged = [lines[0], lines[1].replace(b'"frames"', b'"phrames"'), b"[[[\n", lines[3][:50] + b"\n", lines[4][:-9]]
    file.write_bytes(b"".join(damaged))
    assert main([*command, str(tmp_path / "out")]) == 0
    assert without_times(tmp_path / "out") == without_times(tmp_path / "whole")


def test_results_of_other_settings_or_of_changed_files_are_not_used(
    model: Model, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["decode", str(model.path), *files, "--output", str(tmp_path / "out")]
    decode = recognise.Recogniser._decode
    with monkeypatch.context() as patch:
        patch.setattr(recognise.Recogniser, "_decode", killed_at(decode, 4))
        with pytest.raises(Killed):
            main(command)
    calls: list[str] = []

    def counted(self: recognise.Recogniser, name: str, *rest: object) -> object:
        calls.append(name)
        if len(calls) == 6:
            raise Killed
        return decode(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(recognise.Recogniser, "_decode", counted)
    with pytest.raises(Killed):
        main([*command, "--word-penalty", "-3"])
    assert calls == files[:6]  # with another penalty: from the start
    calls.clear()
    soundfile.write(files[1], np.random.default_rng(77).normal(0, 0.1, 8800).clip(-1, 1), 16000)
    with pytest.raises(Killed):
        main(command)
    assert calls == [files[1], *files[3:8]]  # with the first penalty: its results are still here, but for a new file
    calls[:] = [""] * 10
    assert main(command) == 0
    assert calls[10:] == files[7:]
    assert not (tmp_path / "out" / journal.NAME).exists()


def test_a_second_process_is_kept_out_of_the_folder(
    model: Model, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with journal.Journal(tmp_path / "out", {}):
        assert main(["decode", str(model.path), *files, "--output", str(tmp_path / "out")]) == 1
    assert "another process is decoding into this folder" in capsys.readouterr().err


def process(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "asr_kd", *arguments]
    return subprocess.Popen(  # type: ignore[call-overload]
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def test_a_closed_pipe_does_not_end_a_decoding_that_is_kept(model: Model, files: list[str], tmp_path: Path) -> None:
    running = process("decode", str(model.path), *files, "--output", str(tmp_path / "out"))
    assert running.stdout is not None
    assert running.stdout.readline().startswith(files[0])
    running.stdout.close()  # as `| head -1` does
    assert running.wait() == 0
    assert len((tmp_path / "out" / "text").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("jobs", "send", "times"),
    [
        (1, os.kill, 1),  # as `kill -INT` does
        (2, os.killpg, 1),  # as a terminal does
        pytest.param(1, os.killpg, 5, marks=pytest.mark.soak),
        pytest.param(2, os.kill, 5, marks=pytest.mark.soak),
    ],
)
def test_ctrl_c_at_any_moment_ends_with_130_and_one_sentence(
    model: Model, tmp_path: Path, files: list[str], jobs: int, send: Callable[[int, int], None], times: int
) -> None:
    """Minutes of audio, so that the signal finds the process in compiled code."""
    samples = np.random.default_rng(1).normal(0, 0.1, 16000 * 240).clip(-1, 1)
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    links = [tmp_path / f"long{number}.wav" for number in range(200)]
    for link in links:
        link.symlink_to(tmp_path / "long.wav")
    arguments = ("--format", "json", "--jobs", str(jobs), "--output", str(tmp_path / "out"))
    moments = random.Random(jobs)
    for _ in range(times):
        running = process("decode", str(model.path), files[0], *map(str, links), *arguments)
        assert running.stdout is not None
        running.stdout.readline()  # the first, short one is done
        time.sleep(moments.uniform(0, 1.5))
        send(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=60)
        message = "asr-kd decode: interrupted; run the same command again to resume"
        assert (running.returncode, errors.splitlines()[-1]) == (130, message)
        assert "Traceback" not in errors
