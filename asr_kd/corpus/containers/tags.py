"""Tags and padding around audio: bytes that are certainly not audio."""

from asr_kd.corpus.containers.source import Source

_ZEROS = 1 << 16


def id3_end(source: Source, offset: int) -> int:
    """The end of the ID3v2 tags at ``offset``; ``offset`` if there are none."""
    while True:
        head = source.at(offset, 10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 0x7F:
            return offset
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        offset += 10 + size + (10 if head[5] & 0x10 else 0)


def skip_tags(source: Source, offset: int) -> int:
    """The end of the tags (ID3, APE, Lyrics3) at ``offset``; ``offset`` if there are none."""
    while True:
        begin, head = offset, source.at(offset, 32)
        if head[:3] == b"ID3":
            offset = id3_end(source, offset)
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size = int.from_bytes(head[12:16], "little")  # of the items and the footer
            is_header = head[23] & 0x20
            offset += 32 + (size if is_header else 0)
        elif head[:11] == b"LYRICSBEGIN":
            end = source.read(offset, 1 << 20).find(b"LYRICS200")
            offset += end + 9 if end >= 0 else 0
        elif head[:3] == b"TAG" and source.size - offset == 128:
            offset += 128
        if offset == begin:
            return min(offset, source.size)


def is_padding(source: Source, offset: int) -> bool:
    """Whether nothing but zeros follows ``offset``."""
    while offset < source.size:
        block = source.read(offset, _ZEROS)
        if not block or any(block):
            return not block
        offset += len(block)
    return True
