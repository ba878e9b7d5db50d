"""Mutators: bytes, lines of text, JSON and YAML values, safetensors headers.

Random bytes seldom pass a checksum or a parser, so each format is mutated at its own level most of the time, and its
lengths and checksums are corrected afterwards (``tests.fuzz.seals``).
"""

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

INTEGERS = [0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 65536, 10**6, 2**31 - 1, -(2**31)]
INTEGERS += [2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, -(2**63), 2**64, 10**11, 10**23, 10**400]
NUMBERS = [0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, -1e308, 3.5e38, float("inf"), float("-inf"), float("nan")]
WORDS = [
    "", " ", "\t", "\n", "\r", "\r\n", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\ufeff", "\xa0", "\u3000",
    "²", "٣", "é", "e\u0301", "\U0001f600", "\ud800", "a" * 5000, "/", "..", ".", "../../../../escaped",
    "x/../../../../../escaped", "/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem", "~", "-", "--help", "|",
    "touch escaped |", "| tee escaped", "$(touch escaped)", "`touch escaped`", "a;b", "a b", "'", '"', "\\", "%s",
    "{0}", "#", "# comment", "#0", "<eps>", "<s>", "</s>", "<unk>", "!SIL", "nan", "inf", "-inf", "1e999", "1e-999",
    "0x10", "1_000", "-1", "0", "-0", "00", "1.0", "1", "99999999999", "9" * 5000, "2024-99-99", "null", "true", "[",
    "]", "{", "}", "[]", "{}", "[" * 20000, ":", ",", "&a", "*a", "!!python/object/apply:os.system [touch escaped]",
    "!!timestamp x", "!!binary x", "a.ark:0", "a.ark:" + "9" * 23, "feats.ark:-5", "feats.ark[0:1]", "file://x",
    "memory://x", "http://127.0.0.1:9/x", "GO", "SIL", "N", "u0", "s0-u0", "s0",
]  # fmt: skip
BINARY = [
    b"\0", b"\xff", b"\0B", b"\0BFM ", b"\0BCM ", b"\0BCM2 ", b"\0BDM ", b"\4", b"\x80", b"\x7f", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\x1f\x8b", b"RIFF", b"RF64", b"data", b"fmt ", b"fLaC", b"OggS", b"ID3", b"\xff\xfb\x90\x64",
    b"NIST_1A\n   1024\n", b"FORM", b".snd", b"\xd6\xfd\xb2\x7e", b"const", b"vector", b"standard", b"BZh9",
    b"\xfd7zXZ\0", b"PK\3\4", b"\x80\4\x95",
]  # fmt: skip
SMALL = 4096  # bytes: a mutation of a longer file stays near its beginning three times out of four


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one to four changes of its bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_BYTES)(data, rng)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    size = len(data) if rng.random() < 0.25 else min(len(data), rng.choice((64, 256, SMALL)))
    return rng.randrange(size + 1)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] ^= rng.choice((1, 2, 16, 64, 128, 255))


def _integer(data: bytearray, rng: random.Random) -> None:
    """Overwrite an integer of 1 to 8 bytes, little- or big-endian, most often at a multiple of its size."""
    size = rng.choice((1, 2, 4, 4, 8))
    at = _place(data, rng)
    at -= at % size if rng.random() < 0.7 else 0
    old = int.from_bytes(data[at : at + size], "little")
    value = rng.choice([*INTEGERS, old + 1, old - 1, old * 2, len(data), len(data) + 1]) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "little", "big")))


def _real(data: bytearray, rng: random.Random) -> None:
    form = rng.choice("fd")
    at = _place(data, rng) & ~3
    number = rng.choice(NUMBERS)
    data[at : at + struct.calcsize(form)] = struct.pack(form, number if form == "d" or abs(number) < 1e38 else 3e38)


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 8, 64, 1000))]


def _duplicate(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.choice((1, 4, 64, 100_000))] * rng.choice((1, 1, 2, 20))


def _splice(data: bytearray, rng: random.Random) -> None:
    a, b = _place(data, rng), _place(data, rng)
    data[a : a + 32] = data[b : b + rng.choice((1, 8, 32, 200))]


def _insert(data: bytearray, rng: random.Random) -> None:
    word = rng.choice(WORDS).encode("utf-8", "surrogatepass") if rng.random() < 0.5 else rng.choice(BINARY)
    at = _place(data, rng)
    data[at : at + (len(word) if rng.random() < 0.5 else 0)] = word


_BYTES = (_flip, _flip, _integer, _integer, _integer, _real, _truncate, _delete, _duplicate, _splice, _insert)


def mutate_lines(content: bytes, rng: random.Random) -> bytes:
    """Text with one to three changes of its lines and fields."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_LINES)(lines, rng)
    text = "\n".join(lines)
    if rng.random() < 0.05:
        text = rng.choice((text.replace("\n", "\r\n"), "\ufeff" + text, text.rstrip("\n"), text.replace(" ", "\t")))
    if rng.random() < 0.03:
        return text.encode("utf-16", "surrogatepass")
    return text.encode("utf-8", "surrogatepass") if "\ud800" in text else text.encode("utf-8", "surrogateescape")


def _field(lines: list[str], rng: random.Random) -> None:
    """Replace, insert or delete one field of a line."""
    number = rng.randrange(len(lines))
    fields = lines[number].split(" ")
    at = rng.randrange(len(fields))
    fields[at : at + rng.choice((0, 1, 1, 1))] = rng.choice(([_word(rng)], [_word(rng)], [_word(rng)], []))
    lines[number] = rng.choice((" ", " ", " ", "\t", "  ")).join(fields)


def _inside(lines: list[str], rng: random.Random) -> None:
    """Insert something into a field."""
    number = rng.randrange(len(lines))
    at = rng.randrange(len(lines[number]) + 1)
    lines[number] = lines[number][:at] + _word(rng) + lines[number][at + rng.choice((0, 1)) :]


def _other_field(lines: list[str], rng: random.Random) -> None:
    """Copy a field of another line."""
    other = rng.choice(lines).split()
    fields = lines[number := rng.randrange(len(lines))].split(" ")
    if other:
        fields[rng.randrange(len(fields))] = rng.choice(other)
    lines[number] = " ".join(fields)


def _line(lines: list[str], rng: random.Random) -> None:
    """Delete, repeat, swap or empty lines."""
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(5)
    if what == 0 and len(lines) > 1:
        del lines[a]
    elif what == 1:
        lines.insert(b, lines[a])
    elif what == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif what == 3:
        lines[a] = rng.choice(("", " ", _word(rng)))
    else:
        lines[a] += " " + " ".join(_word(rng) for _ in range(rng.choice((1, 2, 50))))


_LINES = (_field, _field, _field, _inside, _other_field, _line, _line)


def _word(rng: random.Random) -> str:
    what = rng.random()
    if what < 0.6:
        return rng.choice(WORDS)
    if what < 0.9:
        return str(rng.choice(INTEGERS) if rng.random() < 0.7 else rng.randrange(-5, 100))
    return str(rng.choice(NUMBERS))


def mutate_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three of its parts replaced, deleted, repeated or renamed."""
    holder = [value]
    for _ in range(rng.choice((1, 1, 2, 3))):
        container: Any = holder
        key: Any = 0
        while isinstance(container[key], dict | list) and container[key] and rng.random() < 0.9:
            container = container[key]
            key = rng.choice(list(container)) if isinstance(container, dict) else rng.randrange(len(container))
        _change(container, key, rng)
    return holder[0]


def _change(container: Any, key: Any, rng: random.Random) -> None:
    what = rng.random()
    if what < 0.15 and len(container) > 1:
        del container[key]
    elif what < 0.25 and isinstance(container, dict):
        container[rng.choice(WORDS)] = container.pop(key) if rng.random() < 0.7 else container[key]
    elif what < 0.3 and isinstance(container, list):
        container.insert(key, container[key])
    elif what < 0.4 and isinstance(container[key], int | float) and abs(container[key]) < 1e300:
        container[key] += rng.choice((-1, 1, 0.5, 8, container[key]))
    elif what < 0.45 and isinstance(container[key], list):
        container[key] = container[key] * rng.choice((2, 20))
    elif what < 0.5 and isinstance(container[key], str):
        container[key] = container[key][: rng.randrange(len(container[key]) + 1)] + rng.choice(WORDS)
    else:
        container[key] = _odd(rng)


def _odd(rng: random.Random) -> Any:
    what = rng.randrange(12)
    if what < 4:
        return rng.choice(INTEGERS)
    if what < 7:
        return rng.choice(WORDS)
    if what < 9:
        return rng.choice(NUMBERS)
    value: Any = rng.choice((None, True, False, [], {}, [[]], {"": None}, [1], ["a"], {"a": 1}, [0] * 100))
    return json.loads("[" * 500 + "]" * 500) if what == 11 and rng.random() < 0.3 else value


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """A JSON text, most often changed as a value."""
    if rng.random() < 0.25:
        return rng.choice((mutate_lines, mutate_bytes))(content, rng)
    value = mutate_value(json.loads(content), rng)
    return _dumps(value)


def mutate_json_lines(content: bytes, rng: random.Random) -> bytes:
    """JSON texts one a line, one of them changed."""
    if rng.random() < 0.3:
        return rng.choice((mutate_lines, mutate_bytes))(content, rng)
    lines = content.rstrip(b"\n").split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = _dumps(mutate_value(json.loads(lines[number]), rng))
    return b"\n".join(lines) + b"\n"


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def mutate_yaml(content: bytes, rng: random.Random) -> bytes:
    """A YAML text, most often changed as a value."""
    if rng.random() < 0.35:
        return rng.choice((mutate_lines, mutate_lines, mutate_bytes))(content, rng)
    value = mutate_value(yaml.safe_load(content), rng)
    if rng.random() < 0.3:
        return _dumps(value)
    return yaml.safe_dump(value, sort_keys=False).encode("utf-8", "surrogatepass")


def mutate_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file: its header as JSON with the length corrected, its numbers, or any byte."""
    length = int.from_bytes(content[:8], "little")
    what = rng.random()
    if what < 0.15:
        return mutate_bytes(content, rng)
    if what < 0.4:
        return content[: 8 + length] + mutate_bytes(content[8 + length :], rng)
    header = json.loads(content[8 : 8 + length])
    about = header.get("__metadata__", {})
    inner = next((name for name in about if about[name].startswith("{")), None)
    if inner and rng.random() < 0.7:  # JSON within the metadata: a shard's description, a checkpoint's position
        about[inner] = json.dumps(mutate_value(json.loads(about[inner]), rng), separators=(",", ":"))
    else:
        header = mutate_value(header, rng)
    return _with_header(header, content[8 + length :], rng)


def _with_header(header: Any, body: bytes, rng: random.Random) -> bytes:
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=rng.random() < 0.5)
    raw = text.encode("utf-8", "surrogatepass")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + body


def mutate_gzip(content: bytes, rng: random.Random) -> bytes:
    """A gzip file, most often changed inside."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    inner = gzip.decompress(content)
    if rng.random() < 0.03:  # what expands without an end
        return content + gzip.compress(bytes(1 << 20), mtime=0) * 200
    changed = (mutate_bytes if b"\0" in inner else mutate_lines)(inner, rng)
    return gzip.compress(changed, rng.choice((0, 1)), mtime=0)


def mutate_either(content: bytes, rng: random.Random) -> bytes:
    """Text that is sometimes changed as bytes."""
    return (mutate_lines if rng.random() < 0.8 else mutate_bytes)(content, rng)


_BY_SUFFIX: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": mutate_json,
    ".jsonl": mutate_json_lines,
    ".yaml": mutate_yaml,
    ".safetensors": mutate_safetensors,
    ".gz": mutate_gzip,
}
_BINARY_SUFFIXES = {
    ".ark", ".fst", ".raw", ".wav", ".w64", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aiff", ".au", ".caf",
}  # fmt: skip


def mutate_file(path: Path, rng: random.Random) -> None:
    """Change the file at ``path`` at the level that suits its name."""
    content = path.read_bytes()
    mutate = _BY_SUFFIX.get(path.suffix)
    if mutate is None:
        mutate = mutate_bytes if path.suffix in _BINARY_SUFFIXES or "ubyte" in path.name else mutate_either
    try:
        path.write_bytes(mutate(content, rng))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        RecursionError,
        OSError,
        zlib.error,
        yaml.YAMLError,
    ):
        path.write_bytes(mutate_bytes(content, rng))  # a second mutation of what the first one broke
