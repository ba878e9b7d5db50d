"""Object storage: files at any URL that fsspec knows (``s3://bucket/...``), its errors, and the local cache's place.

Environment: ``ASR_KD_CACHE`` is the folder of the cache (default ``$XDG_CACHE_HOME/asr_kd/storage``, else in
``~/.cache``), ``ASR_KD_CACHE_SIZE`` the most it holds (default 20G). Credentials, endpoint, timeouts and retries are
those of the URL's own library: for S3 the usual ``AWS_...`` variables and ``~/.aws/config``. fsspec's own
``FSSPEC_S3_...`` variables set whatever else ``s3fs.S3FileSystem`` takes.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_kd.errors import UserError, counted
from asr_kd.files import read_bytes, write_bytes
from asr_kd.limits import FOLDER_FILES, GRAPH_BYTES

CACHE_SIZE = "20G"
_KEPT = 30 * 86_400  # seconds for which the copy of a folder stays in the cache after its last use
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # protocol -> the extra of this package that brings its library
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError")
_CONNECTION = (
    "HTTPClientError", "ConnectionError", "EndpointConnectionError", "ClientError", "TimeoutError", "FSTimeoutError",
    "IncompleteRead", "FlexibleChecksumError",
)  # fmt: skip


class UnavailableError(UserError):
    """A storage that does not answer, or answers that it cannot now: the same request may succeed later."""


def is_url(path: str | Path) -> bool:
    """Whether ``path`` is a URL and not a local path."""
    return "://" in str(path)


def joined(path: str | Path, name: str) -> str | Path:
    """The file or folder ``name`` in the folder ``path``, which may be a URL."""
    return f"{str(path).rstrip('/')}/{name}" if is_url(path) else Path(path) / name


def file_system(url: str | Path) -> tuple[Any, str]:
    """fsspec's file system of ``url``, and the path there; ``UserError`` if the protocol or its library is unknown."""
    import fsspec

    protocol = str(url).partition("://")[0]
    try:
        files, path = fsspec.core.url_to_fs(str(url))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        how = f"; install it with: pip install 'asr_kd[{extra}]'" if extra else ""
        raise UserError(f"{url}: {error}{how}") from None
    except Exception as error:
        raise UserError(f"{url}: {error}") from error
    return files, path.rstrip("/")


@contextlib.contextmanager
def reporting(url: str | Path) -> Iterator[None]:
    """Turn any error of a storage library into a ``UserError`` that names ``url`` and says what to do.

    ``UnavailableError`` where the same request may succeed later.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each library has its own
        kind, reason = _explained(error)
        raise kind(f"{url}: {reason}") from error


def _explained(error: Exception) -> tuple[type[UserError], str]:
    names = {base.__name__ for base in type(error).__mro__}
    said = " ".join(str(error).split()) or type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return UserError, _full_disk()
    if isinstance(error, FileNotFoundError):
        return UserError, f"no such file, folder or bucket ({said})"
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return UserError, (
            f"access denied ({said}); check the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY) and what they may do in this bucket"
        )
    if names.intersection(_CREDENTIALS):
        return UserError, f"{said}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if number in (errno.EBUSY, errno.EREMOTEIO) or (getattr(error, "status", None) or 0) >= 500:
        return UnavailableError, (
            f"the storage failed, also when asked again ({said}); run the same command later: it resumes."
            " AWS_MAX_ATTEMPTS sets how often it is asked"
        )
    if names.intersection(_CONNECTION):
        return UnavailableError, (
            f"no complete answer from the storage ({said}); check the network and the endpoint (AWS_ENDPOINT_URL), then"
            " run the same command again"
        )
    return UserError, f"{type(error).__name__}: {said}"


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder at ``path``, which may be a URL."""
    if not is_url(path):
        return Path(path).exists()
    files, place = file_system(path)
    with reporting(path):
        files.invalidate_cache()
        return bool(files.exists(place))


def read_file(path: str | Path, limit: int) -> bytes:
    """The content of the file at ``path``, which may be a URL; ``UserError`` if it is longer than ``limit``."""
    if not is_url(path):
        return read_bytes(path, limit)
    files, place = file_system(path)
    with reporting(path):
        content: bytes = files.cat_file(place, start=0, end=limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: longer than {limit:,} bytes, the limit for this kind of file")
    return content


def write_file(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path``, which may be a URL; the file appears whole or not at all."""
    if not is_url(path):
        write_bytes(path, content)
        return
    files, place = file_system(path)
    with reporting(path):
        files.makedirs(place.rpartition("/")[0], exist_ok=True)
        files.pipe_file(place, content)


def list_files(url: str) -> dict[str, dict[str, Any]]:
    """What is known of each file below ``url``, by its path there; a file itself has the path ``""``.

    ``UserError`` for a path that leads out of the folder: a copy would be written elsewhere.
    """
    files, root = file_system(url)
    with reporting(url):
        files.invalidate_cache()
        found: dict[str, dict[str, Any]] = files.find(root, detail=True)
    listed = {path[len(root) :].strip("/"): status for path, status in found.items() if status["type"] == "file"}
    for name in listed:
        if ".." in name.split("/"):
            raise UserError(f"{url}/{name}: a name that leads out of its folder; rename it")
    return listed


def upload(path: Path, url: str) -> None:
    """Copy the file ``path`` to ``url``, where it appears whole or not at all."""
    files, place = file_system(url)
    with reporting(url):
        files.makedirs(place.rpartition("/")[0], exist_ok=True)
        files.put_file(str(path), place)


def download(url: str, path: Path, size: int) -> None:
    """Copy the file of ``size`` bytes at ``url`` to ``path``, where it appears whole or not at all."""
    files, place = file_system(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with reporting(url):
            files.get_file(place, str(partial))
        if (arrived := partial.stat().st_size) != size:
            raise UnavailableError(f"{url}: {arrived:,} bytes arrived, {size:,} expected; run this again")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def delete_file(url: str) -> None:
    """Delete the file at ``url``, if there is one."""
    files, place = file_system(url)
    with reporting(url), contextlib.suppress(FileNotFoundError):
        files.rm_file(place)


def delete_folder(path: str | Path) -> None:
    """Delete a folder, which may be at a URL, with all that is in it; nothing if there is none."""
    if not is_url(path):
        shutil.rmtree(path, ignore_errors=True)  # another writer may be at work there, and ends soon
        return
    files, place = file_system(path)
    with reporting(path), contextlib.suppress(FileNotFoundError):
        files.invalidate_cache()
        files.rm(place, recursive=True)


def local(path: str | Path, names: Sequence[str] = ()) -> Path:
    """``path`` itself, or a local copy of the file or folder at a URL; of a folder, only its files ``names`` if given.

    For what is small and read whole: data directories, networks, HMM and model folders. A copy is made once for each
    state of the URL, appears whole, and is never changed; a process keeps the one that it found first. ``UserError`` if
    there is nothing at the URL, or more than a model can be.
    """
    return _copied(str(path).rstrip("/"), tuple(names)) if is_url(path) else Path(path)


def folder_or_file(path: str, names: Sequence[str] = ()) -> str:
    """``local(path, names)`` if ``path`` is a folder at a URL; a file stays where it is."""
    if not is_url(path):
        return path
    files, place = file_system(path)
    with reporting(path):
        return str(local(path, names)) if files.isdir(place) else path


@functools.lru_cache(1024)
def _copied(url: str, names: tuple[str, ...]) -> Path:
    listed = {name: status for name, status in list_files(url).items() if not names or name in names}
    size = sum(status["size"] for status in listed.values())
    if not listed:
        raise UserError(f"{url}: no such file or folder")
    if len(listed) > FOLDER_FILES or size > GRAPH_BYTES:
        raise UserError(
            f"{url}: {counted(len(listed), 'file')}, {size:,} bytes in total: too large for a data directory or"
            " model; give a folder inside it"
        )
    state = [url, sorted((name, status["size"], version(status)) for name, status in listed.items())]
    folder = cache_folder() / "folders" / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]
    copy = folder / url.rpartition("/")[2]
    if not folder.exists():
        _copy(url, listed, copy)
    os.utime(folder)
    return copy


def version(status: Mapping[str, Any]) -> str:
    """What tells the content of a file at a URL from an earlier one of the same size."""
    kinds = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
    return str(next((status[kind] for kind in kinds if kind in status), ""))


def _copy(url: str, listed: Mapping[str, Mapping[str, Any]], copy: Path) -> None:
    folders = copy.parent.parent
    folders.mkdir(parents=True, exist_ok=True)
    for old in folders.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if old.stat().st_mtime < time.time() - _KEPT:
                shutil.rmtree(old, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=".", dir=folders))
    try:
        for name, status in listed.items():
            download(f"{url}/{name}".rstrip("/"), partial / copy.name / name, status["size"])
        try:
            partial.rename(copy.parent)
        except OSError:
            if not copy.parent.exists():  # another process was first with the same copy
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cache_folder() -> Path:
    """Where files from URLs are kept."""
    if own := os.environ.get("ASR_KD_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr_kd" / "storage"


def cache_bytes() -> int:
    """The most bytes that the cache holds; ``UserError`` if ``ASR_KD_CACHE_SIZE`` is no size."""
    text = os.environ.get("ASR_KD_CACHE_SIZE") or CACHE_SIZE
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([KMGT]?)", text.upper())
    if not found or not (size := int(float(found[1]) * _UNITS[found[2]])):
        raise UserError(f"ASR_KD_CACHE_SIZE is {text!r}; expected a size such as 500M, 20G or 1T")
    return size


def _full_disk() -> str:
    folder = cache_folder()
    return (
        f"the disk of the cache {folder} is full; free some space, set ASR_KD_CACHE to a folder on a larger disk, or"
        " ASR_KD_CACHE_SIZE to a smaller size"
    )
