"""Ogg (RFC 3533): pages of one stream, or of several streams one after the other ("chained")."""

import dataclasses
import struct
from collections.abc import Iterator
from typing import NamedTuple

from asr_kd.corpus.containers import flac
from asr_kd.corpus.containers.source import Part, Source
from asr_kd.corpus.containers.tags import is_padding, skip_tags
from asr_kd.errors import counted

_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags of a page
_NO_PACKET = (1 << 64) - 1  # the position of a page on which no packet ends
_HEAD = struct.Struct("<4sxBQ4sI4xB")  # mark, flags, position, serial number, page number, number of segments
_LONGEST_HEAD = 27 + 255
_FLAC = b"\x7fFLAC"


class _Page(NamedTuple):
    begin: int
    body: int
    end: int
    flags: int
    position: int  # samples up to the last packet that ends here
    serial: bytes
    number: int


@dataclasses.dataclass
class _Link:
    """One stream of a chain: its first page, and the flags, number, position and end of its last page."""

    first: _Page
    flags: int
    number: int
    position: int
    end: int


def find_parts(source: Source) -> tuple[Part, ...]:
    """A part for each link of a chain; none for a single stream.

    Raises ``UserError`` for interleaved streams, a missing page, and a stream without its last page.
    """
    links: list[_Link] = []
    for page in _pages(source):
        begin, _, end, flags, position, serial, number = page
        if flags & _FIRST:
            if links and not links[-1].flags & _LAST:
                raise source.fault(_MULTIPLEXED if links[-1].flags & _FIRST else _unended(begin))
            links.append(_Link(_Page(*page), flags, number, 0, end))
            continue
        if not links:
            raise source.fault("not readable as audio, or truncated: the Ogg stream lacks its first page")
        link = links[-1]
        if serial != link.first.serial or number != link.number + 1 or link.flags & _LAST:
            _check_order(source, link, _Page(*page))
        if position != _NO_PACKET:
            if position < link.position:
                raise source.fault(
                    f"damaged: the Ogg page at byte {begin:,} has an earlier position than the one before; copy the"
                    " file again"
                )
            link.position = position
        link.flags, link.number, link.end = flags, number, end
    if not links or not links[-1].flags & _LAST:
        raise source.fault("truncated: the Ogg stream has no last page")
    first = links[0].first
    if len(links) == 1 and first.begin == 0 and source.read(first.body, len(_FLAC)) != _FLAC:
        return ()
    parts = tuple(_part(source, link) for link in links)
    whole = len(parts) == 1 and not parts[0].header and parts[0].begin == 0
    return () if whole else parts


def end_in_archive(source: Source) -> int:
    """Where the stream or chain at the beginning of ``source`` ends."""
    for _, _, end, flags, _, _, _ in _pages(source):
        if flags & _LAST and source.at(end, 4) != b"OggS":
            return end
    return source.size


_MULTIPLEXED = "holds several interleaved Ogg streams (multiplexed); extract the one to use, for example with ffmpeg"


def _unended(offset: int) -> str:
    return f"truncated: another Ogg stream begins at byte {offset:,}, before the previous one has ended"


def _check_order(source: Source, link: _Link, page: _Page) -> None:
    """Raise ``UserError`` unless ``page`` follows the last one of ``link``, whose number may have wrapped around."""
    if page.serial != link.first.serial:
        raise source.fault(_MULTIPLEXED)
    if link.flags & _LAST:
        raise source.fault(f"damaged: byte {page.begin:,} continues an Ogg stream that has ended")
    if page.number != (link.number + 1) & 0xFFFFFFFF:
        raise source.fault(f"damaged: page {page.number:,} of the Ogg stream follows page {link.number:,}")


def _pages(source: Source) -> Iterator[tuple[int, int, int, int, int, bytes, int]]:
    """The fields of each ``_Page``."""
    offset = 0
    while offset < source.size:
        head = source.at(offset, _LONGEST_HEAD)
        if head[:4] != b"OggS" or len(head) < _HEAD.size:
            end = skip_tags(source, offset)
            if end < source.size and not is_padding(source, end):
                raise source.fault(f"truncated or damaged: no Ogg page at byte {end:,}")
            return
        _, flags, position, serial, number, segments = _HEAD.unpack_from(head)
        body = offset + _HEAD.size + segments
        end = body + sum(head[_HEAD.size : _HEAD.size + segments])
        if end > source.size:
            raise source.fault(f"truncated: the Ogg page at byte {offset:,} is incomplete")
        yield offset, body, end, flags, position, serial, number
        offset = end


def _part(source: Source, link: _Link) -> Part:
    """The link; if its FLAC header and its last page disagree on the length, with the length of the last page."""
    first = link.first
    packet = source.read(first.body, first.end - first.body)
    if packet[:5] != _FLAC or packet[9:13] != b"fLaC" or len(packet) < 9 + 42:
        return Part(b"", first.begin, link.end)
    stated = flac.stated_total(packet[9:])
    if stated == link.position or not link.position:
        return Part(b"", first.begin, link.end)
    if stated > link.position:
        raise source.fault(f"truncated: {counted(link.position, 'sample')} where the header says {stated:,}")
    head = bytearray(source.read(first.begin, first.body - first.begin) + packet[:9])
    head += flac.with_total(packet[9:], link.position)
    head[22:26] = bytes(4)
    head[22:26] = _crc32(head).to_bytes(4, "little")
    return Part(bytes(head), first.end, link.end, link.position)


def _crc32(content: bytes | bytearray) -> int:
    """Ogg's checksum of a page: the polynomial 0x04C11DB7, not reflected, from 0."""
    crc = 0
    for byte in content:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x104C11DB7) if crc & 0x80000000 else crc << 1
    return crc
