"""MP3 (and MPEG layers I, II): each frame's header gives its length, but nothing gives the length of the file.

Encoders usually write an extra first frame that counts the others (``Xing``, ``Info``, ``VBRI``). Without it,
libsndfile guesses the length from the first frame's bit rate and stops there. So the frames are counted here. If the
extra frame is missing or wrong, a correct one takes its place.
"""

import dataclasses
from collections.abc import Iterator

from asr_kd.corpus.containers.source import Part, Source
from asr_kd.corpus.containers.tags import id3_end, is_padding, skip_tags

_KBPS = {  # (version 1, layer) -> kilobits a second by the header's code
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the version's code
_MONO = 3
_NO_CRC = 1 << 16
_COUNTED = 1  # the flag of a number of frames
_LONGEST_FRAGMENT = 2881  # bytes of the longest frame: a recording of a broadcast begins inside one


@dataclasses.dataclass(frozen=True)
class _Frame:
    """A frame's header; ``kind`` must be the same throughout a stream."""

    bits: int
    size: int
    samples: int

    @property
    def kind(self) -> tuple[int, bool]:
        return self.bits & 0x001E0C00, self.bits >> 6 & 3 == _MONO

    @property
    def layer(self) -> int:
        return 4 - (self.bits >> 17 & 3)

    @property
    def side(self) -> int:
        """Bytes of layer III's side information; the mark of a counting frame follows it."""
        mono = self.bits >> 6 & 3 == _MONO
        return (17 if mono else 32) if self.bits >> 19 & 3 == 3 else (9 if mono else 17)


@dataclasses.dataclass
class _Stream:
    """The frames of one encoder run: offset of the first, their number, and the count in the extra first frame."""

    begin: int
    first: _Frame
    end: int = 0
    frames: int = 0
    marked: bool = False  # has a counting frame
    counted: int | None = None  # frames that it declares


def is_frame(head: bytes) -> bool:
    """Whether ``head`` begins with a frame's header; its bit rate may be free."""
    return _parse(head) is not None or _is_free(head)


def _is_free(head: bytes) -> bool:
    return (
        len(head) == 4 and head[2] >> 4 == 0 and _parse(bytes((head[0], head[1], head[2] | 0x10, head[3]))) is not None
    )


def find_parts(source: Source) -> tuple[Part, ...]:
    """A part for each stream; none if libsndfile reads the file correctly."""
    begin = _first_frame(source)
    streams = list(_streams(source, begin))
    if not streams or not any(stream.frames for stream in streams):
        raise source.fault("the audio has no samples: no MPEG frame is complete")
    parts = tuple(_part(source, stream) for stream in streams if stream.frames)
    plain = len(parts) == 1 and not parts[0].header and parts[0].samples is None and begin in (0, id3_end(source, 0))
    return () if plain and source.size - parts[0].end in (0, 128) else parts


def _first_frame(source: Source) -> int:
    """Offset of the first frame, after tags and at most a fragment of an earlier frame."""
    begin = skip_tags(source, 0)
    head = source.at(begin, _LONGEST_FRAGMENT + 8)
    for place in range(len(head) - 4):
        frame = _parse(head[place : place + 4])
        if frame is not None:
            after = _parse(source.read(begin + place + frame.size, 4))
            if begin + place + frame.size >= source.size or (after is not None and after.kind == frame.kind):
                return begin + place
        elif place == 0 and _is_free(head[:4]):
            raise source.fault("MPEG audio with a free bit rate, whose length is unknown; convert it to wav or flac")
    raise source.fault("not readable as audio, or damaged: it does not begin with two consecutive MPEG frames")


def _streams(source: Source, offset: int) -> Iterator[_Stream]:
    stream: _Stream | None = None
    while offset < source.size:
        frame = _parse(source.at(offset, 4))
        if frame is None:
            end = skip_tags(source, offset)
            if end == offset:
                if is_padding(source, end):
                    break
                raise source.fault(f"truncated or damaged: no MPEG frame at byte {offset:,} of {source.size:,}")
            offset = end
            continue
        if offset + frame.size > source.size:
            raise source.fault(f"truncated: the MPEG frame at byte {offset:,} is incomplete")
        marked, counted = _additional(source.at(offset, min(frame.size, 256)), frame)
        if stream is None or marked or frame.kind != stream.first.kind:
            if stream is not None:
                yield stream
            stream = _Stream(offset, frame, marked=marked, counted=counted)
        stream.frames += not marked
        offset += frame.size
        stream.end = offset
    if stream is not None:
        yield stream


def _additional(content: bytes, frame: _Frame) -> tuple[bool, int | None]:
    """Whether the frame counts the others, and its count."""
    place = 4 + frame.side
    if content[place : place + 4] in (b"Xing", b"Info"):
        flags, count = (int.from_bytes(content[place + i : place + i + 4], "big") for i in (4, 8))
        return True, count if flags & _COUNTED else None
    if content[36:40] == b"VBRI":
        return True, None  # another count than the frames', by encoder
    return False, None


def _part(source: Source, stream: _Stream) -> Part:
    """The stream as it is if its first frame counts the others; else with a frame that does."""
    counted = stream.counted
    if stream.first.layer < 3:  # libsndfile counts these from the constant bit rate that they mostly have
        return Part(b"", stream.begin, stream.end, stream.frames * stream.first.samples)
    if counted in (stream.frames, stream.frames + 1):  # some encoders count the additional frame too
        return Part(b"", stream.begin, stream.end)
    if counted is not None and counted > stream.frames:
        raise source.fault(f"truncated: {stream.frames:,} MPEG frames where the first one announces {counted:,}")
    begin = stream.begin + (stream.first.size if stream.marked else 0)
    return Part(_counting_frame(stream), begin, stream.end)


def _counting_frame(stream: _Stream) -> bytes:
    """An ``Info`` frame of the stream's kind, of the smallest bit rate that has the room."""
    first = stream.first
    for code in range(1, 15):
        bits = first.bits & ~(0xF << 12 | 1 << 9) | code << 12 | _NO_CRC
        frame = _parse(bits.to_bytes(4, "big"))
        if frame is not None and frame.size >= 4 + frame.side + 12:
            content = bits.to_bytes(4, "big") + bytes(frame.side) + b"Info"
            content += _COUNTED.to_bytes(4, "big") + stream.frames.to_bytes(4, "big")
            return content.ljust(frame.size, b"\0")
    return b""


def _parse(head: bytes) -> _Frame | None:
    """The header of a frame; None if it is none."""
    bits = int.from_bytes(head, "big")
    if bits >> 21 != 0x7FF or len(head) < 4:
        return None
    version, layer, code, rate_code = bits >> 19 & 3, 4 - (bits >> 17 & 3), bits >> 12 & 15, bits >> 10 & 3
    if version == 1 or layer == 4 or code in (0, 15) or rate_code == 3:
        return None
    kbps, rate = _KBPS[version == 3, layer][code], _RATES[version][rate_code]
    padding = bits >> 9 & 1
    if layer == 1:
        return _Frame(bits, (12_000 * kbps // rate + padding) * 4, 384)
    samples = 1152 if layer == 2 or version == 3 else 576
    return _Frame(bits, samples // 8 * 1000 * kbps // rate + padding, samples)
