"""WAV, RF64, Wave64, AIFF, AU and CAF: sizes that are unknown, wrong or too short."""

import struct

import numpy as np
import pytest

from asr_kd.errors import UserError
from tests.corpus.containers.conftest import Decode, Encode, noise

SAMPLES = noise(0.5)
EXPECTED = SAMPLES[:, 0] / np.float32(32768)
UNKNOWN = (0, 0x7F000000, 0x7FFF0000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x80000024, 0xFFFFFFD3, 0xFFFFFFFF)


def wav(size: int | None = None, riff: int | None = None, before: bytes = b"", after: bytes = b"") -> bytes:
    """A WAV file whose header states other sizes, with chunks before and bytes after the samples."""
    content = SAMPLES.tobytes()
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    size = len(content) if size is None else size
    body = b"WAVE" + fmt + before + b"data" + struct.pack("<I", size) + content + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


@pytest.mark.parametrize("size", UNKNOWN)
@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, None])
def test_a_wav_of_unknown_size_is_read_to_the_end(decode: Decode, size: int, riff: int | None) -> None:
    assert np.array_equal(decode(wav(size, riff)), EXPECTED)


@pytest.mark.parametrize("size", [16002, 20000, 100_000_000, 0x7FFE0000, 0xC0000000])
def test_a_definite_size_that_the_file_does_not_hold_is_truncated(decode: Decode, size: int) -> None:
    with pytest.raises(UserError, match=rf"truncated: 16,000 bytes of samples where the header says {size:,}"):
        decode(wav(size))


LIST = b"LIST" + struct.pack("<I", 6) + b"INFOab"
CHUNKS = {
    "a chunk": LIST,
    "an ID3v1 tag": b"TAG" + bytes(125),
    "an ID3v2 tag": b"ID3\x04\0\0" + bytes((0, 0, 1, 0)) + b"x" * 128,
    "an APE tag": b"APETAGEX" + struct.pack("<IIII", 2000, 64, 1, 0xA0000000) + bytes(8) + b"i" * 32
    + b"APETAGEX" + struct.pack("<IIII", 2000, 64, 1, 0x80000000) + bytes(8),
    "padding": bytes(5000),
    "a fragment": b"\x17" * 40,
}  # fmt: skip


@pytest.mark.parametrize("kind", CHUNKS)
def test_what_is_no_audio_may_follow_the_samples(decode: Decode, kind: str) -> None:
    assert np.array_equal(decode(wav(after=CHUNKS[kind])), EXPECTED)


def test_audio_after_the_declared_end_is_refused(decode: Decode) -> None:
    for size in (2000, 8000, 14000):
        with pytest.raises(UserError, match=rf"{16000 - size:,} bytes .* follow the end that the header declares"):
            decode(wav(size))
    with pytest.raises(UserError, match="a second RIFF file follows the samples at byte 16,044"):
        decode(wav() + wav())
    with pytest.raises(UserError, match="a second data chunk follows"):
        decode(wav(after=b"data" + struct.pack("<I", 4) + bytes(4)))


def test_a_chunk_without_its_padding_byte_is_passed(decode: Decode) -> None:
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOa"
    for before in (odd, odd + b"\0"):
        assert np.array_equal(decode(wav(before=before)), EXPECTED)
    assert np.array_equal(decode(wav(before=b"JUNK" + struct.pack("<I", 70_000) + bytes(70_000))), EXPECTED)


def test_a_wav_without_samples_or_chunks_is_refused(decode: Decode) -> None:
    empty = wav()[:40] + bytes(4)
    for content in (empty, empty + LIST):
        with pytest.raises(UserError, match="no samples"):
            decode(content)
    with pytest.raises(UserError, match="no fmt chunk followed by a data chunk"):
        decode(wav()[:36])
    with pytest.raises(UserError, match="MPEG audio inside WAV"):
        decode(wav().replace(b"\x10\0\0\0\x01\0", b"\x10\0\0\0\x55\0"))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFFFFFFFFFF])
def test_rf64_and_wave64_of_unknown_size_are_read_to_the_end(decode: Decode, encode: Encode, size: int) -> None:
    for form, mark in (("RF64", b"ds64"), ("W64", b"data\xf3\xac")):
        content = bytearray(encode(SAMPLES, form, "PCM_16"))
        place = content.index(mark) + 16
        if form == "RF64" and content.find(b"data") > 0:
            data = content.index(b"data")
            content[data + 4 : data + 8] = b"\xff\xff\xff\xff"
        content[place : place + 8] = struct.pack("<Q", size)
        assert np.array_equal(decode(bytes(content)), EXPECTED)


def test_what_follows_the_samples_of_a_wave64_is_not_read_as_samples(decode: Decode, encode: Encode) -> None:
    content = encode(SAMPLES, "W64", "PCM_16")
    name = content.index(b"data\xf3\xac") + 4
    chunk = b"list" + content[name : name + 12] + struct.pack("<Q", 24 + 800) + noise(0.05)[:400].tobytes()
    for after in (chunk, bytes(5000), b"TAG" + bytes(125)):
        assert np.array_equal(decode(content + after), EXPECTED)
    with pytest.raises(UserError, match="more audio follows the samples at byte"):
        decode(content + content)


@pytest.mark.parametrize("form", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_any_cut_is_refused(decode: Decode, encode: Encode, form: str) -> None:
    content = encode(SAMPLES, form, "PCM_16")
    for length in (len(content) - 2, len(content) // 2, 200, 60, 30, 13):
        with pytest.raises(UserError, match=r"truncated|not readable|no samples"):
            decode(content[:length])


@pytest.mark.parametrize("form", ["RF64", "W64", "AIFF", "AU", "CAF"])
def test_audio_behind_the_declared_end_of_other_containers_is_refused(
    decode: Decode, encode: Encode, form: str
) -> None:
    with pytest.raises(UserError, match="follow the end that the header declares"):
        decode(encode(SAMPLES, form, "PCM_16") + noise(0.1, seed=1).tobytes())


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_streamed_aiff_au_and_caf_are_read_to_the_end(decode: Decode, encode: Encode, form: str, subtype: str) -> None:
    content = encode(SAMPLES / 32768, form, subtype)
    expected = decode(content)
    for size in (0, -1) if form == "CAF" else (0, 0x7F000008, 0x7FFFFFFF, 0xFFFFFFFF):
        streamed = bytearray(content)
        if form == "AIFF":
            sound, comm = streamed.index(b"SSND"), streamed.index(b"COMM")
            streamed[sound + 4 : sound + 8] = struct.pack(">I", size)
            streamed[comm + 10 : comm + 14] = struct.pack(">I", 0x7F000000 if size else len(expected))
        elif form == "AU":
            big = streamed[:4] == b".snd"
            streamed[8:12] = struct.pack(">I" if big else "<I", size)
        else:
            data = streamed.index(b"data")
            streamed[data + 4 : data + 12] = struct.pack(">q", size)
        assert np.array_equal(decode(bytes(streamed)), expected), size


def test_an_aiff_that_counts_fewer_samples_than_it_holds_is_read_whole(decode: Decode, encode: Encode) -> None:
    content = bytearray(encode(SAMPLES, "AIFF", "PCM_16"))
    comm = content.index(b"COMM")
    content[comm + 10 : comm + 14] = struct.pack(">I", 1000)
    assert np.array_equal(decode(bytes(content)), EXPECTED)
    content[comm + 10 : comm + 14] = struct.pack(">I", 9000)
    with pytest.raises(UserError, match="truncated: 8,000 samples where the header says 9,000"):
        decode(bytes(content))
