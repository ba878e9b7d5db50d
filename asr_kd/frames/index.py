"""``index.json``: what makes a folder of shards a complete store."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from asr_kd.errors import UserError
from asr_kd.files import read_text, write_text
from asr_kd.frames.description import SCHEMA, Description
from asr_kd.frames.shard import ShardHeader, checksum, read_header, shard_name

INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One shard's line in the index."""

    file: str
    utterances: int
    frames: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """A store's description, its shards in order, and the planned utterances that were dropped, with the reason."""

    description: Description
    shards: tuple[ShardEntry, ...]
    skipped: dict[str, str]


def read_index(folder: Path, name: str = INDEX) -> Index:
    """The index of a complete store; ``UserError`` if it is missing, damaged or of another schema."""
    path = folder / name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a frame store")
    if not path.is_file():
        if any(folder.glob("shard-*.safetensors")):
            raise UserError(
                f"{folder}: the store is incomplete (no {INDEX}); run the command that wrote it again to go on, "
                f"or, if all shards are there, asr-kd frames verify --rebuild {folder}"
            )
        raise UserError(f"{folder}: not a frame store (no {INDEX})")
    try:
        values = json.loads(read_text(path))
        if values["schema"] != SCHEMA:
            raise UserError(f"{path}: store schema {values['schema']}; this version reads schema {SCHEMA}")
        shards = tuple(ShardEntry(**entry) for entry in values.pop("shards"))
        skipped = values.pop("skipped")
        for total in ("frames", "utterances"):
            values.pop(total)
        return Index(Description.from_json(values), shards, skipped)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged ({error!r}); asr-kd frames verify --rebuild {folder} makes it anew") from None


def publish_index(folder: Path, verify: bool = False) -> Index:
    """Make ``index.json`` from the shards' own headers; with ``verify``, after checking every checksum.

    Raises ``UserError`` if a shard is missing, damaged or of another store.
    """
    headers = [read_header(folder / shard_name(0))]
    description = headers[0].description
    headers += [read_header(folder / shard_name(number)) for number in range(1, description.num_shards)]
    for number, header in enumerate(headers):
        check_place(header, number, description)
        if verify:
            check_content(header)
    shards = tuple(entry_of(header) for header in headers)
    skipped = {utterance: reason for header in headers for utterance, reason in header.skipped.items()}
    values: dict[str, Any] = {
        **description.to_json(),
        "utterances": sum(entry.utterances for entry in shards),
        "frames": sum(entry.frames for entry in shards),
        "skipped": skipped,
        "shards": [dataclasses.asdict(entry) for entry in shards],
    }
    write_text(folder / INDEX, json.dumps(values, indent=1) + "\n")
    return Index(description, shards, skipped)


def entry_of(header: ShardHeader) -> ShardEntry:
    """What the index says of a shard."""
    return ShardEntry(header.path.name, len(header.utterances), header.offsets[-1], header.bytes, header.sha256)


def check_place(header: ShardHeader, number: int, description: Description) -> None:
    """``UserError`` if a shard is not number ``number`` of the store ``description``."""
    if header.description != description:
        difference = "; ".join(header.description.differences(description)) or "another version of the project"
        raise UserError(f"{header.path}: a shard of another store ({difference}); put the right one back or delete it")
    if header.number != number:
        raise UserError(f"{header.path}: holds shard {header.number}, expected {number}: shards were swapped")


def check_content(header: ShardHeader) -> None:
    """``UserError`` if a shard's bytes do not have its checksum."""
    if (found := checksum(header.path)) != header.sha256:
        raise UserError(
            f"{header.path}: checksum {found[:12]}, expected {header.sha256[:12]}: the file is damaged; "
            f"delete it and {INDEX} and run the command that wrote the store again"
        )
