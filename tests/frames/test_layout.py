"""Whatever a store's JSON says, opening it gives a store that reads within its files, or an error that names one."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays
from asr_kd.frames.folders import publish_index

DEEP: Any = 0
for _ in range(200):
    DEEP = [DEEP]
HOSTILE: list[Any] = [
    None, True, False, -1, 0, 1, 7, 1.5, float("nan"), float("inf"), 2**53 + 1, 10**30, "", "x", "../../x", "7",
    [], [0], ["a"], [[]], {}, {"x": 1}, {"": ""}, DEEP,
]  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A store of two shards with two tensors."""
    arrays: dict[str, dict[str, np.ndarray]] = {
        u: {"fbank": np.full((n, 2), n, np.float32), "energy": np.arange(n, dtype=np.float16)}
        for u, n in (("a", 2), ("b", 1), ("c", 3))
    }
    tensors = {"fbank": TensorSpec("float32", (2,), "log-mel"), "energy": TensorSpec("float16")}
    content = StoreContent("features", tensors, {"mel": {"bins": 2}}, {"audio": "x"}, {"d": "silent"})
    return Path(write_arrays(tmp_path / "small", content, arrays, WriteOptions(shard_frames=3)).path)


def places(value: Any) -> Iterator[Callable[[Any], tuple[Any, Any]]]:
    """A function for each part of a JSON value: of a copy of the whole, the container and the key of that part."""

    def at(path: tuple[Any, ...]) -> Callable[[Any], tuple[Any, Any]]:
        def find(whole: Any) -> tuple[Any, Any]:
            for key in path[:-1]:
                whole = whole[key]
            return whole, path[-1]

        return find

    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        path, inner = waiting.pop()
        if path:
            yield at(path)
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        waiting += [((*path, key), item) for key, item in items]


def mutants(value: Any) -> Iterator[Any]:
    """The value with each of its parts replaced, deleted, doubled or joined by an unknown one."""
    for find in places(value):
        for hostile in HOSTILE:
            changed = copy.deepcopy(value)
            container, key = find(changed)
            container[key] = hostile
            yield changed
        changed = copy.deepcopy(value)
        container, key = find(changed)
        if isinstance(container, dict):
            container["unknown"] = container[key]
            yield copy.deepcopy(changed)
            del container["unknown"], container[key]
        else:
            container.insert(key, container[key])
            yield copy.deepcopy(changed)
            del container[key : key + 2]
        yield changed


def is_refused(folder: Path) -> bool:
    """Open and read; ``UserError``, the only exception that is allowed, is a refusal."""
    try:
        store = FrameStore(folder)
        for utterance in store.utterances:
            for name, tensor in store.read(utterance).items():
                assert tensor.shape == (store.frame_counts[utterance], *store.tensors[name].shape)
                tensor.sum()
        json.dumps([store.config, store.inputs, store.skipped, store.total_frames, store.total_bytes])
    except UserError as error:
        if str(folder) not in str(error) or len(str(error)) > 2000:
            raise AssertionError(f"an unclear message: {error}") from error
        return True
    return False


def test_any_change_of_the_index_is_an_error_or_harmless(small: Path) -> None:
    index = json.loads((small / "index.json").read_text())
    refused = []
    for changed in mutants(index):
        (small / "index.json").write_text(json.dumps(changed))
        refused.append(is_refused(small))
    assert sum(refused) > len(refused) / 2  # what stays is free: the settings, the names of inputs, the reasons
    assert not all(refused)


def split(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The header of a shard, the metadata in it, and the data."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["asr_kd"]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("part", ["header", "metadata"])
def test_any_change_of_a_shard_is_an_error_or_harmless(small: Path, tmp_path: Path, part: str) -> None:
    header, about, data = split(small / "shard-00000.safetensors")
    refused = []
    for changed in mutants(about if part == "metadata" else header):
        whole = changed
        if part == "metadata":
            metadata = {**header["__metadata__"], "asr_kd": json.dumps(changed)}
            whole = {**header, "__metadata__": metadata}
        (small / "shard-00000.safetensors").write_bytes(joined(whole, data))
        try:
            publish_index(small)  # so that an index does not hide what the header says
        except UserError:
            refused.append(True)
            continue
        refused.append(is_refused(small))
    assert sum(refused) > 0.9 * len(refused), f"{sum(refused)} of {len(refused)} changes are refused"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, a: a["offsets"].__setitem__(1, -1), "offsets do not ascend"),
        (lambda h, a: a["offsets"].__setitem__(0, -1), "offsets do not begin at 0, or leave the range"),
        (lambda h, a: a["offsets"].__setitem__(1, 3), "offsets do not ascend"),
        (lambda h, a: a["offsets"].__setitem__(1, True), "whole numbers as offsets"),
        (lambda h, a: a["offsets"].__setitem__(2, 10**40), "leave the range"),
        (lambda h, a: a["utterances"].__setitem__(1, "a"), "not sorted, or one occurs twice"),
        (lambda h, a: a["utterances"].__setitem__(1, "b c"), "'b c' is empty or has white space"),
        (lambda h, a: a["utterances"].__setitem__(1, "b\ud800"), "is not valid Unicode"),
        (lambda h, a: a["store"].__setitem__("kind", ["features"]), "kind is .'features'., expected text"),
        (lambda h, a: a["store"]["config"].__setitem__("x", float("nan")), "config holds nan"),
        (lambda h, a: a["store"]["config"].__setitem__("x", DEEP), "nested more than"),
        (lambda h, a: a["store"].__setitem__("more", 1), "unknown member 'more'"),
        (lambda h, a: a["store"]["tensors"]["fbank"].__setitem__("dtype", "object"), "dtype 'object', expected one of"),
        (lambda h, a: a["store"]["tensors"]["fbank"].__setitem__("shape", [2**62, 4]), "expected a whole number"),
        (lambda h, a: h["fbank"].__setitem__("shape", [3, 4]), r"expected .fbank.*F32.*\[3,2\].*\[0,24\]"),
        (lambda h, a: h["fbank"].__setitem__("data_offsets", [4, 28]), r"its tensors are .*\[4,28\]"),
        (lambda h, a: h["fbank"].__setitem__("data_offsets", [0, 28]), r"its tensors are .*\[0,28\]"),
        (lambda h, a: h["fbank"].__setitem__("data_offsets", [False, 24.0]), r"its tensors are .*\[false,24.0\]"),
        (lambda h, a: h["energy"].__setitem__("data_offsets", [0, 6]), "its tensors are .*energy"),
        (lambda h, a: h.__setitem__("more", h["fbank"]), "its tensors are .*, expected"),
    ],
)
def test_a_header_that_does_not_fit_is_named(small: Path, change: Callable[[Any, Any], None], message: str) -> None:
    header, about, data = split(small / "shard-00000.safetensors")
    change(header, about)
    header["__metadata__"]["asr_kd"] = json.dumps(about)
    (small / "shard-00000.safetensors").write_bytes(joined(header, data))
    with pytest.raises(UserError, match=f"shard-00000.safetensors: its header is damaged .*{message}"):
        FrameStore(small)


def test_an_utterance_in_two_shards_is_refused_also_by_a_rebuild(small: Path) -> None:
    header, about, data = split(small / "shard-00001.safetensors")
    about["utterances"] = ["b"]
    header["__metadata__"]["asr_kd"] = json.dumps(about)
    (small / "shard-00001.safetensors").write_bytes(joined(header, data))
    with pytest.raises(UserError, match="begins with utterance 'b', which does not come after 'b'"):
        publish_index(small)


@pytest.mark.parametrize("damage", ["replaced", "cut", "deleted"])
def test_a_shard_that_changes_under_an_open_store_is_an_error(small: Path, damage: str) -> None:
    store = FrameStore(small)
    path = small / "shard-00001.safetensors"
    if damage == "replaced":
        arrays = {u: {"fbank": np.ones((n, 2)), "energy": np.ones(n)} for u, n in (("a", 2), ("b", 1), ("c", 3))}
        content = StoreContent(store.kind, store.tensors, store.config, store.inputs, store.description.left_out)
        floats = {u: {name: a.astype(np.float32) for name, a in values.items()} for u, values in arrays.items()}
        write_arrays(small, content, floats, WriteOptions(shard_frames=3, force=True))
        assert path.stat().st_size == store.headers[1].bytes
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-6])
    else:
        path.unlink()
    with pytest.raises(UserError, match="shard-00001.*was deleted, truncated or replaced after this process opened"):
        store.read("c")
    with pytest.raises(UserError, match="shard-0000[01]"):
        list(store.shards())
