"""AIFF and AIFF-C: the chunk ``COMM`` counts the samples, ``SSND`` holds them."""

import dataclasses

from asr_kd.corpus.containers.lengths import check_rest, is_unknown
from asr_kd.corpus.containers.source import LARGEST_HEADER, Part, Source
from asr_kd.errors import counted

_MOST_CHUNKS = 10_000
_WIDTHS = {b"NONE": 0, b"twos": 0, b"sowt": 0, b"raw ": 0, b"in24": 3, b"in32": 4, b"fl32": 4, b"FL32": 4}
_WIDTHS |= {b"fl64": 8, b"FL64": 8, b"alaw": 1, b"ALAW": 1, b"ulaw": 1, b"ULAW": 1}  # bytes; 0: from the bits


@dataclasses.dataclass
class _Chunks:
    """Offsets of the two chunks' contents, 0 if missing; the declared size; where the last known chunk ends."""

    comm: int = 0
    sound: int = 0
    declared: int = 0  # bytes of samples, after the 8 of SSND's own fields
    end: int = 12


def find_parts(source: Source) -> tuple[Part, ...]:
    """The samples of an AIFF file."""
    if source.at(8, 4) not in (b"AIFF", b"AIFC"):
        return ()
    found = _read_chunks(source)
    if not found.comm or not found.sound:
        raise source.fault("not readable as audio, or truncated: this AIFF file lacks a COMM or SSND chunk")
    comm = source.at(found.comm, 22)
    channels, frames, bits = (int.from_bytes(comm[i:j], "big") for i, j in ((0, 2), (2, 6), (6, 8)))
    compression = comm[18:22] if source.at(8, 4) == b"AIFC" else b"NONE"
    begin, rest = found.sound + 8, source.size - found.sound - 8
    width = (_WIDTHS.get(compression, 0) or -(-bits // 8)) * channels if compression in _WIDTHS else 0
    if 0 < found.declared <= rest:
        size = found.declared
    elif found.declared == 0 and (frames == 0 or rest <= 0):
        return ()  # no samples; libsndfile reports it
    elif is_unknown(found.declared) or is_unknown(found.declared + 8):
        size = rest
    else:
        raise source.fault(f"truncated: {max(rest, 0):,} bytes of samples where the header says {found.declared:,}")
    if size == found.declared:
        check_rest(source, found.end, max(1, width * _rate(comm)))
    return _corrected(source, found, begin, size, frames, width)


def _corrected(source: Source, found: _Chunks, begin: int, size: int, frames: int, width: int) -> tuple[Part, ...]:
    """The part with corrected sizes in its header; none if the header is right."""
    there = size // width if width else frames
    if frames > there and not is_unknown(frames) and not is_unknown(frames * width):
        raise source.fault(f"truncated: {counted(there, 'sample')} where the header says {frames:,}")
    if size == found.declared and there == frames:
        return ()
    if not width or begin > LARGEST_HEADER or found.comm > begin:
        raise source.fault(
            "the length in its header is wrong and cannot be corrected; convert the file (sox IN OUT.wav)"
        )
    header = bytearray(source.read(0, begin))
    size = there * width
    header[4:8] = (begin + size - 8).to_bytes(4, "big")
    header[found.comm + 2 : found.comm + 6] = there.to_bytes(4, "big")
    header[found.sound - 4 : found.sound] = (size + 8).to_bytes(4, "big")
    return (Part(bytes(header), begin, begin + size),)


def _read_chunks(source: Source) -> _Chunks:
    found, offset = _Chunks(), 12
    for _ in range(_MOST_CHUNKS):
        head = source.at(offset, 8)
        name, size = head[:4], int.from_bytes(head[4:], "big")
        if len(head) < 8 or not name.isascii() or not name.decode().isprintable():
            break
        if name == b"SSND" and found.sound:
            raise source.fault("two SSND chunks: files were joined, or the file is damaged")
        if name == b"SSND":
            found.sound, found.declared = offset + 8, max(0, size - 8)
        elif name == b"FORM":
            raise source.fault(f"a second file follows at byte {offset:,}; split them, or write them as one")
        if offset + 8 + size > source.size:
            break
        if name == b"COMM":
            found.comm = offset + 8
        offset += 8 + size + size % 2
        found.end = min(offset, source.size)
    return found


def _rate(comm: bytes) -> float:
    """The sample rate (an 80-bit float) rounded down to a power of two: precise enough for ``check_rest``."""
    return 2.0 ** min(max((int.from_bytes(comm[8:10], "big") & 0x7FFF) - 16383, 0), 24)
