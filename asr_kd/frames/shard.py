"""One shard: a safetensors file that explains itself.

Its metadata has two entries: ``asr_kd``, a JSON text with the store's description and this shard's number, utterances
and offsets, and ``sha256``, the hash of the whole file with these 64 digits as zeros. So a shard can be recognised,
checked and put into an index without any other file. The header is written here, not by the safetensors library, whose
order of metadata entries changes from run to run.
"""

import dataclasses
import hashlib
import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import atomic_write
from asr_kd.frames.description import SCHEMA, Description

_CODES = {
    "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
}  # fmt: skip
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_OPENING = b'{"__metadata__":{"sha256":"'
_NO_HASH = b"0" * 64
_HASH_AT = 8 + len(_OPENING)  # after the header's length


@dataclasses.dataclass(frozen=True)
class Shard:
    """Frames of several utterances: utterance ``i`` is rows ``offsets[i]:offsets[i + 1]`` of each tensor.

    ``offsets`` ``[utterances + 1]`` int64; ``tensors`` ``{name: [frames, ...]}``, read-only views of the mapped file.
    """

    utterances: tuple[str, ...]
    offsets: np.ndarray
    tensors: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ShardHeader:
    """A shard's metadata; ``layout`` is ``{name: (dtype, shape, first byte)}``, ``skipped`` ``{utterance: reason}``."""

    path: Path
    description: Description
    number: int
    utterances: tuple[str, ...]
    offsets: tuple[int, ...]
    skipped: dict[str, str]
    sha256: str
    bytes: int
    layout: dict[str, tuple[str, tuple[int, ...], int]]


def shard_name(number: int) -> str:
    """File name of shard ``number``."""
    return f"shard-{number:05d}.safetensors"


def write_shard(path: Path, description: Description, number: int, skipped: Mapping[str, str], shard: Shard) -> None:
    """Write ``shard`` atomically, without a copy of its tensors."""
    about = {
        "store": description.to_json(),
        "number": number,
        "utterances": shard.utterances,
        "offsets": shard.offsets.tolist(),
        "skipped": dict(skipped),
    }
    # Large items first keep every tensor aligned.
    names = sorted(shard.tensors, key=lambda name: (-shard.tensors[name].itemsize, name))
    arrays = [np.ascontiguousarray(shard.tensors[name]) for name in names]
    header: dict[str, Any] = {"__metadata__": {"sha256": _NO_HASH.decode(), "asr_kd": _compact(about)}}
    end = 0
    for name, array in zip(names, arrays, strict=True):
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    text = _compact(header).encode()
    text += b" " * (-len(text) % 8)
    head = bytearray(len(text).to_bytes(8, "little") + text)
    digest = hashlib.sha256(head)
    for array in arrays:
        digest.update(_bytes_of(array))
    head[_HASH_AT : _HASH_AT + 64] = digest.hexdigest().encode()
    with atomic_write(path, "wb") as stream:
        stream.write(head)
        for array in arrays:
            stream.write(_bytes_of(array))


def read_header(path: Path) -> ShardHeader:
    """A shard's metadata, its file size checked; ``UserError`` if the file is cut or is no shard."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(min(length, size))
    except FileNotFoundError:
        raise UserError(f"{path}: this shard is missing; run the command that wrote the store again") from None
    if len(text) < length or not text.startswith(_OPENING):
        raise UserError(f"{path}: not a shard of a frame store, or cut to {size:,} bytes; delete it and run again")
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__")
        about = json.loads(metadata["asr_kd"])
        if about["store"]["schema"] != SCHEMA:
            raise UserError(f"{path}: store schema {about['store']['schema']}; this version reads schema {SCHEMA}")
        layout = {
            name: (_DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        expected = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
        found = ShardHeader(
            path,
            Description.from_json(about["store"]),
            about["number"],
            tuple(about["utterances"]),
            tuple(about["offsets"]),
            about["skipped"],
            metadata["sha256"],
            size,
            layout,
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its header is damaged ({error!r}); delete it and run again") from None
    if size != expected:
        raise UserError(f"{path}: {size:,} bytes, expected {expected:,}: the shard is cut; delete it and run again")
    return found


def checksum(path: Path) -> str:
    """SHA-256 of a shard's file with the recorded checksum as zeros: equal to ``ShardHeader.sha256`` if intact."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        head = bytearray(stream.read(_HASH_AT + 64))
        head[_HASH_AT:] = _NO_HASH
        digest.update(head)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def map_shard(header: ShardHeader) -> Shard:
    """The shard's frames as read-only views of the mapped file."""
    with open(header.path, "rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    tensors = {
        name: np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
        if math.prod(shape)
        else np.empty(shape, dtype)
        for name, (dtype, shape, start) in header.layout.items()
    }
    return Shard(header.utterances, np.array(header.offsets, np.int64), tensors)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
