"""A declared length, compared with the bytes that are there."""

from asr_kd.corpus.containers.source import Source
from asr_kd.corpus.containers.tags import is_padding, skip_tags

_NEAR = 1 << 16  # a program that does not know the length writes the largest one, minus its headers or rounded
_LARGEST = (0x7F000000, 1 << 31, 1 << 32, 1 << 63, 1 << 64)  # SoX's AIFF; signed and unsigned 32 and 64 bits
STRAY_SECONDS = 0.025  # of unexplained bytes after the audio that are ignored: less than one frame


def is_unknown(declared: int) -> bool:
    """Whether a declared number of bytes means "unknown": 0, or about the largest number that fits."""
    return declared == 0 or any(abs(declared - largest) <= _NEAR for largest in _LARGEST)


def sound_bytes(source: Source, begin: int, declared: int) -> int:
    """The number of bytes of samples from ``begin`` on, given that a header declares ``declared``.

    An unknown length means all that follows. Raises ``UserError`` for a definite length that the file does not hold.
    """
    rest = source.size - begin
    if 0 < declared <= rest:
        return declared
    if is_unknown(declared):
        return rest
    raise source.fault(f"truncated: {max(rest, 0):,} bytes of samples where the header says {declared:,}")


def check_rest(source: Source, end: int, bytes_per_second: float) -> None:
    """Raise ``UserError`` where more than tags, zeros or a fragment follows the declared end of the samples."""
    end = skip_tags(source, end)
    rest = source.size - end
    if rest >= max(1.0, STRAY_SECONDS * bytes_per_second) and not is_padding(source, end):
        raise source.fault(
            f"{rest:,} bytes ({rest / bytes_per_second:.2f} s of audio) follow the end that the header declares; the "
            "file is damaged, or several files were joined: correct the header, or split the file"
        )
