"""Writing: idempotent shards, the same bytes whoever writes them, and no bad value stored."""

import dataclasses
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, one_by_one, write_arrays, write_store
from asr_kd.frames import shard as shard_module
from tests.frames.conftest import FEATURES, STATES, Arrays, files_of, make_arrays

COUNTS = {f"u{i:02d}": 1 + i % 7 for i in range(40)}


@dataclasses.dataclass(frozen=True)
class Count:
    """Frames that are a function of the utterance; notes each call in a file; dies as ``utterance`` is computed."""

    log: Path
    utterance: str = ""

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        with self.log.open("a") as stream:
            stream.write(f"{utterances[0]}\n")
        for utterance in utterances:
            if utterance == self.utterance:
                os.kill(os.getpid(), signal.SIGKILL)
            yield utterance, {"state": int(utterance[1:]) * 100 + np.arange(COUNTS[utterance])}


def write(
    path: Path, compute: Count, jobs: int = 1, prepare: Callable[[], None] | None = None, **options: object
) -> FrameStore:
    how = WriteOptions(jobs, shard_frames=20, **options)  # type: ignore[arg-type]
    return write_store(path, StoreContent("states", STATES, {"a": 1}), COUNTS, compute, how, prepare)


@pytest.fixture
def reference(tmp_path: Path) -> dict[str, bytes]:
    return files_of(write(tmp_path / "reference", Count(tmp_path / "reference.log")).path)


def test_bytes_do_not_depend_on_jobs_or_order(tmp_path: Path, reference: dict[str, bytes]) -> None:
    assert files_of(write(tmp_path / "two", Count(tmp_path / "log"), jobs=2).path) == reference
    backwards = write_store(
        tmp_path / "back",
        StoreContent("states", STATES, {"a": 1}),
        dict(reversed(COUNTS.items())),
        lambda utterances: reversed(list(Count(tmp_path / "log")(utterances))),
        WriteOptions(shard_frames=20),
    )
    assert files_of(backwards.path) == reference


def test_complete_store_is_not_computed_again(tmp_path: Path, reference: dict[str, bytes]) -> None:
    log = tmp_path / "log"
    store = write(tmp_path / "reference", Count(log), prepare=lambda: pytest.fail("nothing is to be prepared"))
    assert not log.exists()
    assert files_of(store.path) == reference


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_only_the_damaged_shard_is_computed_again(tmp_path: Path, reference: dict[str, bytes], damage: str) -> None:
    path = tmp_path / "reference" / "shard-00003.safetensors"
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"cut": content[:-1], "flipped": flipped, "missing": b""}[damage])
    if damage == "missing":
        path.unlink()
    (path.parent / "index.json").unlink()
    store = write(path.parent, Count(tmp_path / "log"))
    assert files_of(store.path) == reference
    assert (tmp_path / "log").read_text().split() == [store.headers[3].utterances[0]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_writer_goes_on_to_the_same_bytes(tmp_path: Path, reference: dict[str, bytes], jobs: int) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.frames.test_writer import *\n"
        f"if __name__ == '__main__': write(Path(sys.argv[1]), Count(Path(sys.argv[2]), 'u25'), jobs={jobs})"
    )
    (tmp_path / "killed.py").write_text(script)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "s"), str(tmp_path / "first.log")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, check=False)
    assert done.returncode != 0
    kept = set(files_of(tmp_path / "s"))
    assert kept
    assert "index.json" not in kept
    with pytest.raises(UserError, match="incomplete"):
        FrameStore(tmp_path / "s")
    store = write(tmp_path / "s", Count(tmp_path / "second.log"))
    assert files_of(store.path) == reference
    again = (tmp_path / "second.log").read_text().split()
    assert len(again) == len(store.headers) - len(kept)


@dataclasses.dataclass(frozen=True)
class Wait(Count):
    """As ``Count``; before the first shard it waits for the file ``log`` to be deleted."""

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        if "u00" in utterances:
            self.log.touch()
            while self.log.exists():
                time.sleep(0.01)
        for utterance in utterances:
            yield utterance, {"state": int(utterance[1:]) * 100 + np.arange(COUNTS[utterance])}


@pytest.fixture
def other_writer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of writing the store ``s``, until the file ``go`` is deleted."""
    script = (
        "import sys; from pathlib import Path; from tests.frames.test_writer import *\n"
        "write(Path(sys.argv[1]), Wait(Path(sys.argv[2])))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(tmp_path / "s"), str(tmp_path / "go")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)})
    while not (tmp_path / "go").exists():
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def test_what_a_killed_writer_left_half_written_is_deleted_by_the_next(
    tmp_path: Path, reference: dict[str, bytes], other_writer: subprocess.Popen[bytes]
) -> None:
    partial = tmp_path / "s" / ".shard-00000.safetensors.x.partial"
    partial.write_bytes(b"x")
    with pytest.raises(UserError, match="another process is writing"):
        write_store(tmp_path / "s", StoreContent("states", STATES), COUNTS, Count(tmp_path / "log"))
    assert partial.exists()  # the other process still runs: this may be its own
    (tmp_path / "go").unlink()
    assert other_writer.wait() == 0
    (tmp_path / "s" / "index.json").unlink()
    store = write(tmp_path / "s", Count(tmp_path / "log"))
    assert files_of(store.path) == reference
    assert not list(Path(store.path).glob(".*"))


@pytest.mark.parametrize("force", [False, True])
def test_a_second_writer_of_other_content_is_refused_and_damages_nothing(
    tmp_path: Path, reference: dict[str, bytes], other_writer: subprocess.Popen[bytes], force: bool
) -> None:
    content = StoreContent("states", STATES, {"a": 2})
    message = r"/s: another process is writing (this store; wait|other content)"
    with pytest.raises(UserError, match=message):
        write_store(tmp_path / "s", content, COUNTS, Count(tmp_path / "log"), WriteOptions(force=force))
    (tmp_path / "go").unlink()
    assert other_writer.wait() == 0
    assert files_of(tmp_path / "s") == reference
    assert not list((tmp_path / "s").glob(".*"))


def test_a_writer_killed_with_its_lock_blocks_nobody(
    tmp_path: Path, reference: dict[str, bytes], other_writer: subprocess.Popen[bytes]
) -> None:
    other_writer.kill()
    other_writer.wait()
    partial = tmp_path / "s" / ".shard-00001.safetensors.x.partial"
    partial.write_bytes(b"x")
    assert files_of(write(tmp_path / "s", Count(tmp_path / "log")).path) == reference
    assert not list((tmp_path / "s").glob(".*"))


def test_two_writers_at_once_give_the_same_bytes(tmp_path: Path, reference: dict[str, bytes]) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.frames.test_writer import *\n"
        "write(Path(sys.argv[1]), Count(Path(sys.argv[2])))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(tmp_path / "s"), str(tmp_path / "log")]
    writers = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)}) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert files_of(tmp_path / "s") == reference


def test_another_configuration_is_refused_by_name_and_force_replaces_it(tmp_path: Path) -> None:
    arrays = make_arrays()
    write_arrays(
        tmp_path / "s",
        StoreContent("features", FEATURES, {"mel": {"bins": 40}}),
        arrays,
        WriteOptions(shard_frames=100),
    )
    for index in (True, False):
        with pytest.raises(UserError, match=r"holds another store \(config.mel.bins: 40 stored, 80 requested\)"):
            write_arrays(
                tmp_path / "s",
                StoreContent("features", FEATURES, {"mel": {"bins": 80}}),
                arrays,
                WriteOptions(shard_frames=100),
            )
        if index:
            (tmp_path / "s" / "index.json").unlink()
    store = write_arrays(
        tmp_path / "s", StoreContent("features", FEATURES, {"mel": {"bins": 80}}), arrays, WriteOptions(force=True)
    )
    assert [path.name for path in sorted(Path(store.path).iterdir())] == ["index.json", "shard-00000.safetensors"]
    assert store.config == {"mel": {"bins": 80}}


def test_other_arrays_are_never_mistaken_for_those_stored(store: FrameStore, arrays: Arrays) -> None:
    write_arrays(store.path, StoreContent("features", FEATURES, {"bins": 4}), arrays, WriteOptions(shard_frames=100))
    arrays["utt00"]["fbank"] = arrays["utt00"]["fbank"] + 1
    with pytest.raises(UserError, match=r"holds another store \(inputs.arrays"):
        write_arrays(
            store.path, StoreContent("features", FEATURES, {"bins": 4}), arrays, WriteOptions(shard_frames=100)
        )


NAN = np.full((3, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"fbank": np.zeros((2, 4), np.float32)}, "2 frames of fbank, expected 3"),
        ({"fbank": np.zeros((3, 5), np.float32)}, r"shape \[3, 5\], expected \[3, 4\]"),
        ({"fbank": NAN}, "fbank of frame 0 has a value that is not a finite float16"),
        ({"fbank": np.full((3, 4), 1e5, np.float32)}, "not a finite float16"),
        ({"fbank": np.zeros((3, 4), int)}, "fbank is int64, expected float16"),
        ({"mfcc": NAN}, "no tensor 'fbank' was computed, only mfcc"),
        (UserError("cannot be heard"), "cannot be heard"),
        (None, "missing: nothing was computed"),
    ],
)
def test_bad_utterance_is_named_or_skipped_and_listed(tmp_path: Path, bad: object, message: str) -> None:
    def compute(utterances):  # type: ignore[no-untyped-def]
        good = {u: {"fbank": np.full((3, 4), ord(u), np.float32)} for u in utterances}
        items = {**good, "b": bad} if "b" in good else good
        return ((u, a) for u, a in items.items() if a is not None)

    def go(path: Path, skip_bad: bool) -> FrameStore:
        counts = dict.fromkeys("abcd", 3)
        how = WriteOptions(shard_frames=9, skip_bad=skip_bad)
        return write_store(path, StoreContent("features", FEATURES), counts, compute, how)

    with pytest.raises(UserError, match=f"utterance b: .*{message}"):
        go(tmp_path / "s", skip_bad=False)
    store = go(tmp_path / "s", skip_bad=True)
    assert store.utterances == ("a", "c", "d")
    assert [int(store.read(u)["fbank"][2, 3]) for u in store.utterances] == [ord(u) for u in "acd"]
    assert list(store.skipped) == ["b"]
    with pytest.raises(UserError, match="no utterance b; it was skipped"):
        store.read("b")
    with pytest.raises(UserError, match="skipped 1 utterance when it was written, first b"):
        go(tmp_path / "s", skip_bad=False)


def test_an_exception_that_nobody_foresaw_costs_its_utterance_only(tmp_path: Path) -> None:
    def one(utterance: str) -> dict[str, np.ndarray]:
        if utterance == "b":
            raise struct.error("unpack requires 4 bytes")
        return {"state": np.arange(3)}

    def go(skip_bad: bool) -> FrameStore:
        how = WriteOptions(skip_bad=skip_bad)
        content, counts = StoreContent("states", STATES), dict.fromkeys("abc", 3)
        return write_store(tmp_path / "s", content, counts, lambda utterances: one_by_one(utterances, one), how)

    with pytest.raises(UserError, match="utterance b: unexpected error: unpack requires 4 bytes"):
        go(skip_bad=False)
    store = go(skip_bad=True)
    assert (store.utterances, list(store.skipped)) == (("a", "c"), ["b"])


def test_state_outside_the_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="from 0 to 65536, which uint16 cannot hold"):
        write_arrays(tmp_path / "s", StoreContent("states", STATES), {"a": {"state": np.array([0, 65536])}})


def test_a_store_without_a_good_utterance_is_an_error(tmp_path: Path) -> None:
    def compute(utterances):  # type: ignore[no-untyped-def]
        return ((u, UserError("silent")) for u in utterances)

    with pytest.raises(UserError, match="no usable utterance; the first, a: silent"):
        write_store(tmp_path / "s", StoreContent("states", STATES), {"a": 3}, compute, WriteOptions(skip_bad=True))


def test_left_out_utterances_are_listed(tmp_path: Path) -> None:
    arrays = {"a": {"state": np.arange(3)}}
    store = write_arrays(tmp_path / "s", StoreContent("states", STATES, left_out={"b": "too short"}), arrays)
    assert store.skipped == {"b": "too short"}


def test_too_little_space_is_known_before_the_first_byte(tmp_path: Path) -> None:
    huge = {"dense": TensorSpec("float16", (14_000,))}
    counts = {f"u{i}": 10**9 for i in range(1000)}
    with pytest.raises(UserError, match=r"needs 28,000,000,\d+,\d+,\d+ more bytes \(28,000 a frame\)"):
        write_store(tmp_path / "s", StoreContent("targets", huge), counts, lambda utterances: iter(()))
    assert not (tmp_path / "s").exists()


def test_full_disk_is_a_clear_error_and_the_rerun_goes_on(
    tmp_path: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def full(array: np.ndarray) -> memoryview:
        written.append(array)
        if len(written) == 6:  # each shard is hashed, then written
            raise OSError(errno.ENOSPC, "No space left on device")
        return array.reshape(-1).view(np.uint8).data

    with monkeypatch.context() as patch:
        patch.setattr(shard_module, "_bytes_of", full)
        with pytest.raises(UserError, match=r"shard-00002.*disk is full"):
            write(tmp_path / "s", Count(tmp_path / "log"))
    assert sorted(files_of(tmp_path / "s")) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    assert not list((tmp_path / "s").glob(".*"))
    assert files_of(write(tmp_path / "s", Count(tmp_path / "log")).path) == reference


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs root to mount a small disk")
def test_really_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        arrays = {f"u{i:03d}": {"fbank": np.ones((100, 4), np.float32)} for i in range(200)}
        with pytest.raises(UserError, match="more bytes"):
            write_arrays(disk / "s", StoreContent("features", FEATURES), arrays, WriteOptions(shard_frames=1000))
        monkeypatch.setattr("asr_kd.frames.writer._check_space", lambda *_: None)  # as if another program took it
        with pytest.raises(UserError, match="disk is full"):
            write_arrays(disk / "s", StoreContent("features", FEATURES), arrays, WriteOptions(shard_frames=1000))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
