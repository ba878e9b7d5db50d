"""Reading: the arrays come back, mapped and not loaded; what is broken is named."""

import dataclasses
import gc
import hashlib
import itertools
import json
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from asr_kd.errors import UserError
from asr_kd.frames import (
    FrameStore,
    StoreContent,
    TensorSpec,
    WriteOptions,
    description,
    mapping,
    open_joined,
    write_arrays,
    write_store,
)
from asr_kd.frames.folders import publish_index
from asr_kd.frames.shard import checksum
from tests.frames.conftest import FEATURES, STATES, Arrays, make_arrays, make_states
from tests.fuzz.seals import read_about, sign_shard


def verify(path: Path) -> None:
    list(FrameStore(path).verify())


def test_read_gives_what_was_written_in_the_stored_dtype(store: FrameStore, arrays: Arrays) -> None:
    for utterance, values in arrays.items():
        found = store.read(utterance)["fbank"]
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, values["fbank"].astype(np.float16))
    assert store.frame_counts == {u: len(a["fbank"]) for u, a in arrays.items()}
    assert store.total_frames == sum(store.frame_counts.values())
    assert (store.kind, store.tensors, store.config) == ("features", FEATURES, {"bins": 4})
    assert store.utterances == tuple(sorted(arrays))


def test_shards_stream_every_frame_once(store: FrameStore, arrays: Arrays) -> None:
    found = {}
    for shard in store.shards():
        assert shard.offsets[0] == 0
        assert shard.offsets[-1] == len(shard.tensors["fbank"]) <= 100
        for utterance, (start, end) in zip(shard.utterances, itertools.pairwise(shard.offsets), strict=True):
            found[utterance] = shard.tensors["fbank"][start:end]
    assert found.keys() == arrays.keys()
    assert all((found[u] == store.read(u)["fbank"]).all() for u in found)


def test_a_shard_is_a_safetensors_file_for_any_other_reader(store: FrameStore) -> None:
    for header, shard in zip(store.headers, store.shards(), strict=True):
        np.testing.assert_array_equal(load_file(header.path)["fbank"], shard.tensors["fbank"])


def test_several_tensors_of_all_kinds_and_shapes_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "top": TensorSpec("uint16", (3,)), "log_prob": TensorSpec("float16", (3,)), "exact": TensorSpec("float64"),
        "flag": TensorSpec("bool"), "cube": TensorSpec("int32", (2, 2)), "byte": TensorSpec("uint8"),
    }  # fmt: skip
    arrays = {
        f"u{n}": {k: (rng.random((n, *s.shape)) * 9).astype(s.dtype) for k, s in tensors.items()} for n in (1, 3, 8)
    }
    store = write_arrays(tmp_path / "s", StoreContent("targets", tensors), arrays)
    for utterance, values in arrays.items():
        for name, array in values.items():
            found = store.read(utterance)[name]
            assert found.dtype == array.dtype
            assert found.ctypes.data % found.itemsize == 0
            np.testing.assert_array_equal(found, array)


def test_views_are_read_only_and_a_store_can_be_pickled(store: FrameStore) -> None:
    with pytest.raises(ValueError, match="read-only"):
        store.read("utt00")["fbank"][:] = 0
    again = pickle.loads(pickle.dumps(store))
    assert again.content_hash == store.content_hash


def _anonymous_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_maps_the_file_and_takes_no_memory(tmp_path: Path) -> None:
    arrays = {f"u{i}": {"fbank": np.ones((100_000, 40), np.float32)} for i in range(6)}  # 96 MB in 6 shards
    store = write_arrays(tmp_path / "s", StoreContent("features", {"fbank": TensorSpec("float32", (40,))}), arrays)
    del arrays
    before = _anonymous_memory()
    kept = list(store.shards())
    total = sum(float(shard.tensors["fbank"].sum()) for shard in kept)
    assert total == 6 * 100_000 * 40
    assert _anonymous_memory() - before < 8_000_000


@pytest.mark.parametrize("small", [-1, 1 << 16])
def test_views_of_more_shards_than_files_may_be_open_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(mapping, "SMALL", small)
    arrays = {f"u{i:03d}": {"state": np.full(2, i)} for i in range(150)}
    store = write_arrays(tmp_path / "s", StoreContent("states", STATES), arrays, WriteOptions(shard_frames=2))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        kept = [store.read(utterance)["state"] for utterance in store.utterances]
        shards = list(store.shards())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [int(view[1]) for view in kept] == list(range(150))
    assert len(shards) == 150


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_shard_is_unmapped_with_its_last_view(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "SMALL", -1)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(store.path))

    view = next(store.shards()).tensors["fbank"][2:3]
    gc.collect()
    assert mapped() == 1
    assert view.sum()
    del view
    gc.collect()
    assert mapped() == 0


@pytest.mark.parametrize("value", ["12", 0, -1, 1.5, True, 10**9, [3]])
def test_a_number_of_states_is_checked(tmp_path: Path, value: object) -> None:
    content = StoreContent("states", STATES, {"num_states": value})
    store = write_arrays(tmp_path / "s", content, {"u": {"state": np.arange(3)}})
    with pytest.raises(UserError, match="num_states is .*, expected a number of states"):
        _ = store.num_states


def test_a_store_of_another_kind_or_shape_is_not_what_is_expected(store: FrameStore, tmp_path: Path) -> None:
    store.expect("features")
    with pytest.raises(UserError, match="holds features; expected states"):
        store.expect("states")
    odd = write_arrays(tmp_path / "odd", StoreContent("features", STATES), {"u": {"state": np.arange(3)}})
    with pytest.raises(UserError, match=r"holds state uint16 \['frames'\], expected a tensor \[frames, n\] of floats"):
        odd.expect("features")


def test_content_hash_depends_on_utterances_and_frames_only(
    tmp_path: Path, store: FrameStore, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()

    def hash_of(arrays: Arrays, tensors: dict[str, TensorSpec] = FEATURES, **options: Any) -> str:
        content = StoreContent("features", tensors, {"bins": 4, "number": next(numbers)})
        return write_arrays(tmp_path / f"{next(numbers)}", content, arrays, WriteOptions(**options)).content_hash

    for shard_frames in (1, 7, 100, 100_000):
        assert hash_of(arrays, shard_frames=shard_frames) == store.content_hash
    monkeypatch.setattr(description, "__version__", "99.0")
    assert hash_of(dict(reversed(arrays.items())), jobs=2) == store.content_hash
    found = {store.content_hash}
    first, second = sorted(arrays)[:2]
    both = np.concatenate([arrays[first]["fbank"], arrays[second]["fbank"]])
    cut = len(arrays[first]["fbank"]) - 1
    for change in (
        {"utt99": arrays[first]},
        {first: arrays[second], second: arrays[first]},
        {first: {"fbank": both[:cut]}, second: {"fbank": both[cut:]}},
        {first: {"fbank": arrays[first]["fbank"] + np.float16(1)}},
    ):
        found.add(hash_of({**arrays, **change}))
    found.add(hash_of({u: a for u, a in arrays.items() if u != first}))
    found.add(hash_of({u: {"other": a["fbank"]} for u, a in arrays.items()}, {"other": FEATURES["fbank"]}))
    wide = {"fbank": dataclasses.replace(FEATURES["fbank"], dtype="float32")}
    found.add(hash_of({u: {"fbank": a["fbank"].astype(np.float32)} for u, a in arrays.items()}, wide))
    assert len(found) == 8


def test_a_store_of_schema_1_opens_and_keeps_its_hash(tmp_path: Path, store: FrameStore, arrays: Arrays) -> None:
    before = [path.read_bytes() for path in sorted(Path(store.path).glob("shard-*"))]
    as_schema_1(Path(store.path))
    old = FrameStore(store.path)
    assert list(old.verify()) == [header.bytes for header in old.headers]
    hashes = "".join(header.sha256 for header in old.headers)
    assert old.content_hash == hashlib.sha256(hashes.encode()).hexdigest()
    for utterance, expected in arrays.items():
        np.testing.assert_array_equal(old.read(utterance)["fbank"], expected["fbank"].astype(np.float16))
    publish_index(store.path, verify=True)
    assert FrameStore(store.path).content_hash == old.content_hash
    content = StoreContent("features", FEATURES, {"bins": 4})
    again = write_arrays(store.path, content, arrays, WriteOptions(shard_frames=100))  # complete: nothing is written
    assert again.content_hash == old.content_hash
    (Path(store.path) / "index.json").unlink()
    (Path(store.path) / "shard-00001.safetensors").unlink()
    write_arrays(store.path, content, arrays, WriteOptions(shard_frames=100))  # a store is of one schema
    assert [path.read_bytes() for path in sorted(Path(store.path).glob("shard-*"))] == before


def as_schema_1(folder: Path) -> None:
    """Rewrite a store as versions before the hash of the content did."""
    values = json.loads((folder / "index.json").read_text())
    values["schema"] = 1
    for entry in values["shards"]:
        path = folder / entry["file"]
        header, about = read_about(path)
        about["store"]["schema"] = 1
        del about["content"], entry["content"]
        sign_shard(path, header, about)
        entry |= {"bytes": path.stat().st_size, "sha256": checksum(path)}
    (folder / "index.json").write_text(json.dumps(values))


def test_a_wrong_hash_of_the_content_is_found_by_verify(store: FrameStore) -> None:
    path = Path(store.path) / "shard-00001.safetensors"
    header, about = read_about(path)
    sign_shard(path, header, {**about, "content": "0" * 64})
    publish_index(store.path)
    with pytest.raises(UserError, match="shard-00001.safetensors: its frames do not match .*, expected 000000000000"):
        list(FrameStore(store.path).verify())


def test_unknown_utterance_is_named(store: FrameStore) -> None:
    with pytest.raises(UserError, match="no utterance nobody"):
        store.read("nobody")


def test_missing_index_names_the_way_on(store: FrameStore, tmp_path: Path) -> None:
    (Path(store.path) / "index.json").unlink()
    with pytest.raises(UserError, match=r"incomplete.*again to finish it"):
        FrameStore(store.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a frame store"):
        FrameStore(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        FrameStore(tmp_path / "none")


def test_index_is_rebuilt_from_shards_to_the_same_bytes(store: FrameStore) -> None:
    index = (Path(store.path) / "index.json").read_bytes()
    (Path(store.path) / "index.json").write_text('{"kind": ')
    with pytest.raises(UserError, match="index.json: not valid JSON.*--rebuild"):
        FrameStore(store.path)
    publish_index(store.path, verify=True)
    assert (Path(store.path) / "index.json").read_bytes() == index
    (Path(store.path) / "shard-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"shard-00002\.safetensors: this shard is missing"):
        publish_index(store.path)


@pytest.mark.parametrize("left", [0, 5, 300, -1])
def test_cut_shard_is_refused_on_opening(store: FrameStore, left: int) -> None:
    path = Path(store.headers[1].path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=r"shard-00001.*(truncated|damaged)"):
        FrameStore(store.path)


def test_swapped_shards_are_refused_on_opening(store: FrameStore) -> None:
    first, second = Path(store.headers[0].path), Path(store.headers[1].path)
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(UserError, match=r"holds shard 1, expected 0: shards were swapped"):
        FrameStore(store.path)


def test_shard_of_another_store_is_refused_on_opening(store: FrameStore, tmp_path: Path) -> None:
    other = write_arrays(
        tmp_path / "o",
        StoreContent("features", FEATURES, {"bins": 4}),
        make_arrays(seed=3),
        WriteOptions(shard_frames=100),
    )
    Path(store.headers[0].path).write_bytes(Path(other.headers[0].path).read_bytes())
    with pytest.raises(UserError, match="a shard of another store"):
        FrameStore(store.path)


def test_foreign_file_in_place_of_a_shard_is_refused(store: FrameStore) -> None:
    for content in (b"\x89PNG" * 100, b"\xff" * 8, b"", b"\x10\0\0\0\0\0\0\0" + b"x" * 16):
        Path(store.headers[0].path).write_bytes(content)
        with pytest.raises(UserError, match="not a shard"):
            FrameStore(store.path)


def test_any_flipped_byte_of_a_shard_is_found(store: FrameStore) -> None:
    verify(Path(store.path))
    path = Path(store.headers[1].path)
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    for place in [*range(0, header, 97), header - 1, *range(header, len(content), 61), len(content) - 1]:
        content[place] ^= 0x01
        path.write_bytes(content)
        with pytest.raises(UserError, match="shard-00001"):
            verify(path.parent)
        content[place] ^= 0x01
    path.write_bytes(content)
    verify(path.parent)


def test_joined_stores_read_side_by_side(store: FrameStore, tmp_path: Path, arrays: Arrays) -> None:
    labels = make_states(arrays)
    same_plan = write_arrays(tmp_path / "same", StoreContent("states", STATES), labels, WriteOptions(shard_frames=100))
    other_plan = write_arrays(tmp_path / "other", StoreContent("states", STATES), labels, WriteOptions(shard_frames=37))
    for states in (same_plan, other_plan):
        joined = open_joined([store.path, states])
        for utterance in arrays:
            np.testing.assert_array_equal(joined.read(utterance)["state"], labels[utterance]["state"])
        runs = list(joined.runs(joined.utterances))
        assert [utterance for run in runs for utterance in run.utterances] == sorted(arrays)
        for run in runs:
            expected = np.concatenate([labels[u]["state"] for u in run.utterances])
            np.testing.assert_array_equal(run.tensors["state"], expected)
            assert len(run.tensors["fbank"]) == len(expected) == run.offsets[-1]
            assert not run.tensors["state"].flags.owndata  # a view
        assert joined.total_frames == store.total_frames
        assert (len(runs) == len(store.headers)) == (states is same_plan)


def test_runs_are_the_frames_of_neighbours_in_any_order_asked_for(
    store: FrameStore, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, fourth = store.headers[0].utterances[:4]
    runs = list(store.runs([third, first, second, fourth, fourth]))
    assert [run.utterances for run in runs] == [(third,), (first, second), (fourth,), (fourth,)]
    expected = np.concatenate([arrays[first]["fbank"], arrays[second]["fbank"]]).astype(np.float16)
    np.testing.assert_array_equal(runs[1].tensors["fbank"], expected)
    assert runs[1].offsets.tolist() == [0, len(arrays[first]["fbank"]), len(expected)]
    monkeypatch.setattr("asr_kd.frames.store.RUN_FRAMES", len(expected) - 1)
    assert [run.utterances for run in store.runs([first, second])] == [(first,), (second,)]
    with pytest.raises(UserError, match="no utterance nobody"):
        list(store.runs([first, "nobody"]))
    assert list(store.runs([])) == []


def test_joined_subset_reads_only_the_wanted_utterances(store: FrameStore, arrays: Arrays, tmp_path: Path) -> None:
    labels = make_states({u: arrays[u] for u in ("utt02", "utt17")})
    states = write_arrays(tmp_path / "states", StoreContent("states", STATES), labels)
    joined = open_joined([store, states], ["utt17", "utt02"])
    assert [run.utterances for run in joined.runs(joined.utterances)] == [("utt02",), ("utt17",)]
    for run in joined.runs(joined.utterances):
        np.testing.assert_array_equal(run.tensors["fbank"], arrays[run.utterances[0]]["fbank"].astype(np.float16))


def test_join_names_the_missing_utterance(store: FrameStore, arrays: Arrays, tmp_path: Path) -> None:
    labels = make_states(arrays)
    del labels["utt05"]
    states = write_arrays(tmp_path / "states", StoreContent("states", STATES), labels)
    for stores in ([store, states], [states, store]):
        with pytest.raises(UserError, match="lacks utterance utt05"):
            open_joined(stores)
    with pytest.raises(UserError, match="lacks utterance nobody, which you requested"):
        open_joined([store], ["nobody"])


def test_join_names_the_utterance_and_both_frame_counts(store: FrameStore, arrays: Arrays, tmp_path: Path) -> None:
    labels = make_states(arrays)
    frames = len(labels["utt05"]["state"])
    labels["utt05"]["state"] = labels["utt05"]["state"][:-1]
    states = write_arrays(tmp_path / "states", StoreContent("states", STATES), labels)
    with pytest.raises(UserError, match=rf"utt05: {frames} frames in .*store, {frames - 1} in .*states"):
        open_joined([store, states])


def test_join_refuses_two_tensors_of_one_name(store: FrameStore) -> None:
    with pytest.raises(UserError, match="both hold a tensor 'fbank'"):
        open_joined([store, store])


def test_empty_shard_of_skipped_utterances_is_read(tmp_path: Path) -> None:
    def compute(utterances):  # type: ignore[no-untyped-def]
        return ((u, {"state": np.arange(3)} if u == "b" else UserError("silent")) for u in utterances)

    counts = dict.fromkeys("abc", 3)
    how = WriteOptions(shard_frames=3, skip_bad=True)
    store = write_store(tmp_path / "s", StoreContent("states", STATES), counts, compute, how)
    assert store.skipped == {"a": "silent", "c": "silent"}
    assert [len(shard.tensors["state"]) for shard in store.shards()] == [0, 3, 0]
    verify(Path(store.path))
