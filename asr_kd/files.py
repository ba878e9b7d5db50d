"""Files that appear whole or not at all, text and JSON read in one way, names made from ids, and checksums."""

import codecs
import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from asr_kd.errors import UserError
from asr_kd.limits import JSON_BYTES, NAME_BYTES, TEXT_BYTES

_GIVEN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # how a shell names a pipe that it opened: <(command)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; when the block ends well, flush it to disk and rename it to ``path``.

    After an exception or a kill the old file, or none, is at ``path``. A full disk raises ``UserError``; any other
    ``OSError`` names ``path``, never the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = ""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            raise UserError(f"{path}: the disk is full ({free:,} bytes free); free some space and run again") from error
        if error.errno is not None and error.filename in (None, partial):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically; ``UserError`` if UTF-8 cannot hold it (a file name that is not UTF-8)."""
    with atomic_write(path) as stream:
        try:
            stream.write(text)
        except UnicodeEncodeError as error:
            part = text[max(0, error.start - 20) : error.end + 20]
            raise UserError(f"{path}: {part!r} cannot be written as UTF-8; rename the file or id") from None


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_write(path, "wb") as stream:
        stream.write(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON to ``path``, atomically, for people to read too."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a file for reading in binary; ``UserError`` if it is missing, a folder, a device or a named pipe.

    A file at a URL comes through the cache of this machine. A pipe that the shell opened for this command (``<(...)``)
    is allowed.
    """
    descriptor, _ = open_descriptor(path)
    return os.fdopen(descriptor, "rb")


def open_descriptor(path: str | Path) -> tuple[int, os.stat_result]:
    """As ``open_regular``, but a bare descriptor, which the caller closes, and its status: faster for many files."""
    if "://" in str(path):
        from asr_kd.file_cache import open_url

        descriptor = open_url(str(path))
        return descriptor, os.fstat(descriptor)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not block here
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{path!r}: not a valid file name ({error})") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except PermissionError:
        raise UserError(f"{path}: permission denied") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is a folder; expected a file")
        if not stat.S_ISREG(status.st_mode):
            if not str(path).startswith(_GIVEN_STREAMS):
                raise UserError(f"{path}: is a device or a named pipe; expected a regular file")
            os.set_blocking(descriptor, True)
        return descriptor, status
    except BaseException:
        os.close(descriptor)
        raise


def check_folder(folder: str | Path, marker: str, what: str, advice: str) -> None:
    """``UserError`` unless ``folder`` has the file or folder ``marker``, which shows that it is ``what``.

    The message names a folder inside that has it, as a parent given by mistake does; without one it ends in ``advice``.
    """
    folder = Path(folder)
    if (folder / marker).exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; expected {what}")
    inside = sorted(folder.glob(f"*/{marker}"))
    remedy = f"give one inside it, such as {inside[0].parent}" if inside else advice
    raise UserError(f"{folder}: not {what} (no {marker}); {remedy}")


def read_bytes(path: str | Path, limit: int = TEXT_BYTES) -> bytes:
    """The content of the file at ``path``; ``UserError`` as ``open_regular``, or if it is longer than ``limit``."""
    with open_regular(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: longer than {limit:,} bytes, the limit for this kind of file")
    return content


def read_text(path: str | Path, limit: int = TEXT_BYTES) -> str:
    """The UTF-8 text at ``path`` without a byte-order mark.

    ``UserError`` as ``read_bytes``, or if it is not UTF-8 or has a zero byte, as UTF-16 without a mark has.
    """
    content = read_bytes(path, limit)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path}: UTF-16 text; convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8")
    if (zero := content.find(b"\0")) >= 0:
        line = content[:zero].count(b"\n") + 1
        raise UserError(f"{path}:{line}: has a zero byte; expected UTF-8 text, not UTF-16 or binary data")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: not UTF-8 text (line {line}, byte {error.start}); convert it to UTF-8") from None


def lines_of(text: str, path: str | Path) -> list[str]:
    r"""The lines of ``text``: ``\n`` or ``\r\n`` ends a line, and nothing else does.

    ``str.splitlines`` would also break a transcript at a form feed, U+0085 or U+2028. A ``\r`` within a line is a
    ``UserError`` that names ``path``: in old files of the Macintosh it ends lines, and two would be taken for one.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if "\r" not in text:
        return lines
    lines = [line.rstrip("\r") for line in lines]
    if bad := next((number for number, line in enumerate(lines, 1) if "\r" in line.rstrip()), 0):
        raise UserError(
            f"{path}:{bad}: a carriage return within the line; only a line feed ends a line: convert the file with "
            f"tr '\\r' '\\n'"
        )
    return lines


def fields_of(line: str, most: int = -1) -> list[str]:
    """The fields of a line, split at most ``most`` times at spaces, tabs and other white space of ASCII, as Kaldi does.

    ``str.split`` would also cut an id at a no-break space or U+3000, and take its rest for a word.
    """
    if line.isascii():
        return line.split(None, most)
    return [field.decode() for field in line.encode().split(None, most)]


def read_lines(path: str | Path) -> list[str]:
    """The lines of the UTF-8 text at ``path``, as ``read_text`` and ``lines_of`` give them."""
    return lines_of(read_text(path), path)


def read_json(path: str | Path, limit: int = JSON_BYTES) -> Any:
    """The JSON value at ``path``; ``UserError`` as ``read_text``, or if it is not JSON or is nested too deeply."""
    return parse_json(read_text(path, limit), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """The JSON value of ``text``; ``where`` opens the ``UserError`` of what is not JSON or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, or an integer of too many digits
        raise UserError(f"{where}: not valid JSON: {error}") from None


def file_name(identifier: str) -> str:
    """A file name for an utterance, speaker or recording id: it has no path separator and differs between ids.

    Letters, digits and ``_ . @ + = , ~ -`` stay; any other character, and a leading dot, become ``%`` and the
    hexadecimal bytes of its UTF-8 form. A name that would be too long is cut and ends with a hash of the id.
    """
    name = re.sub(r"[^\w.@+=,~-]|^\.", lambda found: "".join(f"%{byte:02X}" for byte in _utf8(found[0])), identifier)
    if len(_utf8(name)) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(_utf8(identifier)).hexdigest()[:32]
    return _utf8(name)[: NAME_BYTES - 33].decode("utf-8", "ignore") + "%" + digest


def data_file(name: str) -> Path:
    """The file ``name`` of the project's folder ``data``: of the checkout that runs, or as it was installed."""
    here = Path(__file__).parents[1] / "data" / name
    return here if here.exists() else Path(sysconfig.get_path("data")) / "share" / "asr_kd" / name


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in blocks."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
