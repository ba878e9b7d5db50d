import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from asr_kd.errors import UserError
from asr_kd.files import atomic_write, read_text, sha256, write_bytes, write_text


def test_a_file_appears_with_its_content_and_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "première\n")
    assert read_text(tmp_path / "a" / "b.txt") == "première\n"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new", b"x")
    (tmp_path / "usual").write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")

    def write_half() -> None:
        with atomic_write(tmp_path / "f") as stream:
            stream.write("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")
    program = (
        "import os, signal, sys; from asr_kd.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as stream:\n"
        "    stream.write('new'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "f")])
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "f").read_text() == "old"


def test_a_full_disk_is_a_clear_error_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "f", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"f: the disk is full .* free some space"):
        write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_another_error_of_the_system_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_text(tmp_path / "f", "new")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"latin1: not UTF-8 text \(byte 3\)"):
        read_text(tmp_path / "latin1")
    with pytest.raises(UserError, match="absent: no such file"):
        read_text(tmp_path / "absent")
    with pytest.raises(UserError, match="is a folder"):
        read_text(tmp_path)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    write_bytes(tmp_path / "f", b"abc" * 1000)
    assert sha256(tmp_path / "f") == hashlib.sha256(b"abc" * 1000).hexdigest()
