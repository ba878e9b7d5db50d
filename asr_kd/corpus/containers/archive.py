"""Where an audio file in an archive begins and ends: the archive goes on with the next id and its file."""

from asr_kd.corpus.containers import flac, ogg
from asr_kd.corpus.containers.source import Source

_WAV = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_SIZED = b"AUDIO"  # kaldiio: then the number of bytes of the size, the size, and a file of any format


def extent(source: Source) -> tuple[int, int]:
    """Offset and size of the file at the beginning of ``source``; a wav file states its own size.

    Raises ``UserError`` if there is none whose end can be found.
    """
    head = source.at(0, 16)
    if head.startswith(_WAV):
        return 0, source.size
    if head.startswith(b"fLaC"):
        return 0, flac.end_in_archive(source)
    if head.startswith(b"OggS"):
        return 0, ogg.end_in_archive(source)
    if head.startswith(_SIZED) and len(head) > 6 and 1 <= head[5] <= 8:
        offset, size = 6 + head[5], int.from_bytes(head[6 : 6 + head[5]], "little")
        if 0 < size <= source.size - offset:
            return offset, size
        raise source.fault(f"truncated: {source.size - offset:,} bytes where the archive says {size:,}")
    raise source.fault("no wav, flac or ogg file there; the offset into the archive is wrong")
