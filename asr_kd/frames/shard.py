"""One shard: a safetensors file that explains itself.

Its metadata has two entries: ``asr_kd``, a JSON text with the store's description and this shard's number, utterances
and offsets, and ``sha256``, the hash of the whole file with these 64 digits as zeros. So a shard can be recognised,
checked and put into an index without any other file. The header is written here and not by the safetensors library,
whose order of metadata entries changes from run to run.
"""

import dataclasses
import hashlib
import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import atomic_write, open_regular, parse_json
from asr_kd.frames.checked import LARGEST, Damaged, count, counts, digits, members, texts
from asr_kd.frames.description import CODES, SCHEMA, Description
from asr_kd.frames.mapping import map_file
from asr_kd.frames.plan import problem_of_ids
from asr_kd.limits import STORE_JSON_BYTES

_DTYPES = {code: dtype for dtype, code in CODES.items()}
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


@dataclasses.dataclass(frozen=True, eq=False)
class ShardHeader:
    """A shard's metadata, checked against its description and the size of its file.

    ``offsets`` ``[utterances + 1]`` int64; ``skipped`` ``{utterance: reason}``; ``starts`` ``{tensor: first byte}``.
    """

    path: Path
    description: Description
    number: int
    utterances: tuple[str, ...]
    offsets: np.ndarray
    skipped: dict[str, str]
    sha256: str
    bytes: int
    starts: dict[str, int]

    @property
    def frames(self) -> int:
        """Frames of all utterances."""
        return int(self.offsets[-1])


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
        header[name] = {"dtype": CODES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    text = _compact(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > STORE_JSON_BYTES:
        raise UserError(f"{path}: {len(shard.utterances):,} utterances are too many for one shard; use smaller shards")
    head = bytearray(len(text).to_bytes(8, "little") + text)
    digest = hashlib.sha256(head)
    for array in arrays:
        digest.update(_bytes_of(array))
    head[_HASH_AT : _HASH_AT + 64] = digest.hexdigest().encode()
    with atomic_write(path, "wb") as stream:
        stream.write(head)
        for array in arrays:
            stream.write(_bytes_of(array))


def read_header(path: Path, known: Description | None = None) -> ShardHeader:
    """A shard's metadata; ``UserError`` if the file is missing, cut, no shard, or not laid out as it says itself.

    ``known``: the description that its store most likely has, which then is not checked again.
    """
    try:
        stream = open_regular(path)
    except UserError:
        if path.exists():
            raise
        raise UserError(f"{path}: this shard is missing; run the command that wrote the store again") from None
    with stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(length, size, STORE_JSON_BYTES))
    if len(text) < length or not text.startswith(_OPENING):
        raise UserError(f"{path}: not a shard of a frame store, or cut to {size:,} bytes; delete it and run again")
    try:
        return _checked_header(path, parse_json(text, str(path)), 8 + length, size, known)
    except Damaged as error:
        raise UserError(f"{path}: its header is damaged ({error}); delete it and run again") from None


def _checked_header(path: Path, header: Any, data: int, size: int, known: Description | None) -> ShardHeader:
    """The header of a file of ``size`` bytes whose tensors begin at byte ``data``; ``Damaged`` if they do not fit."""
    if type(header) is not dict:
        raise Damaged("it is no object")
    hashed, text = members(header.pop("__metadata__", None), "__metadata__", {"sha256": str, "asr_kd": str})
    about = {"store": dict, "number": int, "utterances": list, "offsets": list, "skipped": dict}
    store, number, utterances, offsets, skipped = members(parse_json(text, str(path)), "its metadata", about)
    check_schema(path, store)
    description = known if known is not None and known.plain == store else Description.from_json(store)
    _check_utterances(utterances)
    rows = _checked_offsets(offsets, len(utterances))
    starts, end = _checked_layout(header, description, int(rows[-1]), data)
    if end != size:
        raise UserError(f"{path}: {size:,} bytes, expected {end:,}: the shard is cut; delete it and run again")
    skipped = texts(skipped, "skipped")
    sha256 = digits(hashed, "sha256")
    number = count(number, "number")
    return ShardHeader(path, description, number, tuple(utterances), rows, skipped, sha256, size, starts)


def check_schema(path: Path, values: Any) -> None:
    """``UserError`` for a store of a newer layout, before anything else in it is found unknown."""
    if isinstance(values, dict) and type(values.get("schema")) is int and values["schema"] != SCHEMA:
        raise UserError(f"{path}: store schema {values['schema']}; this version reads schema {SCHEMA}")


def _check_utterances(utterances: list[Any]) -> None:
    if not set(map(type, utterances)) <= {str}:
        raise Damaged("an utterance id is not a text")
    if not all(map(operator.lt, utterances, utterances[1:])):
        raise Damaged("its utterances are not sorted, or one occurs twice")
    if problem := problem_of_ids(utterances):
        raise Damaged(problem)


def _checked_offsets(offsets: list[Any], utterances: int) -> np.ndarray:
    """int64 ``[utterances + 1]``, from 0 on, each larger than the one before."""
    if len(offsets) != utterances + 1 or set(map(type, offsets)) != {int}:
        raise Damaged(f"expected {utterances + 1} whole numbers as offsets of {utterances} utterances")
    if offsets[0] != 0 or max(offsets) > LARGEST or min(offsets) < 0:
        raise Damaged("its offsets do not begin at 0, or leave the range of numbers of frames")
    rows = np.array(offsets, np.int64)
    if not (np.diff(rows) > 0).all():
        raise Damaged("its offsets do not ascend")
    rows.flags.writeable = False
    return rows


def _checked_layout(
    entries: dict[str, Any], description: Description, frames: int, data: int
) -> tuple[dict[str, int], int]:
    """The first byte of each tensor, and the end of the last; they lie one after the other, without a gap."""
    if entries.keys() != description.tensors.keys():
        raise Damaged(f"tensors {shown(sorted(entries))}, expected {shown(sorted(description.tensors))}")
    places = []
    for name, entry in entries.items():
        spec, what = description.tensors[name], f"tensor {name[:80]!r}"
        dtype, shape, place = members(entry, what, {"dtype": str, "shape": list, "data_offsets": list})
        if _DTYPES.get(dtype) != spec.dtype or counts(shape, f"{what}: shape") != (frames, *spec.shape):
            raise Damaged(f"{what}: {shown(dtype)} {shown(shape)}, expected {spec.dtype} {[frames, *spec.shape]}")
        span = counts(place, f"{what}: data_offsets")
        if len(span) != 2 or span[1] - span[0] != frames * spec.bytes_per_frame:
            raise Damaged(f"{what}: data_offsets {shown(place)}, expected {frames * spec.bytes_per_frame:,} bytes")
        if (data + span[0]) % np.dtype(spec.dtype).itemsize:
            raise Damaged(f"{what} begins at byte {data + span[0]:,}, which is not a multiple of its item size")
        places.append((*span, name))
    end = 0
    for start, stop, name in sorted(places):
        if start != end:
            raise Damaged(f"tensor {shown(name)} begins at byte {start:,} of the data, expected {end:,}")
        end = stop
    return {name: data + start for start, _, name in places}, data + end


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
    """The shard's frames as read-only views of the mapped file, which holds no file descriptor.

    Raises ``UserError`` if the file is no longer the one whose header was read.
    """
    gone = "the shard was deleted, cut or replaced after this process opened the store; run the command again"
    try:
        descriptor = os.open(header.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{header.path}: no such file; {gone}") from None
    try:
        size = os.fstat(descriptor).st_size
        if size != header.bytes:  # a view beyond the end of the file would end the process with SIGBUS
            raise UserError(f"{header.path}: {size:,} bytes, {header.bytes:,} when it was opened: {gone}")
        content = map_file(descriptor, size)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(header.path)) from error
    finally:
        os.close(descriptor)
    if content[_HASH_AT : _HASH_AT + 64].tobytes() != header.sha256.encode():
        raise UserError(f"{header.path}: it has another checksum than when it was opened: {gone}")
    tensors = {}
    for name, spec in header.description.tensors.items():
        start, shape = header.starts[name], (header.frames, *spec.shape)
        tensors[name] = content[start : start + header.frames * spec.bytes_per_frame].view(spec.dtype).reshape(shape)
    return Shard(header.utterances, header.offsets, tensors)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
