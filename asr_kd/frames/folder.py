"""Where a store lies: a folder on a disk or at a URL. Readers and writers of stores know only this interface."""

import abc
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr_kd.frames.description import Description
from asr_kd.frames.index import Index, index_of, index_text
from asr_kd.frames.shard import Shard, ShardHeader


class StoreFolder(abc.ABC):
    """The files of one store; ``path`` is the folder or URL, for messages. It can be pickled."""

    path: str | Path
    remote: bool

    @abc.abstractmethod
    def read_index(self) -> Index:
        """The index of a complete store; ``UserError`` if it is missing, damaged or of another schema."""

    @abc.abstractmethod
    def opened(self, index: Index) -> list[ShardHeader]:
        """The headers of the shards that the index lists; ``UserError`` for one that is missing, cut or damaged."""

    @abc.abstractmethod
    def headers(self, numbers: Sequence[int], known: Description | None = None) -> list[ShardHeader]:
        """The headers of some shards, as they are now. ``UserError`` as ``opened``; see ``read_header``."""

    @abc.abstractmethod
    def open(self, header: ShardHeader) -> int:
        """A descriptor of the shard's file, on this machine; ``UserError`` if it is not the one of ``header``."""

    @abc.abstractmethod
    def ahead(self, headers: Sequence[ShardHeader]) -> None:
        """These shards will be opened next, in this order, perhaps: fetch the first of them if that takes time."""

    @abc.abstractmethod
    def verify(self, header: ShardHeader) -> None:
        """``UserError`` unless every byte that lies there now is right."""

    @abc.abstractmethod
    def present(self) -> set[int]:
        """The numbers of the shards that are there, whole or not."""

    @abc.abstractmethod
    def descriptions(self, likely: Description) -> Iterator[Description]:
        """The stores that the shards here are of, as far as they can be read; most likely all of one, ``likely``."""

    @abc.abstractmethod
    def is_finished(self, number: int, description: Description) -> bool:
        """Whether shard ``number`` of the store ``description`` is there and whole, so that it need not be written."""

    @abc.abstractmethod
    def write(self, number: int, description: Description, skipped: dict[str, str], shard: Shard) -> None:
        """Write a shard, which appears whole or not at all."""

    @abc.abstractmethod
    def write_index(self, text: str) -> None:
        """Write ``index.json``, which makes the store complete."""

    @abc.abstractmethod
    def delete(self) -> None:
        """Delete the store's index and shards, and no other file; the index first, so that no broken store is seen."""

    @abc.abstractmethod
    def writing(self, identity: str, force: bool) -> contextlib.AbstractContextManager[None]:
        """While held, no other process writes content other than ``identity`` here, as far as that can be prevented.

        What killed writers left is deleted first; with ``force``, the store too.
        """

    @abc.abstractmethod
    def free(self, force: bool) -> int | None:
        """Bytes that can be written, with ``force`` those of a store that is deleted first; None if unlimited."""

    def publish(self, verify: bool = False) -> Index:
        """Make ``index.json`` from the shards' own headers; with ``verify``, after checking every checksum.

        Raises ``UserError`` if a shard is missing, damaged or of another store.
        """
        first = self.headers([0])
        description = first[0].description
        headers = first + self.headers(range(1, description.num_shards), description)
        index = index_of(headers)
        if verify:
            for header in headers:
                self.verify(header)
        self.write_index(index_text(index))
        return index
