import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from asr_kd.errors import UserError, counted
from asr_kd.files import (
    atomic_write,
    check_folder,
    fields_of,
    file_name,
    lines_of,
    parse_json,
    read_bytes,
    read_lines,
    read_text,
    sha256,
    write_bytes,
    write_text,
)


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
    with pytest.raises(UserError, match=r"latin1: not UTF-8 text \(line 1, byte 3\)"):
        read_text(tmp_path / "latin1")
    with pytest.raises(UserError, match="absent: no such file"):
        read_text(tmp_path / "absent")
    with pytest.raises(UserError, match="is a folder"):
        read_text(tmp_path)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    write_bytes(tmp_path / "f", b"abc" * 1000)
    assert sha256(tmp_path / "f") == hashlib.sha256(b"abc" * 1000).hexdigest()


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\f", "\v", "\x1c"])
def test_only_a_line_feed_ends_a_line(separator: str) -> None:
    assert lines_of(f"utt-a ONE{separator}TWO\nutt-b\r\n\n", "x") == [f"utt-a ONE{separator}TWO", "utt-b", ""]


@pytest.mark.parametrize("text", ["a ONE\rb TWO\r", "a ONE\rb TWO\n", "a ONE\nb TWO\rc\r\n", "a ONE\r\r\nb\rc"])
def test_a_carriage_return_within_a_line_is_refused(text: str) -> None:
    # the line ends of an old Macintosh: two utterances would become one with the words of both
    with pytest.raises(UserError, match=r"text:[12]: a carriage return within the line"):
        lines_of(text, "text")


def test_carriage_returns_before_the_line_feed_are_no_part_of_the_line() -> None:
    assert lines_of("a ONE\r\r\nb TWO\r", "x") == ["a ONE", "b TWO"]


def test_fields_end_at_white_space_of_ascii_only() -> None:
    assert fields_of("u\u00a01\tA \u3000B\x0bC \r") == ["u\u00a01", "A", "\u3000B", "C"]
    assert fields_of(" \u00e9  A B ", 1) == ["\u00e9", "A B "]
    assert fields_of("a b  c", 1) == ["a", "b  c"]


def test_a_last_line_needs_no_line_feed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\nb")
    assert read_lines(tmp_path / "f") == ["a", "b"]
    (tmp_path / "f").write_bytes(b"")
    assert read_lines(tmp_path / "f") == []


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfONE W AH N\n")
    assert read_text(tmp_path / "f") == "ONE W AH N\n"


def test_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("ONE".encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16"):
        read_text(tmp_path / "f")


def test_utf_16_without_a_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\n" + "ONE".encode("utf-16-be"))
    with pytest.raises(UserError, match="f:2: has a zero byte"):
        read_text(tmp_path / "f")


def test_a_pipe_or_device_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(UserError, match="device or a named pipe"):
            read_text(path)


def test_a_pipe_of_the_shell_is_read(tmp_path: Path) -> None:
    code = "import sys; from asr_kd.files import read_lines; print(read_lines(sys.argv[1]))"
    script = f"{sys.executable} -c '{code}' <(sleep 0.2; echo one; echo two)"
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout == "['one', 'two']\n"


def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_bytes(tmp_path / "f", limit=5) == b"12345"
    with pytest.raises(UserError, match="longer than 4 bytes"):
        read_bytes(tmp_path / "f", limit=4)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1" * 5000, b"\xff"])
def test_what_is_not_json_is_refused_by_name(text: str | bytes) -> None:
    with pytest.raises(UserError, match="index.json"):
        parse_json(text, "index.json")


def test_an_id_becomes_a_file_name_inside_the_folder() -> None:
    ids = [
        "a",
        "A",
        "x/y",
        "x%2Fy",
        "../up",
        "..",
        ".",
        ".x",
        "",
        "a b",
        "a\nb",
        "ü",
        "a" * 300,
        "a" * 299,
        "\x00",
        "%",
    ]
    names = [file_name(each) for each in ids]
    assert len(set(names)) == len(ids)
    assert not any("/" in name or name in (".", "..") or len(name.encode()) > 200 for name in names)
    assert file_name("spk1-utt_2.x@+=") == "spk1-utt_2.x@+="


def test_an_error_of_the_machine_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\nfrom asr_kd.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try: write_bytes(sys.argv[1], bytes(100))\nexcept OSError as error: print(error.errno, error.filename)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], capture_output=True, text=True)
    assert run.stdout == f"{errno.EFBIG} {tmp_path / 'f'}\n"
    assert not list(tmp_path.iterdir())


def test_text_that_utf_8_cannot_hold_is_an_error_that_names_the_file_and_the_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("old")
    with pytest.raises(UserError, match=r"text: 'id \\udcff A.* cannot be written as UTF-8"):
        write_text(tmp_path / "text", "id \udcff A B\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("text", "old")]


def test_a_folder_of_the_wrong_kind_is_named_with_one_inside_it_that_is_right(tmp_path: Path) -> None:
    write_text(tmp_path / "hmm" / "lda" / "states.yaml", "")

    def check(name: str) -> None:
        check_folder(tmp_path / name, "states.yaml", "an HMM folder", "give one from asr-kd hmm train")

    check("hmm/lda")
    with pytest.raises(
        UserError, match=r"hmm: not an HMM folder \(no states.yaml\); give one inside it, such as .*/lda$"
    ):
        check("hmm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: not an HMM folder .*; give one from asr-kd hmm train$"):
        check("empty")
    with pytest.raises(UserError, match="absent: no such folder; expected an HMM folder"):
        check("absent")
    with pytest.raises(UserError, match="states.yaml: is a file; expected an HMM folder"):
        check("hmm/lda/states.yaml")


def test_a_count_has_its_singular_and_commas() -> None:
    assert counted(1, "utterance") == "1 utterance"
    assert counted(3429, "hypothesis", "hypotheses") == "3,429 hypotheses"
