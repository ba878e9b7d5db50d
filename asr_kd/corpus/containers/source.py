"""The bytes of an audio file, and the parts of it that libsndfile decodes."""

import dataclasses
import io
import os

from asr_kd.errors import UserError

_FIRST_READ = 1 << 12  # usually enough for a header
_LATER_READ = 1 << 16
LARGEST_HEADER = 1 << 20  # bytes before the samples that may be copied to correct them


class Source:
    """Random access to the bytes of an open file; ``name`` opens its error messages."""

    def __init__(
        self, descriptor: int, status: os.stat_result, name: str, begin: int = 0, size: int | None = None
    ) -> None:
        self.descriptor = descriptor
        self.status = status
        self.name = name
        self.begin = begin  # offset 0 of the audio: an archive holds several files
        self.size = status.st_size - begin if size is None else size
        self._window, self._start, self._amount = b"", 0, _FIRST_READ

    def at(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset``, fewer at the end of the file."""
        first = offset - self._start
        if first < 0 or first + count > len(self._window):
            self._window, self._start = self.read(offset, max(count, self._amount)), offset
            self._amount, first = _LATER_READ, 0
        return self._window[first : first + count]

    def read(self, offset: int, count: int) -> bytes:
        """As ``at``, without a buffer."""
        count = min(count, self.size - offset)  # what follows in an archive is another file
        try:
            return os.pread(self.descriptor, count, self.begin + offset) if count > 0 else b""
        except OSError as error:
            raise UserError(f"{self.name}: reading failed: {error.strerror}") from error

    def within(self, offset: int, size: int) -> "Source":
        """The ``size`` bytes from ``offset``, as a file of their own."""
        return Source(self.descriptor, self.status, self.name, self.begin + offset, size)

    def fault(self, message: str) -> UserError:
        """A ``UserError`` about this file."""
        return UserError(f"{self.name}: {message}")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a file that is decoded as a separate file: ``header``, then the bytes ``begin`` to ``end``.

    ``header`` replaces one that states no length, or a wrong one; otherwise it is empty. ``samples``: the number that
    the part must hold, None if libsndfile's own count is right.
    """

    header: bytes
    begin: int
    end: int
    samples: int | None = None


class View(io.RawIOBase):
    """A part as a read-only file."""

    def __init__(self, source: Source, part: Part) -> None:
        self._source, self._part = source, part
        self._place = 0
        self._size = len(part.header) + part.end - part.begin

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._read(min(len(buffer), max(0, self._size - self._place)))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def _read(self, count: int) -> bytes:
        header = self._part.header
        if self._place >= len(header):
            return self._source.read(self._part.begin + self._place - len(header), count)
        head = header[self._place : self._place + count]
        return head + self._source.read(self._part.begin, count - len(head))

    def write(self, content: object) -> int:
        raise io.UnsupportedOperation("an audio file is only read")
