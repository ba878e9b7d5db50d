"""``index.json``, written last: a folder of shards with it is a complete store."""

import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import parse_json
from asr_kd.frames.checked import Damaged, count, digits, members, texts
from asr_kd.frames.description import Description
from asr_kd.frames.shard import ShardHeader, check_schema, checksum, content_of, map_shard, shard_name

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


def parse_index(path: str | Path, text: str, store: str | Path) -> Index:
    """The index in ``text``, which was read from ``path``; ``UserError`` if it is damaged or of another schema."""
    advice = f"asr-kd frames verify --rebuild {store} rewrites it"
    try:
        values = parse_json(text, str(path))
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    try:
        return _checked_index(path, values)
    except Damaged as error:
        raise UserError(f"{path}: damaged ({error}); {advice}") from None


def _checked_index(path: str | Path, values: Any) -> Index:
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


def index_of(headers: Sequence[ShardHeader]) -> Index:
    """The index of the store that has these shards; ``UserError`` if one is of another store, or out of place."""
    description = headers[0].description
    for number, header in enumerate(headers):
        check_place(header, number, description)
    check_order(headers)
    skipped = {utterance: reason for header in headers for utterance, reason in header.skipped.items()}
    return Index(description, tuple(entry_of(header) for header in headers), skipped)


def index_text(index: Index) -> str:
    """The content of ``index.json``."""
    values: dict[str, Any] = {
        **index.description.to_json(),
        "utterances": sum(entry.utterances for entry in index.shards),
        "frames": sum(entry.frames for entry in index.shards),
        "skipped": index.skipped,
        "shards": [_entry_to_json(entry) for entry in index.shards],
    }
    return json.dumps(values, indent=1) + "\n"


def entry_of(header: ShardHeader) -> ShardEntry:
    """The index's line for a shard."""
    sizes = len(header.utterances), header.frames, header.bytes
    return ShardEntry(shard_name(header.number), *sizes, header.sha256, header.content)


def _entry_to_json(entry: ShardEntry) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(entry).items() if value or name != "content"}


def check_order(headers: Sequence[ShardHeader]) -> None:
    """``UserError`` unless the utterances ascend from shard to shard, so that none is in two of them."""
    filled = [header for header in headers if header.utterances]
    for header, after in itertools.pairwise(filled):
        if header.utterances[-1] >= after.utterances[0]:
            raise UserError(
                f"{after.path}: begins with utterance {shown(after.utterances[0])}, which does not come after"
                f" {shown(header.utterances[-1])} in {shard_name(header.number)}; delete both and run again"
            )


def check_place(header: ShardHeader, number: int, description: Description) -> None:
    """``UserError`` unless the shard is number ``number`` of the store that ``description`` describes."""
    if header.description is not description and header.description != description:
        difference = "; ".join(header.description.differences(description)) or "another version of the project"
        raise UserError(f"{header.path}: a shard of another store ({difference}); restore the right one or delete it")
    if header.number != number:
        raise UserError(
            f"{header.path}: holds shard {header.number}, expected {number}: shards were swapped; rename them, or"
            " delete them and run again"
        )


def check_content(header: ShardHeader, path: str | Path) -> None:
    """``UserError`` unless the bytes of the shard's file, now at ``path``, match its checksum."""
    if (found := checksum(path)) != header.sha256:
        raise UserError(
            f"{header.path}: checksum {found[:12]}, expected {header.sha256[:12]}: the file is damaged; "
            f"delete it and {INDEX} and run the command that wrote the store again"
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if header.content and (found := content_of(map_shard(header, descriptor))) != header.content:
        raise UserError(
            f"{header.path}: its frames do not match their recorded hash (found {found[:12]}, expected "
            f"{header.content[:12]}); delete it and {INDEX}, then run the command that wrote the store again"
        )
