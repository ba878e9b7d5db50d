"""FLAC (RFC 9639): the length in STREAMINFO, checked against the number of the last frame.

A stream written to a pipe states 0 samples. If the stated length is too small, a reader stops early.
"""

from typing import NamedTuple

from asr_kd.corpus.containers.source import LARGEST_HEADER, Part, Source
from asr_kd.errors import counted

_LARGEST_BLOCK = 1 << 16  # bytes searched at a time
_TAG = 128  # bytes of an ID3v1 tag, the most common thing to follow the last frame
_LONGEST_HEADER = 16  # bytes of a frame's header, its CRC included
_INFO = 42  # bytes to the end of STREAMINFO
_TOTAL = (1 << 36) - 1


class _Stream(NamedTuple):
    """STREAMINFO and the first frame's header; ``begin``, ``frames`` (the first one) and ``end`` are byte offsets."""

    begin: int
    frames: int
    end: int
    total: int
    block_size: int  # samples in a frame, of a stream that numbers its frames
    largest: int  # bytes of a frame
    first: bytes  # the beginning of the first frame


def find_parts(source: Source, begin: int = 0) -> tuple[Part, ...]:
    """The parts of a FLAC file from ``begin`` on; several where streams were joined."""
    stream = _read_stream(source, begin, source.size)
    if stream is None:
        return ()  # libsndfile reports the fault
    length = _length(source, stream)
    if length is not None and length == stream.total and _is_single(source, stream, length):
        return ()
    starts = [begin, *_further_streams(source, stream.frames)]
    if len(starts) == 1:
        return (_part(source, stream, length),)
    parts = []
    for start, end in zip(starts, [*starts[1:], source.size], strict=True):
        stream = _read_stream(source, start, end)
        if stream is None:
            raise source.fault(f"damaged: the FLAC stream at byte {start:,} has no frames")
        parts.append(_part(source, stream, _length(source, stream)))
    return tuple(parts)


def end_in_archive(source: Source) -> int:
    """Where the stream at the beginning of ``source`` ends, or an upper bound of it: the next stream comes later."""
    stream = _read_stream(source, 0, source.size)
    if stream is None:
        return source.size
    most = source.size
    if stream.total and stream.block_size:
        frames = -(-stream.total // stream.block_size)
        most = min(most, stream.frames + frames * stream.largest + _LARGEST_BLOCK)
    return min(_further_streams(source.within(0, most), stream.frames, 1), default=most)


def with_total(header: bytes, total: int) -> bytes:
    """``header`` (``fLaC``, STREAMINFO, ...) with ``total`` as its number of samples."""
    number = int.from_bytes(header[18:26], "big") & ~_TOTAL | total
    return header[:18] + number.to_bytes(8, "big") + header[26:]


def stated_total(header: bytes) -> int:
    """The number of samples that a header states, 0 for "not known"."""
    return int.from_bytes(header[18:26], "big") & _TOTAL


def _part(source: Source, stream: _Stream, length: int | None) -> Part:
    if length is None or not 0 < length <= _TOTAL:
        raise source.fault("the header states no length and no last frame was found; the file is damaged or truncated")
    if stream.total > length:
        raise source.fault(f"truncated: {counted(length, 'sample')} where the header says {stream.total:,}")
    size = stream.frames - stream.begin
    if size > LARGEST_HEADER:  # pictures: keep only STREAMINFO
        head, size = bytearray(source.read(stream.begin, _INFO)), _INFO
        head[4] |= 0x80  # the last block of the header
        return Part(with_total(bytes(head), length), stream.frames, stream.end, length)
    return Part(with_total(source.read(stream.begin, size), length), stream.frames, stream.end, length)


def _read_stream(source: Source, begin: int, end: int) -> _Stream | None:
    head = source.at(begin, _INFO)
    if len(head) < _INFO or head[4] & 0x7F or int.from_bytes(head[5:8], "big") != 34:
        return None
    offset, last = begin + 4, False
    while not last:
        block = source.at(offset, 4)
        if len(block) < 4:
            return None
        last = bool(block[0] & 0x80)
        offset += 4 + int.from_bytes(block[1:], "big")
    first = source.at(offset, _LONGEST_HEADER)
    if len(first) < 6 or offset >= end:
        return None
    block_size, largest, coded = int.from_bytes(head[10:12], "big"), int.from_bytes(head[15:18], "big"), head[18:26]
    number = int.from_bytes(coded, "big")
    if not largest:
        channels, width = (number >> 41 & 7) + 1, (number >> 36 & 31) + 1
        largest = block_size * channels * (width + 8) // 8 + 1024
    return _Stream(begin, offset, end, number & _TOTAL, block_size, largest, first)


def _is_single(source: Source, stream: _Stream, length: int) -> bool:
    """Whether no second stream follows, even one of the same length.

    One frame near the middle usually proves it: the bytes before and after it are no more than the frames there can
    fill. Otherwise the whole file is searched.
    """
    middle = (stream.frames + stream.end) // 2
    content, mark = source.read(middle, min(stream.largest + _LONGEST_HEADER, _LARGEST_BLOCK)), stream.first[:2]
    place = content.find(mark)
    while place >= 0:
        found = _frame(content[place : place + _LONGEST_HEADER], stream)
        if found is not None and found[0] < length:
            offset, block_size = middle + place, max(1, stream.block_size)
            before, after = -(-found[0] // block_size), -((found[0] - length) // block_size)
            if offset - stream.frames <= before * stream.largest and stream.end - offset <= after * stream.largest:
                return True
            break
        place = content.find(mark, place + 1)
    return not _further_streams(source, stream.frames)


def _further_streams(source: Source, offset: int, most: int = 1 << 30) -> list[int]:
    """Byte offsets of further streams in the file, of at least ``most`` if there are as many."""
    starts: list[int] = []
    mark = b"fLaC"
    while offset < source.size and len(starts) < most:
        block = source.read(offset, 1 << 20)
        place = block.find(mark)
        while place >= 0:
            head = source.at(offset + place, 8)
            if head[4] & 0x7F == 0 and head[5:8] == b"\0\0\x22":
                starts.append(offset + place)
            place = block.find(mark, place + 1)
        offset += max(1, len(block) - 7)
        if len(block) < 8:
            break
    return sorted(set(starts))


def _length(source: Source, stream: _Stream) -> int | None:
    """Samples up to the end of the last frame; None if there is no frame.

    A header's CRC has only 8 bits, so a length that differs from the stated one must be confirmed by the frame before.
    """
    following: list[tuple[int, int]] = []  # first sample and number of samples, from later headers
    end = stream.end
    size, mark = min(stream.largest + _TAG, _LARGEST_BLOCK), stream.first[:2]
    while end > stream.frames:
        begin = max(stream.frames, end - size)
        content = source.read(begin, min(end + _LONGEST_HEADER, stream.end) - begin)
        place = end - begin
        while (place := content.rfind(mark, 0, place + 1)) >= 0:  # those that begin before the last one
            found = _frame(content[place : place + _LONGEST_HEADER], stream)
            if found is None:
                continue
            length = found[0] + found[1]
            if length == stream.total or (begin + place == stream.frames and not following):
                return length
            confirmed = [sum(later) for later in following if later[0] == length]
            if confirmed:
                return max(confirmed)
            following.append(found)
        end, size = begin, _LARGEST_BLOCK
    return None


def _frame(head: bytes, stream: _Stream) -> tuple[int, int] | None:
    """First sample and number of samples of the frame with this header; None if it is not a header of the stream."""
    first = stream.first
    if len(head) < 6 or (head[2] ^ first[2]) & 0x0F or (head[3] ^ first[3]) & 0x0F:
        return None  # another sample rate or width
    if head[3] >> 4 != first[3] >> 4 and not (head[3] >> 4 in _STEREO and first[3] >> 4 in _STEREO):
        return None
    coded = _coded_number(head)
    if coded is None:
        return None
    number, place = coded
    code = head[2] >> 4
    extra = {6: 1, 7: 2}.get(code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(head[2] & 0x0F, 0)
    if len(head) <= place + extra + rate_bytes or code == 0:
        return None
    samples = int.from_bytes(head[place : place + extra], "big") + 1 if extra else _BLOCK_SIZES[code]
    place += extra + rate_bytes
    if _crc8(head[:place]) != head[place]:
        return None
    return (number if head[1] & 1 else number * stream.block_size), samples


_STEREO = (1, 8, 9, 10)  # left and right, or one of them with the difference
_BLOCK_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << shift for shift in range(8)))


def _coded_number(head: bytes) -> tuple[int, int] | None:
    """The number at byte 4, in UTF-8's coding, and the offset after it."""
    lead = head[4]
    if lead < 0x80:
        return lead, 5
    count = 8 - (lead ^ 0xFF).bit_length()
    if count < 2 or len(head) < 4 + count:
        return None
    number = lead & (0x7F >> count)
    for byte in head[5 : 4 + count]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    return number, 4 + count


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1 ^ 0x107) if byte & 0x80 else byte << 1
    return byte


_CRC8 = tuple(_crc8_of(byte) for byte in range(256))


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc = _CRC8[crc ^ byte]
    return crc
