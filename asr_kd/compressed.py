"""Read a file that may be compressed, with a bound on what it expands to."""

import bz2
import gzip
import io
import os
import zlib
from pathlib import Path
from typing import IO, Any, cast

from asr_kd.errors import UserError
from asr_kd.files import open_regular
from asr_kd.limits import EXPANDED_BYTES, EXPANSION

_XZ = b"\xfd7zXZ\0"


def open_compressed(path: str | Path, expansion: int = EXPANSION) -> io.BufferedReader:
    """Open a plain, gzip or bzip2 file for reading, whatever its name; the caller closes it.

    Raises ``UserError`` as ``open_regular``; reading raises one where the compressed data is damaged or cut, or is more
    than ``EXPANDED_BYTES`` and ``expansion`` times the file's size.
    """
    stream = open_regular(path)
    magic = stream.peek(6)[:6]
    if magic.startswith(b"\x1f\x8b"):
        return io.BufferedReader(_Expanding(path, stream, gzip.GzipFile(fileobj=stream), expansion))
    if magic.startswith(b"BZh"):
        return io.BufferedReader(_Expanding(path, stream, bz2.BZ2File(stream), expansion))
    if magic == _XZ:
        stream.close()
        raise UserError(f"{path}: compressed with xz, which is not supported; decompress it first (xz -d)")
    return stream


class _Expanding(io.RawIOBase):
    """The decompressed bytes of ``stream``, counted."""

    def __init__(self, path: str | Path, stream: IO[bytes], expanded: Any, expansion: int) -> None:
        self.path, self.stream, self.expanded, self.count = path, stream, expanded, 0
        self.expansion = expansion
        self.limit = max(EXPANDED_BYTES, expansion * os.fstat(stream.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = cast(int, self.expanded.readinto(buffer))
        except (EOFError, zlib.error, OSError) as error:  # BadGzipFile is an OSError
            raise UserError(f"{self.path}: the compressed data is damaged or truncated: {error}") from None
        self.count += count
        if self.count > self.limit:
            raise UserError(
                f"{self.path}: expands to more than {self.limit:,} bytes, more than {self.expansion} times its"
                " size; refused, because genuine data does not compress that well"
            )
        return count

    def close(self) -> None:
        self.expanded.close()
        self.stream.close()
        super().close()
