"""NIST SPHERE: a text header of any length, then samples."""

import re

from asr_kd.corpus.containers.lengths import STRAY_SECONDS
from asr_kd.corpus.containers.source import LARGEST_HEADER, Part, Source
from asr_kd.corpus.containers.tags import is_padding
from asr_kd.errors import counted

_USUAL_HEADER = 1024
_FIELD = re.compile(rb"^(\w+) -(?:i|r|s\d+) (.*?)\s*$", re.M | re.A)
_REMEDY = "convert it with: sph2pipe -f wav IN OUT"
_CODINGS = {"pcm": "pcm", "pcm-2": "pcm", "pculaw": "ulaw", "ulaw": "ulaw", "mu-law": "ulaw", "alaw": "alaw"}
_NUMBERS = ("sample_rate", "channel_count", "sample_n_bytes")


def find_parts(source: Source) -> tuple[Part, ...]:
    """The samples of a SPHERE file."""
    size = _header_size(source)
    fields = {name.decode(): value.decode("latin-1") for name, value in _FIELD.findall(_header(source, size))}
    coding = fields.get("sample_coding", "pcm").lower()
    if coding not in _CODINGS:
        packed = "shorten" if "shorten" in coding else "compressed"
        raise source.fault(f"{packed} SPHERE ({coding[:60]}) cannot be read; {_REMEDY}")
    rate, channels, width = (_number(source, fields, name) for name in _NUMBERS)
    order = fields.get("sample_byte_format", "")
    if width > 1 and order not in ("01", "10"):
        raise source.fault(f"the header gives no byte order (sample_byte_format 01 or 10, found {order!r}); {_REMEDY}")
    block, rest = channels * width, source.size - size
    if "sample_count" in fields:
        count = _number(source, fields, "sample_count", least=0)
        if count * block > rest:
            raise source.fault(f"truncated: {counted(max(rest, 0) // block, 'sample')} where the header says {count:,}")
        surplus = rest - count * block
        if surplus > STRAY_SECONDS * rate * block and not is_padding(source, size + count * block):
            raise source.fault(
                f"{surplus:,} bytes follow the {counted(count, 'sample')} that the header declares; {_REMEDY}"
            )
        if count == 0 or (size == _USUAL_HEADER and surplus < block):
            return ()
    else:
        count = rest // block
    header = _rewritten(rate, channels, width, order or "1", _CODINGS[coding], count)
    return (Part(header, size, size + count * block, count),)


def _header_size(source: Source) -> int:
    found = re.match(rb"NIST_1A\r?\n *([0-9]{1,7})\s", source.at(0, 24))
    size = int(found[1]) if found else 0
    if not 16 < size <= LARGEST_HEADER:
        raise source.fault("not readable as audio, or truncated: the SPHERE header does not state its size")
    return size


def _header(source: Source, size: int) -> bytes:
    header, end, _ = source.read(0, size).partition(b"\nend_head")
    if not end:
        raise source.fault("truncated: the SPHERE header has no end_head")
    return header + b"\n"


def _number(source: Source, fields: dict[str, str], name: str, least: int = 1) -> int:
    text = fields.get(name, "1" if name == "channel_count" else "")
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < least:
        raise source.fault(f"the SPHERE header has no usable {name}: found {text[:40]!r}")
    return int(text)


def _rewritten(rate: int, channels: int, width: int, order: str, coding: str, count: int) -> bytes:
    """A header that libsndfile reads: 1024 bytes, the fields in the order it expects."""
    lines = [
        "NIST_1A", f"{_USUAL_HEADER:7}", f"channel_count -i {channels}", f"sample_rate -i {rate}",
        f"sample_n_bytes -i {width}", f"sample_byte_format -s{len(order)} {order}", f"sample_sig_bits -i {8 * width}",
        f"sample_coding -s{len(coding)} {coding}", f"sample_count -i {count}", "end_head", "",
    ]  # fmt: skip
    return "\n".join(lines).encode().ljust(_USUAL_HEADER)
