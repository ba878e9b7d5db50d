"""``index.json``, written last: a folder of shards with it is a complete store."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import check_folder, parse_json, read_text, write_text
from asr_kd.frames.checked import Damaged, count, digits, members, texts
from asr_kd.frames.description import Description
from asr_kd.frames.shard import ShardHeader, check_schema, checksum, content_of, map_shard, read_header, shard_name
from asr_kd.limits import STORE_JSON_BYTES

INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One shard's line in the index; ``content`` is empty in schema 1."""

    file: str
    utterances: int
    frames: int
    bytes: int
    sha256: str
    content: str


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
                f"{folder}: the store is incomplete (no {INDEX}); run the command that wrote it again to finish it, "
                f"or, if all shards are there, asr-kd frames verify --rebuild {folder}"
            )
        check_folder(folder, name, "a frame store", "give a folder that asr-kd feats, hmm align or targets write wrote")
    text = read_text(path, STORE_JSON_BYTES)
    advice = f"asr-kd frames verify --rebuild {folder} rewrites it"
    try:
        values = parse_json(text, str(path))
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    try:
        return _checked_index(path, values)
    except Damaged as error:
        raise UserError(f"{path}: damaged ({error}); {advice}") from None


def _checked_index(path: Path, values: Any) -> Index:
    check_schema(path, values)
    types = {"shards": list, "skipped": dict, "frames": int, "utterances": int}
    own = values if isinstance(values, dict) else {}
    shards, skipped, frames, utterances = members({k: v for k, v in own.items() if k in types}, "the index", types)
    description = Description.from_json({k: v for k, v in own.items() if k not in types})
    if len(shards) != description.num_shards:
        raise Damaged(f"{len(shards):,} shards are listed, {description.num_shards:,} expected")
    entries = tuple(_checked_entry(entry, number, description.schema) for number, entry in enumerate(shards))
    if (frames, utterances) != (sum(e.frames for e in entries), sum(e.utterances for e in entries)):
        raise Damaged("its numbers of frames and utterances are not the sums over its shards")
    return Index(description, entries, texts(skipped, "skipped"))


_ENTRY = {"file": str, "utterances": int, "frames": int, "bytes": int, "sha256": str, "content": str}


def _checked_entry(values: Any, number: int, schema: int) -> ShardEntry:
    what = f"shard {number}"
    if isinstance(values, dict) and schema == 1:
        values.setdefault("content", "")
    file, utterances, frames, size, sha256, content = members(values, what, _ENTRY)
    if file != shard_name(number):  # another name could point outside the folder
        raise Damaged(f"{what} is called {shown(file)}, expected {shard_name(number)}")
    for number_of in (utterances, frames, size):
        count(number_of, f"a number of {what}")
    if schema > 1:
        digits(content, f"content of {what}")
    return ShardEntry(file, utterances, frames, size, digits(sha256, f"sha256 of {what}"), content)


def publish_index(folder: Path, verify: bool = False) -> Index:
    """Make ``index.json`` from the shards' own headers; with ``verify``, after checking every checksum.

    Raises ``UserError`` if a shard is missing, damaged or of another store.
    """
    headers = [read_header(folder / shard_name(0))]
    description = headers[0].description
    headers += [read_header(folder / shard_name(number), description) for number in range(1, description.num_shards)]
    for number, header in enumerate(headers):
        check_place(header, number, description)
        if verify:
            check_content(header)
    check_order(headers)
    shards = tuple(entry_of(header) for header in headers)
    skipped = {utterance: reason for header in headers for utterance, reason in header.skipped.items()}
    values: dict[str, Any] = {
        **description.to_json(),
        "utterances": sum(entry.utterances for entry in shards),
        "frames": sum(entry.frames for entry in shards),
        "skipped": skipped,
        "shards": [_entry_to_json(entry) for entry in shards],
    }
    write_text(folder / INDEX, json.dumps(values, indent=1) + "\n")
    return Index(description, shards, skipped)


def entry_of(header: ShardHeader) -> ShardEntry:
    """The index's line for a shard."""
    sizes = len(header.utterances), header.frames, header.bytes
    return ShardEntry(header.path.name, *sizes, header.sha256, header.content)


def _entry_to_json(entry: ShardEntry) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(entry).items() if value or name != "content"}


def check_order(headers: Sequence[ShardHeader]) -> None:
    """``UserError`` unless the utterances ascend from shard to shard, so that none is in two of them."""
    filled = [header for header in headers if header.utterances]
    for header, after in itertools.pairwise(filled):
        if header.utterances[-1] >= after.utterances[0]:
            raise UserError(
                f"{after.path}: begins with utterance {shown(after.utterances[0])}, which does not come after"
                f" {shown(header.utterances[-1])} in {header.path.name}; delete both and run again"
            )


def check_place(header: ShardHeader, number: int, description: Description) -> None:
    """``UserError`` unless the shard is number ``number`` of the store that ``description`` describes."""
    if header.description is not description and header.description != description:
        difference = "; ".join(header.description.differences(description)) or "another version of the project"
        raise UserError(f"{header.path}: a shard of another store ({difference}); restore the right one or delete it")
    if header.number != number:
        raise UserError(f"{header.path}: holds shard {header.number}, expected {number}: shards were swapped")


def check_content(header: ShardHeader) -> None:
    """``UserError`` unless the shard's bytes match its checksum."""
    if (found := checksum(header.path)) != header.sha256:
        raise UserError(
            f"{header.path}: checksum {found[:12]}, expected {header.sha256[:12]}: the file is damaged; "
            f"delete it and {INDEX} and run the command that wrote the store again"
        )
    if header.content and (found := content_of(map_shard(header))) != header.content:
        raise UserError(
            f"{header.path}: its frames do not match their recorded hash (found {found[:12]}, expected "
            f"{header.content[:12]}); delete it and {INDEX}, then run the command that wrote the store again"
        )
