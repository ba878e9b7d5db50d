"""The objects of Kaldi archives, binary and text: matrices, compressed matrices, float vectors and integer vectors.

Sources of the formats: Kaldi's matrix/kaldi-matrix.cc, matrix/compressed-matrix.h and util/kaldi-holder-inl.h.
"""

import array
import io
import os
import re
import struct
from typing import IO

import numpy as np

from asr_kd.limits import ARCHIVE_ID_BYTES, ARCHIVE_LINE_BYTES, ARCHIVE_OBJECT_BYTES

SPACE = b" \t\n\r\f\v"
_ID = re.compile(rb"\s*([!-\xff]+)[ \t]")
_FORMS = {b"FM": "<f4", b"DM": "<f8", b"FV": "<f4", b"DV": "<f8", b"CM": "u1", b"CM2": "<u2", b"CM3": "u1"}
_ELEMENT = np.dtype([("size", "u1"), ("value", "<i4")])  # of an integer vector: its size precedes each number
_QUARTILES = (0, 64, 192, 255)  # byte levels in CM that stand for the 0th, 25th, 75th and 100th percentiles


class Malformed(Exception):
    """The bytes are not an object of the requested kind."""


class OfOtherKind(Malformed):
    """The bytes are an object, but of another kind; the message says of which, and which was expected."""


def read_id(stream: io.BufferedReader) -> str | None:
    """The id before the next object, or None at the end; the stream is left where Kaldi would read the object."""
    if (found := _ID.match(stream.peek(1))) and len(found[1]) <= ARCHIVE_ID_BYTES:  # nearly always
        stream.read(found.end())
        return _decoded(found[1])
    while (byte := stream.read(1)) and byte in SPACE:
        pass
    name = bytearray()
    while byte and byte not in SPACE:
        if byte < b" " or len(name) == ARCHIVE_ID_BYTES:
            raise Malformed("no utterance id")
        name += byte
        byte = stream.read(1)
    if not name:
        return None
    if not byte:
        raise Malformed("the archive ends after an utterance id")
    if byte in b"\r\n":  # an empty object in text form; the end of the line belongs to it
        stream.seek(-1, os.SEEK_CUR)
    return _decoded(bytes(name))


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Malformed("no utterance id in UTF-8") from None


def read_array(stream: IO[bytes], integers: bool) -> np.ndarray:
    """The next object: int32 ``[length]``, or float ``[rows, columns]`` or ``[length]``.

    A text object in brackets on one line is a vector, as Kaldi writes it; over several lines it is a matrix. Raises
    ``Malformed``.
    """
    opening = stream.read(2)
    if opening == b"\0B":
        return _read_binary_integers(stream) if integers else _read_binary_floats(stream)
    stream.seek(-len(opening), os.SEEK_CUR)
    return _read_text_integers(stream) if integers else _read_text_floats(stream)


def write_array(stream: IO[bytes], values: np.ndarray) -> None:
    """Write integers ``[length]``, or floats ``[rows, columns]`` or ``[length]``, in Kaldi's binary form."""
    if values.dtype.kind in "iu":
        elements = np.empty(len(values), _ELEMENT)
        elements["size"], elements["value"] = 4, values
        stream.write(b"\0B" + struct.pack("<bi", 4, len(values)) + elements.tobytes())
        return
    token = (b"D" if values.dtype == np.float64 else b"F") + (b"M" if values.ndim == 2 else b"V")
    sizes = b"".join(struct.pack("<bi", 4, size) for size in values.shape)
    stream.write(b"\0B" + token + b" " + sizes + values.astype(_FORMS[token]).tobytes())


def _read_binary_integers(stream: IO[bytes]) -> np.ndarray:
    place = stream.tell()
    if (form := stream.read(4).partition(b" ")[0]) in _FORMS:
        raise OfOtherKind(f"a float {'vector' if form.endswith(b'V') else 'matrix'}; expected an integer vector")
    stream.seek(place)
    length = _size(stream)
    elements = np.frombuffer(_read(stream, length * _ELEMENT.itemsize), _ELEMENT)
    if not (elements["size"] == 4).all():
        raise Malformed("an element is not a 32-bit integer")
    return np.ascontiguousarray(elements["value"])


def _read_binary_floats(stream: IO[bytes]) -> np.ndarray:
    token = bytearray()
    while len(token) < 4 and (byte := stream.read(1)) not in (b"", b" "):
        token += byte
    form = bytes(token)
    if form[:1] == b"\4":  # the size of an integer
        raise OfOtherKind("an integer vector; expected a float matrix")
    if form not in _FORMS:
        raise Malformed(f"an object of kind {_said(form)}; expected one of {', '.join(f.decode() for f in _FORMS)}")
    if form.startswith(b"CM"):
        return _read_compressed(stream, form)
    shape = (_size(stream),) if form.endswith(b"V") else (_size(stream), _size(stream))
    dtype = np.dtype(_FORMS[form])
    return np.frombuffer(_read(stream, _bytes(shape, dtype.itemsize)), dtype).reshape(shape)


def _read_compressed(stream: IO[bytes], form: bytes) -> np.ndarray:
    """float32 ``[rows, columns]``; CM2 has 16 bits for a value, CM3 has 8, CM has 8 and quartiles of each column."""
    low, width, rows, columns = struct.unpack("<ffii", _read(stream, 16))
    if rows < 0 or columns < 0:
        raise Malformed(f"a matrix of {rows} x {columns}")
    _bytes((rows, columns), 4)  # as it will be decoded
    low, width = np.float32(low), np.float32(width)
    dtype = np.dtype(_FORMS[form])
    if form != b"CM":
        levels = np.frombuffer(_read(stream, rows * columns * dtype.itemsize), dtype).reshape(rows, columns)
        return np.asarray(low + width * (levels.astype(np.float32) / np.iinfo(dtype).max))
    quartiles = low + width / 65535 * np.frombuffer(_read(stream, 8 * columns), "<u2").reshape(columns, 4)
    levels = np.frombuffer(_read(stream, rows * columns), dtype).reshape(columns, rows)
    decoded = np.empty((rows, columns), np.float32)
    for column in range(columns):
        decoded[:, column] = np.interp(levels[column], _QUARTILES, quartiles[column])
    return decoded


def _size(stream: IO[bytes]) -> int:
    content = _read(stream, 5)
    width, size = struct.unpack("<bi", content)
    if width != 4:
        raise Malformed(f"{_said(content)} where a size was expected")
    if size < 0:
        raise Malformed(f"a size of {size}")
    return int(size)


def _bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of an array; ``Malformed`` if it is larger than any object should be."""
    total = itemsize
    for size in shape:
        total *= size
    if total > ARCHIVE_OBJECT_BYTES:
        raise Malformed(f"an object of {total:,} bytes, expected at most {ARCHIVE_OBJECT_BYTES:,}")
    return total


def _read(stream: IO[bytes], size: int) -> bytes:
    """Exactly ``size`` bytes. Memory is only allocated for bytes that the file has."""
    if size <= 1 << 20:
        content = stream.read(size)
        if len(content) < size:
            raise Malformed(f"{size:,} bytes expected, the file ends after {len(content):,}")
        return content
    left = os.fstat(stream.fileno()).st_size - stream.tell()
    if size > left:
        raise Malformed(f"{size:,} bytes expected, the file ends after {max(left, 0):,}")
    return stream.read(size)


def _said(content: bytes) -> str:
    """The beginning of ``content`` for a message, quoted."""
    return repr(content[:40].decode("latin-1"))


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline(ARCHIVE_LINE_BYTES + 1)
    if len(line) > ARCHIVE_LINE_BYTES:
        raise Malformed(f"a line of more than {ARCHIVE_LINE_BYTES:,} bytes")
    return line


def _read_text_integers(stream: IO[bytes]) -> np.ndarray:
    fields = _line(stream).split()
    for field in fields:
        if not re.fullmatch(rb"[-+]?[0-9]{1,10}", field):
            raise Malformed(f"{_said(field)} is not a 32-bit integer")
    numbers = array.array("q", map(int, fields))
    values = np.frombuffer(numbers, np.int64) if numbers else np.empty(0, np.int64)
    if (values != values.astype(np.int32)).any():
        raise Malformed("a number does not fit in 32 bits")
    return values.astype(np.int32)


def _read_text_floats(stream: IO[bytes]) -> np.ndarray:
    numbers, width, rows, ended_rows = array.array("f"), -1, 0, 0
    line = _after_bracket(stream)
    while True:
        inside, closed, after = line.partition(b"]")
        for row in inside.split(b";"):
            if fields := row.split():
                try:
                    numbers.fromlist([*map(float, fields)])
                except ValueError as error:
                    raise Malformed(str(error)[:80]) from None
                if len(fields) != width:
                    if rows:
                        raise Malformed(f"rows of {width} and {len(fields)} columns")
                    width = len(fields)
                rows += 1
        if b"_" in inside:  # Python reads 1_0 as a number
            raise Malformed(f"{_said(inside)} holds something that is not a number")
        if 4 * len(numbers) > ARCHIVE_OBJECT_BYTES:
            raise Malformed(f"a matrix of more than {ARCHIVE_OBJECT_BYTES:,} bytes")
        if closed:
            break
        ended_rows += 1
        line = _line(stream)
        if not line:
            raise Malformed("the file ends before the closing bracket")
    if after.strip():
        raise Malformed(f"{_said(after.strip())} after the closing bracket")
    values = np.frombuffer(numbers, np.float32) if numbers else np.empty(0, np.float32)
    is_matrix = ended_rows or b";" in inside
    return values.reshape(rows, max(width, 0)) if is_matrix else values


def _after_bracket(stream: IO[bytes]) -> bytes:
    """What follows the opening bracket on its line."""
    while not (line := _line(stream)).strip():
        if not line:
            raise Malformed("the file ends before the opening bracket")
    opening, bracket, rest = line.partition(b"[")
    if opening.strip() or not bracket:
        raise Malformed(f"{_said(line.strip())} where an opening bracket was expected; not a Kaldi archive")
    return rest
