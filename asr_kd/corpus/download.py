"""Downloads of official releases: resumed after an interruption, checked, unpacked."""

import dataclasses
import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from asr_kd.errors import UserError
from asr_kd.progress import Progress

_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Archive:
    """A tar archive at ``url``; ``md5`` is the publisher's checksum, None if there is none."""

    url: str
    md5: str | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch(archive: Archive, folder: Path) -> None:
    """Download ``archive`` and unpack it into ``folder``, once; a second call returns at once."""
    done = folder / f".{archive.name}.unpacked"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = download(archive, folder)
    unpack(path, folder)
    done.touch()
    path.unlink()


def download(archive: Archive, folder: Path) -> Path:
    """Download into ``folder`` with a progress bar, resuming an earlier download.

    Raises ``UserError`` if there is no network, the connection breaks, or the checksum is wrong.
    """
    target = folder / archive.name
    if target.exists():
        return target
    partial = folder / f"{archive.name}.partial"
    try:
        _receive(archive.url, partial)
    except urllib.error.HTTPError as error:
        raise UserError(f"{archive.url}: the server answered {error.code} {error.reason}; {_BY_HAND}") from None
    except urllib.error.URLError as error:
        raise UserError(f"{archive.url}: no connection ({error.reason}); {_BY_HAND}") from None
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise UserError(f"{archive.url}: the connection was lost ({error}); run the command again to resume") from None
    if archive.md5 and (found := _md5(partial)) != archive.md5:
        partial.unlink()
        raise UserError(f"{archive.url}: md5 is {found}, expected {archive.md5}; the file was removed: run again")
    os.replace(partial, target)
    return target


_BY_HAND = "download and unpack it yourself, and pass its folder with --corpus-dir"


def _receive(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the file is complete already
            return
        raise
    with response, open(partial, "ab" if response.status == 206 else "wb") as stream:
        have = stream.tell()
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else 0
        with Progress(total / 1e6, partial.name.removesuffix(".partial"), "MB") as bar:
            bar.advance(have / 1e6)
            while block := response.read(_BLOCK):
                stream.write(block)
                bar.advance(len(block) / 1e6)
        if stream.tell() < total:
            raise ConnectionError(f"{stream.tell():,} of {total:,} bytes received")


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar archive; ``UserError`` for a member whose path leads out of ``folder``."""
    try:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise UserError(f"{path}: unsafe archive: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        path.unlink()
        reason = str(error).split(":")[0]  # tarfile lists every format that it tried
        raise UserError(f"{path}: damaged archive ({reason}); it was removed: run again to download it again") from None


def _md5(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
