"""One shard: a safetensors file that explains itself.

Its metadata has two entries: ``asr_kd``, a JSON text with the store's description, this shard's number, utterances,
offsets and the hash of its content, and ``sha256``, the hash of the whole file with these 64 digits as zeros. So a
shard can be recognised, checked and put into an index without any other file. The header is written here and not by the
safetensors library, whose order of metadata entries changes from run to run.
"""

import dataclasses
import hashlib
import itertools
import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import atomic_write, open_descriptor, parse_json
from asr_kd.frames.checked import LARGEST, Damaged, count, digits, members, texts
from asr_kd.frames.description import SCHEMAS, Description
from asr_kd.frames.mapping import map_file
from asr_kd.frames.plan import problem_of_ids
from asr_kd.limits import STORE_JSON_BYTES

_OPENING = b'{"__metadata__":{"sha256":"'
_NO_HASH = b"0" * 64
_HASH_AT = 8 + len(_OPENING)  # after the header's length
_AFTER_HASH = '","asr_kd":'
_METADATA_AT = len(_OPENING) + 64 + len(_AFTER_HASH)
_MEMBERS = {"number": int, "utterances": list, "offsets": list, "skipped": dict, "content": str}  # beside "store"
_DECODER = json.JSONDecoder()
USUAL_HEADER = 1 << 14  # bytes read at once; more only for a shard of many utterances


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

    ``offsets`` ``[utterances + 1]`` int64; ``skipped`` ``{utterance: reason}``; ``content``: see ``content_of``, empty
    in schema 1; the tensors begin at byte ``data``.
    """

    path: str | Path
    description: Description
    number: int
    utterances: tuple[str, ...]
    offsets: np.ndarray
    skipped: dict[str, str]
    content: str
    sha256: str
    bytes: int
    data: int

    @property
    def frames(self) -> int:
        """Frames of all utterances."""
        return int(self.offsets[-1])


def shard_name(number: int) -> str:
    """File name of shard ``number``."""
    return f"shard-{number:05d}.safetensors"


def shard_number(name: str) -> int | None:
    """The inverse of ``shard_name``; None for any other file name."""
    digits = name.removeprefix("shard-").removesuffix(".safetensors")
    number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 16 else 0
    return number if name == shard_name(number) else None


def write_shard(path: Path, description: Description, number: int, skipped: Mapping[str, str], shard: Shard) -> None:
    """Write ``shard`` atomically, without a copy of its tensors."""
    _, parts = shard_parts(path, description, number, skipped, shard)
    with atomic_write(path, "wb") as stream:
        stream.writelines(parts)


def shard_parts(
    path: str | Path, description: Description, number: int, skipped: Mapping[str, str], shard: Shard
) -> tuple[int, Iterator[bytearray | memoryview]]:
    """The size of the file of ``shard``, and its bytes, one part after the other; its tensors are not copied."""
    about = {
        "store": description.to_json(),
        "number": number,
        "utterances": shard.utterances,
        "offsets": shard.offsets.tolist(),
        "skipped": dict(skipped),
        "content": content_of(shard),
    }
    arrays = [np.ascontiguousarray(shard.tensors[name]) for name, _, _ in description.spans]
    metadata = json.dumps(json.dumps(about, separators=(",", ":")))
    layout = description.layout(int(shard.offsets[-1]))
    text = b"".join((_OPENING, _NO_HASH, f"{_AFTER_HASH}{metadata}}},{layout}}}".encode()))
    text += b" " * (-len(text) % 8)
    if len(text) > STORE_JSON_BYTES:
        raise UserError(f"{path}: {len(shard.utterances):,} utterances are too many for one shard; use smaller shards")
    head = bytearray(len(text).to_bytes(8, "little") + text)
    digest = hashlib.sha256(head)
    for array in arrays:
        digest.update(_bytes_of(array))
    head[_HASH_AT : _HASH_AT + 64] = digest.hexdigest().encode()
    size = len(head) + sum(array.nbytes for array in arrays)
    return size, itertools.chain([head], map(_bytes_of, arrays))


def read_header(path: Path, known: Description | None = None) -> ShardHeader:
    """A shard's metadata; ``UserError`` if the file is missing, cut, no shard, or not laid out as it says itself.

    ``known``: the description that its store most likely has, which then is not checked again.
    """
    try:
        descriptor, found = open_descriptor(path)
    except UserError:
        if path.exists():
            raise
        raise UserError(f"{path}: this shard is missing; run the command that wrote the store again") from None
    try:
        size = found.st_size
        head = os.read(descriptor, USUAL_HEADER)
        missing = min(header_bytes(head), size) - len(head)
        head += _read_all(descriptor, missing) if missing > 0 else b""
    finally:
        os.close(descriptor)
    return parse_header(path, head, size, known)


def header_bytes(head: bytes) -> int:
    """How many bytes of a shard's file are its header, as the first 8 say; at most what any shard has."""
    return min(8 + int.from_bytes(head[:8], "little"), STORE_JSON_BYTES)


def parse_header(path: str | Path, head: bytes, size: int, known: Description | None = None) -> ShardHeader:
    """The metadata in the first bytes of a shard's file of ``size`` bytes; ``UserError`` as ``read_header``."""
    length = int.from_bytes(head[:8], "little")
    text = head[8 : 8 + length]
    if len(text) < length or not text.startswith(_OPENING):
        raise UserError(
            f"{path}: not a shard of a frame store, or truncated to {size:,} bytes; delete it and run again"
        )
    try:
        return _checked_header(path, text, size, known)
    except Damaged as error:
        raise UserError(f"{path}: its header is damaged ({error}); delete it and run again") from None


def _checked_header(path: str | Path, text: bytes, size: int, known: Description | None) -> ShardHeader:
    """The header ``text`` of a file of ``size`` bytes; ``Damaged`` unless it is as ``write_shard`` writes it."""
    sha256, metadata, rest = _parts(text)
    if known is not None and metadata.startswith(known.opening):  # nearly always: it is not parsed again
        description, metadata = known, "{" + metadata[len(known.opening) :]
        values = parse_json(metadata, str(path))
    else:
        values = parse_json(metadata, str(path))
        store = values.pop("store", None) if isinstance(values, dict) else None
        check_schema(path, store)
        description = Description.from_json(store)
    if isinstance(values, dict) and description.schema == 1:
        values.setdefault("content", "")
    number, utterances, offsets, skipped, content = members(values, "its metadata", _MEMBERS)
    _check_utterances(utterances)
    rows = _checked_offsets(offsets, len(utterances))
    frames, data = offsets[-1], 8 + len(text)
    if rest != (layout := f"}},{description.layout(frames)}}}"):
        raise Damaged(f"its tensors are {rest[2:-1][:400]!r}, expected {layout[2:-1][:400]}")
    if data % 8:
        raise Damaged(f"its tensors begin at byte {data:,}, expected a multiple of 8")
    if (end := data + frames * description.bytes_per_frame) != size:
        raise UserError(f"{path}: {size:,} bytes, expected {end:,}: the shard is truncated; delete it and run again")
    number, skipped = count(number, "number"), texts(skipped, "skipped")
    content = digits(content, "content") if description.schema > 1 else ""
    return ShardHeader(path, description, number, tuple(utterances), rows, skipped, content, sha256, size, data)


def _parts(text: bytes) -> tuple[str, str, str]:
    """The checksum, the JSON text of the metadata, and what follows it."""
    try:
        header = text.decode("ascii")
        metadata, end = _DECODER.raw_decode(header, _METADATA_AT)
    except ValueError as error:
        raise Damaged(str(error)) from None
    if header[_METADATA_AT - len(_AFTER_HASH) : _METADATA_AT + 1] != f'{_AFTER_HASH}"':
        raise Damaged(f"{shown(header[len(_OPENING) + 64 : _METADATA_AT + 1])}, expected {_AFTER_HASH}")
    return digits(header[len(_OPENING) : len(_OPENING) + 64], "sha256"), metadata, header[end:].rstrip(" ")


def _read_all(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def check_schema(path: str | Path, values: Any) -> None:
    """``UserError`` for a store of a newer layout, before anything else in it is found unknown."""
    if isinstance(values, dict) and type(values.get("schema")) is int and values["schema"] not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        raise UserError(f"{path}: store schema {values['schema']}; this version reads schemas {known}: update asr_kd")


def _check_utterances(utterances: list[Any]) -> None:
    if not set(map(type, utterances)) <= {str}:
        raise Damaged("an utterance id is not a string")
    if not all(map(operator.lt, utterances, utterances[1:])):
        raise Damaged("its utterances are not sorted, or one occurs twice")
    if problem := problem_of_ids(utterances):
        raise Damaged(problem)


def _checked_offsets(offsets: list[Any], utterances: int) -> np.ndarray:
    """int64 ``[utterances + 1]``, from 0 on, each larger than the one before."""
    if len(offsets) != utterances + 1 or set(map(type, offsets)) != {int}:
        raise Damaged(f"expected {utterances + 1} whole numbers as offsets of {utterances} utterances")
    try:
        rows = np.array(offsets, np.int64)
    except OverflowError:
        raise Damaged("its offsets leave the range of numbers of frames") from None
    if not (rows[1:] > rows[:-1]).all():
        raise Damaged("its offsets do not ascend")
    if rows[0] != 0 or rows[-1] > LARGEST:
        raise Damaged("its offsets do not begin at 0, or leave the range of numbers of frames")
    rows.flags.writeable = False
    return rows


def checksum(path: str | Path) -> str:
    """SHA-256 of a shard's file with the recorded checksum as zeros: equal to ``ShardHeader.sha256`` if intact."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        head = bytearray(stream.read(_HASH_AT + 64))
        head[_HASH_AT:] = _NO_HASH
        digest.update(head)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def recorded_checksum(path: str | Path) -> str:
    """The checksum that a shard's file has in its header; empty if it is none."""
    with open(path, "rb") as stream:
        head = stream.read(_HASH_AT + 64)
    return head[_HASH_AT:].decode("ascii", "replace") if head[8:_HASH_AT] == _OPENING else ""


def content_of(shard: Shard) -> str:
    """A hash of the utterances and their frames: a sum, so that it does not depend on how they are cut into shards.

    The sum modulo 2^256, in hexadecimal, of the SHA-256 of each utterance's id and tensors (names, types, shapes and
    values). It tells stores apart that differ by mistake, not stores that someone made to look the same.
    """
    names = sorted(shard.tensors)
    arrays = [np.ascontiguousarray(shard.tensors[name]) for name in names]
    layout = [[name, array.dtype.str, array.shape[1:]] for name, array in zip(names, arrays, strict=True)]
    about = json.dumps(layout, separators=(",", ":"))
    rows = [(array.reshape(-1).view(np.uint8).data, array.nbytes // max(1, len(array))) for array in arrays]
    total, offsets = 0, shard.offsets.tolist()
    for number, utterance in enumerate(shard.utterances):
        begin, end = offsets[number], offsets[number + 1]
        digest = hashlib.sha256(f"{utterance}\n{end - begin}\n{about}\n".encode())
        for content, size in rows:
            digest.update(content[begin * size : end * size])
        total += int.from_bytes(digest.digest(), "big")
    return sum_of_content([total])


def sum_of_content(parts: Iterable[int]) -> str:
    """The ``content_of`` several parts of a store together."""
    return format(sum(parts) % (1 << 256), "064x")


_GONE = "the shard was deleted, truncated or replaced after this process opened the store; run the command again"


def open_shard(header: ShardHeader) -> int:
    """A descriptor of the file that the header was read from; ``UserError`` if it is gone."""
    try:
        return os.open(header.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{header.path}: no such file; {_GONE}") from None


def map_shard(header: ShardHeader, descriptor: int) -> Shard:
    """The shard's frames as read-only views of the open file, mapped; the descriptor is closed.

    Raises ``UserError`` if the file is no longer the one whose header was read.
    """
    try:
        size = os.fstat(descriptor).st_size
        if size != header.bytes:  # a view beyond the end of the file would end the process with SIGBUS
            raise UserError(f"{header.path}: {size:,} bytes, {header.bytes:,} when it was opened: {_GONE}")
        content = map_file(descriptor, size)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(header.path)) from error
    finally:
        os.close(descriptor)
    if bytes(content[_HASH_AT : _HASH_AT + 64]) != header.sha256.encode():
        raise UserError(f"{header.path}: its checksum has changed since it was opened: {_GONE}")
    tensors = {}
    frames = header.frames
    for name, start, end in header.description.spans:
        spec = header.description.tensors[name]
        part = content[header.data + frames * start : header.data + frames * end]
        tensors[name] = part.view(spec.dtype).reshape(frames, *spec.shape)
    return Shard(header.utterances, header.offsets, tensors)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
