"""Sony Wave64: chunks named by GUIDs, with 64-bit sizes that include their 24-byte heads."""

from asr_kd.corpus.containers.lengths import check_rest, is_unknown, sound_bytes
from asr_kd.corpus.containers.source import LARGEST_HEADER, Part, Source

_HEAD = 24
_MOST_CHUNKS = 10_000


def find_parts(source: Source) -> tuple[Part, ...]:
    """The samples of a Wave64 file."""
    offset, bytes_per_second = 40, 1
    for _ in range(_MOST_CHUNKS):
        head = source.at(offset, _HEAD)
        size = int.from_bytes(head[16:], "little")
        if head[:4] == b"data":
            return _samples(source, offset, size, bytes_per_second)
        if head[:4] == b"fmt ":
            bytes_per_second = max(1, int.from_bytes(source.at(offset + _HEAD + 8, 4), "little"))
        if size < _HEAD or offset + size > source.size:
            break
        offset += -(-size // 8) * 8
    raise source.fault("not readable as audio, or truncated: this Wave64 file has no data chunk")


def _samples(source: Source, offset: int, size: int, bytes_per_second: int) -> tuple[Part, ...]:
    begin = offset + _HEAD
    declared = max(0, size - _HEAD)
    found = sound_bytes(source, begin, declared)
    if found == declared and not is_unknown(declared):
        check_rest(source, _skip_chunks(source, -(-(begin + found) // 8) * 8), bytes_per_second)
        if begin + found == source.size:
            return ()  # libsndfile would read what follows as samples
    if begin > LARGEST_HEADER:
        raise source.fault(
            f"states no length, and its samples begin only at byte {begin:,}; convert it (sox IN OUT.wav)"
        )
    header = bytearray(source.read(0, begin))
    header[16:24] = (begin + found).to_bytes(8, "little")
    header[offset + 16 : offset + 24] = (_HEAD + found).to_bytes(8, "little")
    return (Part(bytes(header), begin, begin + found),)


def _skip_chunks(source: Source, offset: int) -> int:
    """The end of the chunks after the samples. Raises ``UserError`` for a second file or a second ``data``."""
    for _ in range(_MOST_CHUNKS):
        head = source.at(offset, _HEAD)
        size = int.from_bytes(head[16:], "little")
        if len(head) < _HEAD or not head[:4].isalpha() or not _HEAD <= size <= source.size - offset:
            break
        if head[:4] in (b"riff", b"data"):
            raise source.fault(f"more audio follows the samples at byte {offset:,}; split the files that were joined")
        offset += -(-size // 8) * 8
    return min(offset, source.size)
