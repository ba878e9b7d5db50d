"""A store's folder at a URL: shards come through the cache of this machine, and go straight there."""

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asr_kd.errors import UserError
from asr_kd.file_cache import FileCache
from asr_kd.frames.description import Description
from asr_kd.frames.folder import StoreFolder
from asr_kd.frames.index import INDEX, Index, check_content, parse_index
from asr_kd.frames.prefetch import Prefetcher
from asr_kd.frames.shard import (
    USUAL_HEADER,
    Shard,
    ShardHeader,
    checksum,
    header_bytes,
    parse_header,
    recorded_checksum,
    shard_name,
    shard_number,
    shard_parts,
)
from asr_kd.limits import STORE_JSON_BYTES
from asr_kd.storage import UnavailableError, file_system, reporting

_AT_ONCE = 256  # headers that are asked for together: a few MB
_TRIES = 3  # of a download, beyond what the storage's own library tries
_PATIENCE = 60  # seconds after which no further try is begun


class RemoteFolder(StoreFolder):
    """A folder in object storage. Its shards are read through the ``FileCache`` of this machine.

    A shard is compared with its checksum in the index when it arrives: a reader gets the bytes that the index lists, or
    an error. Writers are told apart by what they write, not by locks, which object storage lacks: a shard of other
    content is an error when the index is written, at the latest.
    """

    path: str
    remote = True

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._cache = FileCache.of_environment()
        self._prefetcher = Prefetcher(self._cache, self._fetch)

    def __reduce__(self) -> tuple[type["RemoteFolder"], tuple[str]]:
        return RemoteFolder, (self.path,)

    @functools.cached_property
    def _storage(self) -> tuple[Any, str]:
        return file_system(self.path)

    @property
    def _files(self) -> Any:
        return self._storage[0]

    def _place(self, name: str) -> str:
        return f"{self._storage[1]}/{name}"

    def _url(self, number: int) -> str:
        return f"{self.path}/{shard_name(number)}"

    def read_index(self) -> Index:
        url = f"{self.path}/{INDEX}"
        with reporting(url):
            try:
                content = self._files.cat_file(self._place(INDEX), start=0, end=STORE_JSON_BYTES + 1)
            except FileNotFoundError:
                raise UserError(f"{self.path}: not a frame store, or an incomplete one (no {INDEX})") from None
        if len(content) > STORE_JSON_BYTES:
            raise UserError(f"{url}: longer than {STORE_JSON_BYTES:,} bytes; is this the index of a store?")
        return parse_index(url, content.decode(errors="replace"), self.path)

    def opened(self, index: Index) -> list[ShardHeader]:
        """As the interface says; the headers of a store are kept in the cache, in one file."""
        name = hashlib.sha256("".join(entry.sha256 for entry in index.shards).encode()).hexdigest()
        heads = _split(self._cache.read(name) or b"")
        if len(heads) != len(index.shards):
            heads = self._heads(range(len(index.shards)))
            self._cache.write(name, b"".join(heads))
        sizes = (entry.bytes for entry in index.shards)
        return [
            parse_header(self._url(number), head, size, index.description)
            for number, (head, size) in enumerate(zip(heads, sizes, strict=True))
        ]

    def headers(self, numbers: Sequence[int], known: Description | None = None) -> list[ShardHeader]:
        sizes = self._sizes()
        if missing := [number for number in numbers if number not in sizes]:
            raise UserError(
                f"{self._url(missing[0])}: this shard is missing; run the command that wrote the store again"
            )
        heads = self._heads(numbers)
        return [
            parse_header(self._url(number), head, sizes[number], known)
            for number, head in zip(numbers, heads, strict=True)
        ]

    def _heads(self, numbers: Sequence[int]) -> list[bytes]:
        """The first bytes of some shards: their headers, and nothing after them."""
        heads = self._ranges(numbers, [USUAL_HEADER] * len(numbers))
        longer = [place for place, head in enumerate(heads) if header_bytes(head) > len(head) == USUAL_HEADER]
        found = self._ranges([numbers[place] for place in longer], [header_bytes(heads[place]) for place in longer])
        for place, head in zip(longer, found, strict=True):
            heads[place] = head
        return [head[: header_bytes(head)] for head in heads]

    def _ranges(self, numbers: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        heads: list[bytes] = []
        for begin in range(0, len(numbers), _AT_ONCE):
            part = numbers[begin : begin + _AT_ONCE]
            with reporting(self.path):
                places = [self._place(shard_name(number)) for number in part]
                found = self._files.cat_ranges(places, [0] * len(part), list(sizes[begin : begin + _AT_ONCE]))
            for number, head in zip(part, found, strict=True):
                with reporting(self._url(number)):
                    if isinstance(head, Exception):
                        raise head
                    heads.append(head)
        return heads

    def open(self, header: ShardHeader) -> int:
        return self._cache.open(header.sha256, header.bytes, lambda path: self._download(header, path))

    def ahead(self, headers: Sequence[ShardHeader]) -> None:
        self._prefetcher.want(headers)

    def _fetch(self, header: ShardHeader) -> None:
        os.close(self.open(header))

    def _download(self, header: ShardHeader, path: Path) -> None:
        """Write the shard to ``path``; ``UserError`` if it cannot be had, or is not the one that the index lists."""
        begun = time.monotonic()
        for last in (*[False] * (_TRIES - 1), True):
            try:
                with reporting(header.path):
                    self._files.get_file(self._place(shard_name(header.number)), str(path))
                self._check(header, path)
                return
            except UnavailableError:
                if last or time.monotonic() - begun > _PATIENCE:
                    raise
            time.sleep(0.5)

    def _check(self, header: ShardHeader, path: Path) -> None:
        if (found := path.stat().st_size) != header.bytes:
            raise UnavailableError(
                f"{header.path}: {found:,} bytes arrived, {header.bytes:,} expected: the transfer was interrupted, or"
                " the shard was replaced after the store was opened; run the command again"
            )
        if recorded_checksum(path) != header.sha256:
            raise UserError(
                f"{header.path}: not the shard that the index lists: it was replaced after the store was opened; run"
                " the command again"
            )
        if (got := checksum(path)) != header.sha256:
            raise UnavailableError(
                f"{header.path}: checksum {got[:12]}, expected {header.sha256[:12]}: it is damaged in the storage or on"
                f" the way; if this happens again, delete it and {INDEX}, and run the command that wrote the store"
            )

    def verify(self, header: ShardHeader) -> None:
        """As the interface says: the shard is fetched, whether the cache has it or not."""
        with self._cache.scratch(header.sha256, header.bytes) as path:
            self._download(header, path)
            check_content(header, path)

    def present(self) -> set[int]:
        return set(self._sizes())

    def _sizes(self) -> dict[int, int]:
        """The number and bytes of each shard that is there now."""
        with reporting(self.path):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._storage[1], detail=True)
            except FileNotFoundError:
                return {}
        named = {shard_number(entry["name"].rpartition("/")[2]): entry["size"] for entry in found}
        return {number: size for number, size in named.items() if number is not None}

    def descriptions(self, likely: Description) -> Iterator[Description]:
        sizes = self._sizes()
        numbers = sorted(sizes)
        for number, head in zip(numbers, self._heads(numbers), strict=True):
            with contextlib.suppress(UserError):  # cut or damaged: it is rewritten
                yield parse_header(self._url(number), head, sizes[number], likely).description

    def is_finished(self, number: int, description: Description) -> bool:
        """As the interface says. An object appears whole or not at all: its size is compared, not its checksum."""
        place = self._place(shard_name(number))
        with reporting(self._url(number)):
            self._files.invalidate_cache()
            try:
                size = self._files.info(place)["size"]
            except FileNotFoundError:
                return False
        try:
            header = parse_header(self._url(number), self._heads([number])[0], size)
        except UserError:  # cut or damaged: it is rewritten
            return False
        return header.description == description and header.number == number

    def write(self, number: int, description: Description, skipped: dict[str, str], shard: Shard) -> None:
        """Send a shard to the URL; it stays in the cache, as those who write a store often read it next."""
        size, parts = shard_parts(self._url(number), description, number, skipped, shard)
        with self._cache.scratch("outgoing", size) as path:
            with reporting(self._url(number)):
                with open(path, "wb") as stream:
                    stream.writelines(parts)
                self._files.put_file(str(path), self._place(shard_name(number)))
            os.close(self._cache.keep(path, recorded_checksum(path)))

    def write_index(self, text: str) -> None:
        with reporting(f"{self.path}/{INDEX}"):
            self._files.pipe_file(self._place(INDEX), text.encode())

    def delete(self) -> None:
        with reporting(self.path):
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._place(INDEX))
            if names := [self._place(shard_name(number)) for number in sorted(self._sizes())]:
                self._files.rm(names)

    @contextlib.contextmanager
    def writing(self, identity: str, force: bool) -> Iterator[None]:
        with reporting(self.path):
            self._files.makedirs(self._storage[1], exist_ok=True)
        if force:
            self.delete()
        yield

    def free(self, force: bool) -> int | None:
        return None


def _split(blob: bytes) -> list[bytes]:
    """The headers that follow one another in ``blob``."""
    heads, begin = [], 0
    while begin < len(blob):
        end = begin + header_bytes(blob[begin : begin + 8])
        heads.append(blob[begin:end])
        begin = end
    return heads
