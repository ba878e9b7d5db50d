"""Apple's CAF: chunks with 64-bit sizes; -1 means that the samples extend to the end of the file."""

import struct

from asr_kd.corpus.containers.lengths import check_rest, is_unknown, sound_bytes
from asr_kd.corpus.containers.source import LARGEST_HEADER, Part, Source

_EDITS = 4  # bytes between the head of the data chunk and the samples
_MOST_CHUNKS = 10_000


def find_parts(source: Source) -> tuple[Part, ...]:
    """The samples of a CAF file."""
    offset, bytes_per_second = 8, 1.0
    for _ in range(_MOST_CHUNKS):
        head = source.at(offset, 12)
        name, size = head[:4], int.from_bytes(head[4:], "big")
        if name == b"data" and len(head) == 12:
            return _samples(source, offset + 12, size, bytes_per_second)
        if name == b"desc":
            bytes_per_second = _bytes_per_second(source.at(offset + 12, 32))
        if len(head) < 12 or offset + 12 + size > source.size:
            break
        offset += 12 + size
    raise source.fault("not readable as audio, or truncated: this CAF file has no data chunk")


def _bytes_per_second(description: bytes) -> float:
    if len(description) < 32:
        return 1.0
    rate, _, _, packet, frames, _, _ = struct.unpack(">d4s5I", description)
    return max(1.0, rate * packet / frames) if rate > 0 and packet and frames else 1000.0  # compressed: a guess


def _samples(source: Source, begin: int, size: int, bytes_per_second: float) -> tuple[Part, ...]:
    if size <= _EDITS and begin + size >= source.size:
        return ()  # no samples; libsndfile reports it
    found = sound_bytes(source, begin, 0 if size == _EDITS else size)
    if found == size and not is_unknown(size):
        check_rest(source, _skip_chunks(source, begin + found), bytes_per_second)
        return ()
    if begin > LARGEST_HEADER:
        raise source.fault(
            f"states no length, and its samples begin only at byte {begin:,}; convert it (sox IN OUT.wav)"
        )
    header = source.read(0, begin)
    return (Part(header[:-8] + found.to_bytes(8, "big"), begin, begin + found),)


def _skip_chunks(source: Source, offset: int) -> int:
    for _ in range(_MOST_CHUNKS):
        head = source.at(offset, 12)
        size = int.from_bytes(head[4:], "big")
        known = len(head) == 12 and head[:4].isascii() and head[:4].decode().isprintable()
        if not known or offset + 12 + size > source.size:
            break
        offset += 12 + size
    return offset
