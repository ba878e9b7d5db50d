"""Stores at a URL: the same bytes as on a disk through a small cache, and clear errors from a storage that fails."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.file_cache import FileCache
from asr_kd.frames import FrameStore, StoreContent, Unfinished, WriteOptions, open_joined, write_arrays
from asr_kd.frames.folders import publish_index
from tests.frames.conftest import FEATURES, STATES, Arrays, files_of, make_states
from tests.object_storage import Fault, Server

URL = "s3://bucket/some/store"
SHARD = f"{URL}/shard-00001.safetensors"
CONTENT = StoreContent("features", FEATURES, {"bins": 4})
OPTIONS = WriteOptions(shard_frames=100)


@pytest.fixture
def remote(server: Server, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in the bucket that this machine has not seen."""
    write_arrays(URL, CONTENT, arrays, OPTIONS)
    monkeypatch.setenv("ASR_KD_CACHE", str(tmp_path / "another machine"))
    server.requests.clear()
    return URL


def cached(cache: Path) -> int:
    """Bytes of all files in the cache."""
    return sum(path.stat().st_size for path in (cache / "files").iterdir())


def bucket_files(url: str = URL) -> dict[str, bytes]:
    files = fsspec.filesystem("s3")
    files.invalidate_cache()
    return {path.rpartition("/")[2]: files.cat_file(path) for path in files.find(url)}


def anew(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    """Set or delete a variable that botocore reads only once, for the rest of the test."""
    own = dict(fsspec.config.conf["s3"])  # other options, so that fsspec makes another instance
    own["config_kwargs"] = {**own["config_kwargs"], "user_agent_extra": f"{name}-{value}"}
    monkeypatch.setitem(fsspec.config.conf, "s3", own)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)


def assert_equal(found: FrameStore, expected: FrameStore) -> None:
    assert found.utterances == expected.utterances
    for utterance in expected.utterances:
        np.testing.assert_array_equal(found.read(utterance)["fbank"], expected.read(utterance)["fbank"])


def test_a_store_in_object_storage_has_the_bytes_of_a_local_one(remote: str, store: FrameStore) -> None:
    assert bucket_files() == files_of(store.path)
    assert_equal(FrameStore(remote), store)
    with pytest.raises(UserError, match="s3://bucket/none: not a frame store"):
        FrameStore("s3://bucket/none")


def test_opening_transfers_headers_only_and_once(server: Server, remote: str) -> None:
    first = FrameStore(remote)
    shards = len(first.headers)
    assert server.counted("GET") == shards > 2
    again = FrameStore(remote)
    assert again.total_frames == first.total_frames
    assert server.counted("GET") == shards


def test_a_header_longer_than_one_request_is_read_whole(server: Server, tmp_path: Path) -> None:
    arrays = {f"a-long-name-of-an-utterance-{i:04d}": {"fbank": np.ones((1, 4), np.float32)} for i in range(1000)}
    written = write_arrays(URL, CONTENT, arrays)
    assert written.headers[0].data > 1 << 14
    assert written.utterances == tuple(sorted(arrays))
    assert not set(written.read(written.utterances[-1])["fbank"].ravel().tolist()) - {1.0}


def test_a_cache_smaller_than_the_store_stays_within_its_size(
    remote: str, store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = store.total_bytes * 2 // 3
    monkeypatch.setenv("ASR_KD_CACHE_SIZE", str(size))
    found = FrameStore(remote)
    for _ in range(2):
        assert_equal(found, store)
        assert 0 < cached(tmp_path / "another machine") <= size
    for shard, there in zip(found.shards(), store.shards(), strict=True):
        np.testing.assert_array_equal(shard.tensors["fbank"], there.tensors["fbank"])


def test_the_shards_that_a_reader_needs_next_are_fetched_meanwhile(server: Server, remote: str) -> None:
    found = FrameStore(remote)
    before = server.counted("GET")
    next(found.runs(found.utterances))
    deadline = time.monotonic() + 10
    while (asked := server.counted("GET") - before) < len(found.headers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asked == len(found.headers)


def test_training_asks_for_the_shards_of_its_next_utterances(server: Server, remote: str, arrays: Arrays) -> None:
    states = write_arrays("s3://bucket/states", StoreContent("states", STATES), make_states(arrays), OPTIONS)
    joined = open_joined([remote, states])
    before = server.counted("GET", "shard-00001.safetensors")
    joined.ahead([joined.stores[0].headers[1].utterances[0]])
    deadline = time.monotonic() + 10
    while server.counted("GET", "shard-00001.safetensors") == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.counted("GET", "shard-00001.safetensors") == before + 1


def test_the_least_recently_used_file_is_evicted(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 100)

    def fill(path: Path) -> None:
        path.write_bytes(bytes(30))

    for number, name in enumerate(("old", "middle", "new")):
        os.close(cache.open(name, 30, fill))
        os.utime(tmp_path / "files" / name, (number, number))
    os.close(cache.open("old", 30, lambda path: pytest.fail("it is there")))
    os.close(cache.open("more", 30, fill))
    assert {path.name for path in (tmp_path / "files").iterdir()} == {"old", "new", "more"}
    with pytest.raises(UserError, match="101 bytes does not fit into the cache of 100; set ASR_KD_CACHE_SIZE"):
        cache.open("huge", 101, lambda path: None)


def test_an_evicted_shard_stays_readable_for_those_who_mapped_it(
    remote: str, store: FrameStore, tmp_path: Path
) -> None:
    found = FrameStore(remote)
    arrays = [shard.tensors["fbank"] for shard in found.shards()]
    for path in (tmp_path / "another machine" / "files").iterdir():
        path.unlink(missing_ok=True)
    for array, shard in zip(arrays, store.shards(), strict=True):
        np.testing.assert_array_equal(array, shard.tensors["fbank"])


def test_readers_of_one_cache_download_each_shard_once(server: Server, remote: str, store: FrameStore) -> None:
    opened = [FrameStore(remote) for _ in range(4)]
    before = server.counted("GET")

    def total(found: FrameStore) -> float:
        return float(sum(found.read(utterance)["fbank"].astype(float).sum() for utterance in found.utterances))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(total, opened))) == 1
    assert server.counted("GET") - before == len(store.headers)


def test_what_a_killed_download_left_is_deleted(remote: str, store: FrameStore, tmp_path: Path) -> None:
    files = tmp_path / "another machine" / "files"
    files.mkdir(parents=True)
    left = files / f"{store.headers[0].sha256}.xyz.1000.partial"
    left.write_bytes(bytes(1000))
    assert_equal(FrameStore(remote), store)
    assert not left.exists()


def test_a_damaged_file_of_the_cache_is_downloaded_again(remote: str, store: FrameStore, tmp_path: Path) -> None:
    assert_equal(FrameStore(remote), store)
    for path in (tmp_path / "another machine" / "files").iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    assert_equal(FrameStore(remote), store)


@pytest.mark.parametrize("kind", ["500", "503", "truncated", "damaged", "slow"])
def test_a_passing_failure_of_the_storage_changes_nothing(
    server: Server, remote: str, store: FrameStore, kind: str
) -> None:
    found = FrameStore(remote)
    with server.failing(Fault(kind, "shard-00001.safetensors", times=1, seconds=1.5)):
        assert_equal(found, store)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("500", "the storage failed, also when asked again .*AWS_MAX_ATTEMPTS"),
        ("403", "access denied .*check the credentials"),
        ("truncated", "no complete answer from the storage"),
        ("damaged", "no complete answer from the storage .*checksum"),
    ],
)
def test_a_lasting_failure_is_an_error_that_names_the_shard(
    server: Server, remote: str, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    monkeypatch.setattr("asr_kd.frames.remote_folder._TRIES", 1)
    found = FrameStore(remote)
    with (
        server.failing(Fault(kind, "shard-00001.safetensors")),
        pytest.raises(UserError, match=f"{SHARD}: .*{message}"),
    ):
        found.read(found.headers[1].utterances[0])


def test_a_silent_storage_is_an_error_within_its_timeouts(
    server: Server, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_kd.frames.remote_folder._TRIES", 1)
    anew(monkeypatch, "AWS_MAX_ATTEMPTS", "1")
    found = FrameStore(remote)
    with server.failing(Fault("slow", seconds=3)), pytest.raises(UserError, match=f"{SHARD}: no complete answer"):
        found.read(found.headers[1].utterances[0])


def test_a_shard_that_changes_under_a_reader_is_an_error(remote: str, arrays: Arrays) -> None:
    found = FrameStore(remote)
    other = {utterance: {"fbank": values["fbank"] + 1} for utterance, values in arrays.items()}
    write_arrays(URL, CONTENT, other, WriteOptions(shard_frames=100, force=True))
    with pytest.raises(UserError, match=f"{SHARD}: not the shard that the index lists: it was replaced"):
        found.read(found.headers[1].utterances[0])
    fsspec.filesystem("s3").rm(SHARD)
    with pytest.raises(UserError, match=f"{SHARD}: no such file"):
        found.read(found.headers[1].utterances[0])


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "sub/shard-00000.safetensors"])
def test_an_index_cannot_name_files_outside_the_store(remote: str, name: str) -> None:
    files = fsspec.filesystem("s3")
    index = json.loads(files.cat_file(f"{URL}/index.json"))
    index["shards"][0]["file"] = name
    files.pipe_file(f"{URL}/index.json", json.dumps(index).encode())
    with pytest.raises(UserError, match="shard 0 is called .*, expected shard-00000.safetensors"):
        FrameStore(remote)


def test_wrong_credentials_are_an_error_without_a_traceback(
    remote: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    anew(monkeypatch, "AWS_ACCESS_KEY_ID", "nobody")
    assert main(["frames", "info", remote]) == 1
    assert "access denied" in capsys.readouterr().err
    anew(monkeypatch, "AWS_ACCESS_KEY_ID", None)
    with pytest.raises(UserError, match="set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
        FrameStore(remote)


def test_a_missing_bucket_is_an_error(server: Server, arrays: Arrays) -> None:
    with pytest.raises(UserError, match="s3://nowhere/store"):
        FrameStore("s3://nowhere/store")


def test_a_bucket_that_may_only_be_read_is_an_error(server: Server, arrays: Arrays) -> None:
    with server.failing(Fault("403", "", "PUT")), pytest.raises(UserError, match=f"{URL}.*access denied"):
        write_arrays(URL, CONTENT, arrays, OPTIONS)
    assert not bucket_files()


def test_an_unknown_protocol_is_an_error() -> None:
    with pytest.raises(UserError, match="nosuch://bucket/store: .*nosuch"):
        FrameStore("nosuch://bucket/store")


def test_a_full_disk_of_the_cache_is_an_error(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FrameStore(remote)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type("", (), {"free": 100}))
        with pytest.raises(UserError, match="the disk of the cache is full .*set ASR_KD_CACHE to"):
            found.read(found.utterances[0])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fsspec.filesystem("s3"), "get_file", full)
    with pytest.raises(UserError, match=f"{URL}/shard-00000.safetensors: the disk of the cache .* is full"):
        found.read(found.utterances[0])


@pytest.mark.parametrize("size", ["", "20X", "-1G", "0", "much"])
def test_a_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("ASR_KD_CACHE_SIZE", size)
    if size:
        with pytest.raises(UserError, match="expected a size such as 500M"):
            FileCache.of_environment()
    else:
        assert FileCache.of_environment().limit == 20 << 30


def test_writing_resumes_with_what_is_there(server: Server, arrays: Arrays, store: FrameStore) -> None:
    with server.failing(Fault("403", "shard-00002.safetensors", "PUT")), pytest.raises(UserError, match="00002"):
        write_arrays(URL, CONTENT, arrays, OPTIONS)
    assert sorted(bucket_files()) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    server.requests.clear()
    write_arrays(URL, CONTENT, arrays, OPTIONS)
    assert server.counted("PUT") == len(store.headers) - 2
    assert bucket_files() == files_of(store.path)
    server.requests.clear()
    write_arrays(URL, CONTENT, arrays, OPTIONS)
    assert server.counted("PUT", "") == 0


def test_resuming_asks_a_few_times_for_each_shard(server: Server, tmp_path: Path) -> None:
    arrays = {f"u{number:03d}": {"fbank": np.ones((1, 4), np.float32)} for number in range(40)}
    how = WriteOptions(shard_frames=1)
    write_arrays(URL, CONTENT, arrays, how)
    fsspec.filesystem("s3").rm(f"{URL}/index.json")
    server.requests.clear()
    write_arrays(URL, CONTENT, arrays, how)
    assert server.counted("PUT", "") == 1
    assert len(server.requests) < 6 * 40


def test_machines_without_a_shared_disk_write_one_store(
    server: Server, arrays: Arrays, store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in range(3):
        monkeypatch.setenv("ASR_KD_CACHE", str(tmp_path / f"machine {part}"))
        how = WriteOptions(shard_frames=100, part=(part, 3))
        if part < 2:
            with pytest.raises(Unfinished):
                write_arrays(URL, CONTENT, arrays, how)
            assert "index.json" not in bucket_files()
        else:
            write_arrays(URL, CONTENT, arrays, how)
    assert bucket_files() == files_of(store.path)


def test_other_content_is_never_overwritten_without_force(remote: str, arrays: Arrays) -> None:
    before = bucket_files()
    other = StoreContent("features", FEATURES, {"bins": 5})
    with pytest.raises(UserError, match=f"{URL}: holds another store .*--force"):
        write_arrays(URL, other, arrays, OPTIONS)
    assert bucket_files() == before
    write_arrays(URL, other, arrays, WriteOptions(shard_frames=10_000, force=True))
    assert sorted(bucket_files()) == ["index.json", "shard-00000.safetensors"]


def test_a_writer_killed_in_the_middle_loses_no_shard(
    server: Server, arrays: Arrays, store: FrameStore, tmp_path: Path
) -> None:
    program = (
        "import os; from tests.frames.test_object_storage import *; from tests.frames.conftest import make_arrays\n"
        "from asr_kd.frames.remote_folder import RemoteFolder; real = RemoteFolder.write\n"
        "def write(self, number, *rest):\n"
        "    real(self, number, *rest)\n"
        "    if number == 1: os.kill(os.getpid(), 9)\n"
        "RemoteFolder.write = write; write_arrays(URL, CONTENT, make_arrays(), OPTIONS)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert sorted(bucket_files()) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    write_arrays(URL, CONTENT, arrays, OPTIONS)
    assert bucket_files() == files_of(store.path)


def test_verify_reads_what_lies_in_the_storage_and_rebuild_writes_the_index(
    remote: str, store: FrameStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_equal(FrameStore(remote), store)
    assert main(["frames", "verify", remote]) == 0
    files = fsspec.filesystem("s3")
    content = files.cat_file(SHARD)
    files.pipe_file(SHARD, content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["frames", "verify", remote]) == 1
    assert f"{SHARD}: checksum" in capsys.readouterr().err
    files.pipe_file(SHARD, content)
    files.rm(f"{URL}/index.json")
    with pytest.raises(UserError, match="not a frame store, or an incomplete one"):
        FrameStore(remote)
    publish_index(remote, verify=True)
    assert bucket_files() == files_of(store.path)


def test_any_file_system_of_fsspec_holds_a_store(arrays: Arrays, store: FrameStore, tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/there", "memory://bucket/there"):
        assert_equal(write_arrays(url, CONTENT, arrays, OPTIONS), store)
        assert_equal(FrameStore(url), store)
    assert files_of(tmp_path / "there") == files_of(store.path)
