"""The true length of an audio file: containers whose headers state no length, or a wrong one.

libsndfile decodes the samples, but it trusts the header, guesses the length of an MP3, and stops after the first of
several joined streams. Each module here handles one family of containers and finds where the samples begin and end. It
refuses files that are truncated, damaged or ambiguous. Where libsndfile would misread a file, it returns the parts to
decode instead.
"""

import dataclasses

from asr_kd.corpus.containers import aiff, archive, au, caf, flac, mpeg, ogg, sphere, wav, wave64
from asr_kd.corpus.containers.source import Part, Source, View
from asr_kd.corpus.containers.tags import id3_end

__all__ = ["Part", "Source", "View", "find_parts"]

_KINDS = {
    b"RIFF": wav.find_parts,
    b"RIFX": wav.find_parts,
    b"RF64": wav.find_parts,
    b"BW64": wav.find_parts,
    b"riff": wave64.find_parts,
    b"FORM": aiff.find_parts,
    b".snd": au.find_parts,
    b"dns.": au.find_parts,
    b"caff": caf.find_parts,
    b"NIST": sphere.find_parts,
    b"fLaC": flac.find_parts,
    b"OggS": ogg.find_parts,
}


_LARGE = 1 << 18  # bytes
_REMEMBERED = 16
_known: dict[tuple[object, ...], tuple[Part, ...]] = {}


def find_parts(source: Source) -> tuple[Part, ...]:
    """The parts to decode, in order; none if libsndfile reads the whole file correctly.

    The parts of a large file are cached until it changes: segments of one recording are usually read in sequence, and
    finding the parts of an MP3 visits every frame. Raises ``UserError`` for a file that is truncated or holds audio
    that cannot be read.
    """
    if source.size < _LARGE:
        return _find_parts(source)
    status = source.status
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, source.begin, source.at(0, 256))
    if key not in _known:
        parts = _find_parts(source)
        while len(_known) >= _REMEMBERED:
            del _known[next(iter(_known))]
        _known[key] = parts
    return _known[key]


def _find_parts(source: Source) -> tuple[Part, ...]:
    if not source.begin:
        return _parts_of_file(source)
    offset, size = archive.extent(source)
    parts = _parts_of_file(source.within(offset, size)) or (Part(b"", 0, size),)
    return tuple(dataclasses.replace(part, begin=part.begin + offset, end=part.end + offset) for part in parts)


def _parts_of_file(source: Source) -> tuple[Part, ...]:
    kind = _KINDS.get(source.at(0, 4))
    if kind is not None:
        return kind(source)
    begin = id3_end(source, 0)
    if begin and source.at(begin, 4) == b"fLaC":
        return flac.find_parts(source, begin)
    if begin and source.at(begin, 4) in _KINDS:
        raise source.fault("an ID3 tag precedes the header of the audio; remove the tag")
    if begin or mpeg.is_frame(source.at(0, 4)):
        return mpeg.find_parts(source)
    return ()
