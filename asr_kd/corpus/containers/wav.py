"""WAV, RIFX and RF64: a ``data`` chunk of declared size among other chunks."""

import dataclasses
from typing import Literal

from asr_kd.corpus.containers.lengths import check_rest, sound_bytes
from asr_kd.corpus.containers.source import Part, Source
from asr_kd.corpus.containers.tags import skip_tags

_Order = Literal["little", "big"]

_IN_DS64 = 0xFFFFFFFF  # the size in RF64's data chunk: the ds64 chunk has the real one
_LARGEST_RIFF = 0xFFFFFFFF - (1 << 17)  # bytes of samples; a larger number reads as an unknown length
_OF_A_FILE = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"fmt ", b"data")
_MPEG = (0x50, 0x55)  # layers I and II, and III
_MOST_CHUNKS = 10_000


@dataclasses.dataclass
class _Header:
    """``fmt`` chunk, offset of the samples and their declared size; ``odd``: a chunk lacks its padding byte."""

    fmt: bytes
    begin: int
    declared: int
    odd: bool

    def bytes_per_second(self, order: _Order) -> int:
        rate, average = int.from_bytes(self.fmt[4:8], order), int.from_bytes(self.fmt[8:12], order)
        of_pcm = rate * int.from_bytes(self.fmt[12:14], order)
        return max(1, min(of_pcm, average or of_pcm))


def find_parts(source: Source) -> tuple[Part, ...]:
    """The samples of a WAV file; in an archive only as many bytes as its header declares."""
    if source.at(8, 4) != b"WAVE":
        return ()
    order: _Order = "big" if source.at(0, 4) == b"RIFX" else "little"
    header = _read_header(source, order)
    available = source.size - header.begin
    if source.begin:
        if not 0 < header.declared <= available:
            raise source.fault(
                f"the wav file in the archive declares {header.declared:,} bytes of samples, but {available:,} are "
                "left; it is truncated, or was written without a length"
            )
        return (_rewritten(source, header, header.declared, order),)
    if header.declared == 0 and _is_chunks(source, header.begin):
        return ()  # no samples; libsndfile reports it
    size = sound_bytes(source, header.begin, header.declared)
    if size != header.declared:
        return (_rewritten(source, header, size, order),)
    if header.begin + size == source.size and not header.odd:
        return ()
    end = _skip_chunks(source, header.begin + size, order)
    check_rest(source, end, header.bytes_per_second(order))
    return (_rewritten(source, header, size, order),) if header.odd else ()


def _read_header(source: Source, order: _Order) -> _Header:
    """The chunks up to ``data``. Raises ``UserError`` if there is none."""
    offset, fmt, long_size, odd = 12, b"", None, False
    for _ in range(_MOST_CHUNKS):
        name, size = _chunk(source, offset, order)
        if name == b"data" and len(fmt) >= 16:
            if int.from_bytes(fmt[:2], order) in _MPEG:
                raise source.fault("MPEG audio inside WAV, whose length cannot be checked; convert it to plain wav")
            declared = long_size if long_size is not None and size == _IN_DS64 else size
            return _Header(fmt, offset + 8, declared, odd)
        if name == b"fmt ":
            fmt = source.at(offset + 8, min(size, 256))
        elif name == b"ds64":
            long_size = int.from_bytes(source.at(offset + 16, 8), "little")
        offset += 8 + size
        if offset > source.size:
            break
        if size % 2:  # a padding byte must follow, but some programs omit it
            unpadded = source.at(offset, 4) in (b"data", b"fmt ", b"LIST", b"fact")
            offset, odd = offset + (not unpadded), odd or unpadded
    raise source.fault("not readable as audio, or truncated: this WAV file has no fmt chunk followed by a data chunk")


def _chunk(source: Source, offset: int, order: _Order) -> tuple[bytes, int]:
    head = source.at(offset, 8)
    return head[:4], int.from_bytes(head[4:], order)


def _is_chunks(source: Source, offset: int) -> bool:
    return _skip_chunks(source, offset, "little") >= source.size or _skip_chunks(source, offset, "big") >= source.size


def _skip_chunks(source: Source, offset: int, order: _Order) -> int:
    """The end of the chunks after the samples. Raises ``UserError`` for a second file or a second ``data``."""
    for _ in range(_MOST_CHUNKS):
        offset = skip_tags(source, offset)
        for begin in (offset + offset % 2, offset):  # some programs omit the padding byte
            name, size = _chunk(source, begin, order)
            if len(name) == 4 and name in _OF_A_FILE and begin + 8 + size <= source.size + 1:
                kind = "chunk" if name in (b"data", b"fmt ") else "file"
                raise source.fault(
                    f"a second {name.decode().strip()} {kind} follows the samples at byte {begin:,}; several files "
                    "were joined: split them, or write them as one"
                )
            if len(name) == 4 and name.isascii() and name.decode().isprintable() and begin + 8 + size <= source.size:
                offset = begin + 8 + size
                break
        else:
            return source.size if source.size - offset == 1 else offset  # the last padding byte
        if offset >= source.size:
            break
    return offset


def _rewritten(source: Source, header: _Header, size: int, order: _Order) -> Part:
    """The samples after a minimal header with their true size."""
    size -= size % max(1, int.from_bytes(header.fmt[12:14], order))
    fmt = b"fmt " + _number(len(header.fmt), order) + header.fmt + bytes(len(header.fmt) % 2)
    if size <= _LARGEST_RIFF:
        magic = b"RIFX" if order == "big" else b"RIFF"
        head = magic + _number(4 + len(fmt) + 8 + size, order) + b"WAVE" + fmt + b"data" + _number(size, order)
    else:
        sizes = (4 + 36 + len(fmt) + 8 + size).to_bytes(8, "little") + size.to_bytes(8, "little") + bytes(12)
        ds64 = b"ds64" + _number(28, order) + sizes
        head = b"RF64" + _number(_IN_DS64, order) + b"WAVE" + ds64 + fmt + b"data" + _number(_IN_DS64, order)
    return Part(head, header.begin, header.begin + size)


def _number(value: int, order: _Order) -> bytes:
    return value.to_bytes(4, order)
