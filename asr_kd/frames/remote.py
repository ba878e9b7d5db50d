"""Stores at an fsspec URL (``s3://...``): read and written through a copy on the local disk."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_kd.errors import UserError
from asr_kd.files import atomic_write
from asr_kd.frames.index import INDEX, ShardEntry, entry_of, read_index
from asr_kd.frames.shard import read_header


def is_url(path: str | Path) -> bool:
    """Whether ``path`` is a URL and not a local path."""
    return "://" in str(path)


def local_folder(path: str | Path) -> Path:
    """``path`` itself, or the folder of a URL's local copy under ``$XDG_CACHE_HOME/asr_kd`` (``~/.cache``)."""
    if not is_url(path):
        return Path(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "asr_kd" / "stores" / hashlib.sha256(str(path).rstrip("/").encode()).hexdigest()[:24]


def download(url: str | Path) -> Path:
    """Download what is missing of the store at ``url`` to its local folder; ``UserError`` if there is none."""
    files, root = _file_system(url)
    folder = local_folder(url)
    try:
        index = files.cat_file(f"{root}/{INDEX}")
    except FileNotFoundError:
        raise UserError(f"{url}: not a frame store, or an incomplete one (no {INDEX})") from None
    with atomic_write(folder / f"remote-{INDEX}", "wb") as stream:
        stream.write(index)
    shards = read_index(folder, f"remote-{INDEX}").shards
    for entry in _missing(folder, shards):
        partial = folder / f".{entry.file}.{os.getpid()}.partial"
        files.get_file(f"{root}/{entry.file}", str(partial))
        partial.replace(folder / entry.file)
    (folder / f"remote-{INDEX}").replace(folder / INDEX)
    return folder


def upload(url: str | Path) -> None:
    """Copy the local folder of ``url`` there, the index last; nothing if the same index is there already."""
    files, root = _file_system(url)
    folder = local_folder(url)
    content = (folder / INDEX).read_bytes()
    if files.exists(f"{root}/{INDEX}"):
        if files.cat_file(f"{root}/{INDEX}") == content:
            return
        files.rm_file(f"{root}/{INDEX}")
    files.makedirs(root, exist_ok=True)
    for entry in read_index(folder).shards:
        files.put_file(str(folder / entry.file), f"{root}/{entry.file}")
    files.pipe_file(f"{root}/{INDEX}", content)


def _missing(folder: Path, shards: tuple[ShardEntry, ...]) -> Iterator[ShardEntry]:
    for entry in shards:
        try:
            if entry_of(read_header(folder / entry.file)) != entry:
                yield entry
        except UserError:  # not there, or cut
            yield entry


def _file_system(url: str | Path) -> tuple[Any, str]:
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(str(url))
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}") from None
    return files, root.rstrip("/")
