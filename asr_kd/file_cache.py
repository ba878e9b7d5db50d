"""A folder of downloaded files (shards, audio), shared by all processes of a machine, never above a stated size.

Files are named by the hash of their content, or of their URL and version, so a file is right or absent, and stores with
equal shards share it. It appears whole. The least recently used ones are deleted to make room. Readers map a file by
its descriptor: one that is deleted meanwhile stays readable, and its space is free when the last reader unmaps it. So
the disk may hold, beyond the stated size, the few shards that each process has mapped.

fsspec's caching file systems have no limit of size, which is why this is ours.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from asr_kd.errors import UserError
from asr_kd.storage import UnavailableError, cache_bytes, cache_folder, file_system, reporting, version

_WAIT = 300  # seconds for another process's download of the same file, before downloading it here too
_POLL = 0.01
_SLACK = 64  # a part of the size that is freed beyond what is needed, so that not every file lists the folder


@dataclasses.dataclass(frozen=True)
class FileCache:
    """Files in ``folder``, of at most ``limit`` bytes together."""

    folder: Path
    limit: int

    @classmethod
    def of_environment(cls) -> "FileCache":
        """The cache that ``asr_kd.storage`` places and limits."""
        return cls(cache_folder(), cache_bytes())

    def __contains__(self, name: str) -> bool:
        return (self.folder / "files" / name).exists()

    def read(self, name: str) -> bytes | None:
        """What ``write`` wrote, None if it is not here any more, or damaged."""
        try:
            with open(self.folder / "files" / name, "rb") as stream:
                digest, content = stream.read(32), stream.read()
                with contextlib.suppress(PermissionError):
                    os.utime(stream.fileno())
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).digest() == digest else None

    def write(self, name: str, content: bytes) -> None:
        """Keep ``content`` as ``name``, for as long as there is room."""
        digest = hashlib.sha256(content).digest()
        with self.scratch(name, len(content) + len(digest)) as partial:
            with reporting(self.folder), open(partial, "wb") as stream:
                stream.writelines((digest, content))
            os.close(self.keep(partial, name))

    def open(self, name: str, size: int, download: Callable[[Path], None]) -> int:
        """A descriptor of file ``name``, of ``size`` bytes; ``download`` writes it to the path it is given, if needed.

        Another process that downloads the same file is waited for. Raises ``UserError`` if the file does not fit.
        """
        if (descriptor := self._found(name, size)) is not None:
            return descriptor
        with self._downloading(name):
            if (descriptor := self._found(name, size)) is not None:
                return descriptor
            with self.scratch(name, size) as partial:
                download(partial)
                return self.keep(partial, name)

    def keep(self, partial: Path, name: str) -> int:
        """Make a finished file of ``scratch`` the cached file ``name``; a descriptor of it."""
        descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            os.replace(partial, self.folder / "files" / name)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextlib.contextmanager
    def scratch(self, name: str, size: int) -> Iterator[Path]:
        """An empty file in the cache for ``size`` bytes, deleted in the end unless it was moved.

        It must be written in place. While this process lives, its lock keeps others from deleting it.
        """
        descriptor, path = self._reserve(name, size)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _found(self, name: str, size: int) -> int | None:
        """A descriptor of the file, marked as used, if it is here."""
        path = self.folder / "files" / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != size:  # damaged by something else than this class
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(PermissionError):  # another user's file: its age is less exact
            os.utime(descriptor)
        return descriptor

    @contextlib.contextmanager
    def _downloading(self, name: str) -> Iterator[None]:
        """Only one process at a time, unless it takes too long: then both download, and the result is the same."""
        import filelock

        lock = filelock.FileLock(self._locks() / name[:2])
        try:
            lock.acquire(timeout=_WAIT, poll_interval=_POLL)
        except filelock.Timeout:
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _locks(self) -> Path:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _reserve(self, name: str, size: int) -> tuple[int, Path]:
        import filelock

        if size > self.limit:
            raise UserError(
                f"{self.folder}: a file of {size:,} bytes does not fit into the cache of {self.limit:,}; set"
                " ASR_KD_CACHE_SIZE to several times this size"
            )
        files = self.folder / "files"
        files.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._locks() / "room", poll_interval=_POLL):
            self._make_room(files, size)
            descriptor, path = tempfile.mkstemp(f".{size}.partial", f"{name}.", files)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor, Path(path)

    def _make_room(self, files: Path, size: int) -> None:
        """Delete the least recently used files until ``size`` bytes fit; the folder is listed only when it is full."""
        known = self.folder / "bytes"  # at least what the files take: a killed download counts until the next listing
        try:
            used = int(known.read_text())
        except (FileNotFoundError, ValueError):
            used = self.limit
        if used + size > self.limit or shutil.disk_usage(files).free < size:
            used = self._evict(files, size)
            if (free := shutil.disk_usage(files).free) < size:
                raise UserError(
                    f"{self.folder}: the disk of the cache is full ({free:,} bytes free, {size:,} needed); free some"
                    " space, or set ASR_KD_CACHE to a folder on a larger disk"
                )
        known.write_text(str(used + size))

    def _evict(self, files: Path, size: int) -> int:
        found, used = [], 0
        with os.scandir(files) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile: it is listed next time
                    status = entry.stat()
                    if not entry.name.endswith(".partial"):
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
                        used += status.st_size
                    elif not _abandoned(entry.path):
                        used += int(entry.name.split(".")[-2])
        room, short = self.limit - size - self.limit // _SLACK, size - shutil.disk_usage(files).free
        for _, freed, path in sorted(found):
            if used <= max(0, room) and short <= 0:
                break
            Path(path).unlink(missing_ok=True)
            used, short = used - freed, short - freed
        return used


def open_url(url: str) -> int:
    """A descriptor of the file at ``url``, through the cache; ``UserError`` if it cannot be had."""
    files, place = file_system(url)
    with reporting(url):
        files.invalidate_cache()
        status = files.info(place)
    if status["type"] != "file":
        found = "a folder" if status["type"] == "directory" else "a device or a named pipe"
        raise UserError(f"{url}: is {found}; expected a file")
    name = hashlib.sha256(json.dumps([url, status["size"], version(status)]).encode()).hexdigest()

    def download(path: Path) -> None:
        with reporting(url):
            files.get_file(place, str(path))
        if (size := path.stat().st_size) != status["size"]:
            raise UnavailableError(f"{url}: {size:,} bytes arrived, {status['size']:,} expected; run this again")

    return FileCache.of_environment().open(name, status["size"], download)


def _abandoned(partial: str) -> bool:
    """Whether the process that wrote this file has died; then it is deleted."""
    descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(partial)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
