"""A store's folder on a disk."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr_kd.errors import UserError
from asr_kd.files import check_folder, read_text, write_text
from asr_kd.frames.description import Description
from asr_kd.frames.folder import StoreFolder
from asr_kd.frames.index import INDEX, Index, check_content, parse_index
from asr_kd.frames.lock import writing
from asr_kd.frames.shard import (
    Shard,
    ShardHeader,
    checksum,
    open_shard,
    read_header,
    shard_name,
    shard_number,
    write_shard,
)
from asr_kd.limits import STORE_JSON_BYTES


class LocalFolder(StoreFolder):
    """A folder on a disk, perhaps one that several machines share."""

    path: Path
    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_index(self) -> Index:
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such folder; expected a frame store")
        file = self.path / INDEX
        if not file.is_file():
            if any(self.path.glob("shard-*.safetensors")):
                raise UserError(
                    f"{self.path}: the store is incomplete (no {INDEX}); run the command that wrote it again to finish"
                    f" it, or, if all shards are there, asr-kd frames verify --rebuild {self.path}"
                )
            advice = "give a folder that asr-kd feats, hmm align or targets write wrote"
            check_folder(self.path, INDEX, "a frame store", advice)
        return parse_index(file, read_text(file, STORE_JSON_BYTES), self.path)

    def opened(self, index: Index) -> list[ShardHeader]:
        return self.headers(range(len(index.shards)), index.description)

    def headers(self, numbers: Sequence[int], known: Description | None = None) -> list[ShardHeader]:
        return [read_header(self.path / shard_name(number), known) for number in numbers]

    def open(self, header: ShardHeader) -> int:
        return open_shard(header)

    def ahead(self, headers: Sequence[ShardHeader]) -> None:
        """The operating system reads ahead."""

    def verify(self, header: ShardHeader) -> None:
        check_content(header, header.path)

    def present(self) -> set[int]:
        found = (shard_number(path.name) for path in self.path.glob("shard-*.safetensors"))
        return {number for number in found if number is not None}

    def descriptions(self, likely: Description) -> Iterator[Description]:
        for number in sorted(self.present()):
            with contextlib.suppress(UserError):  # cut or damaged: it is rewritten
                yield read_header(self.path / shard_name(number), likely).description

    def is_finished(self, number: int, description: Description) -> bool:
        path = self.path / shard_name(number)
        if not path.exists():
            return False
        try:
            header = read_header(path)
        except UserError:  # cut or damaged: it is rewritten
            return False
        return header.description == description and header.number == number and checksum(path) == header.sha256

    def write(self, number: int, description: Description, skipped: dict[str, str], shard: Shard) -> None:
        write_shard(self.path / shard_name(number), description, number, skipped, shard)

    def write_index(self, text: str) -> None:
        write_text(self.path / INDEX, text)

    def delete(self) -> None:
        (self.path / INDEX).unlink(missing_ok=True)
        for shard in self.path.glob("shard-*.safetensors"):
            shard.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self, identity: str, force: bool) -> Iterator[None]:
        with writing(self.path, identity, lambda: self._clear(force), force):
            yield

    def _clear(self, force: bool) -> None:
        """Delete partial files of killed writers and, with ``force``, the store; no other process writes it."""
        for partial in self.path.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        if force:
            self.delete()

    def free(self, force: bool) -> int | None:
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if os.path.exists(parent))
        taken = sum(shard.stat().st_size for shard in self.path.glob("shard-*.safetensors")) if force else 0
        return shutil.disk_usage(existing).free + taken
