"""FLAC, Ogg, MP3 and SPHERE: lengths that are missing, guessed or wrong, and joined streams."""

import re
import struct

import numpy as np
import pytest
import scipy.signal

from asr_kd.corpus.containers.flac import with_total
from asr_kd.corpus.containers.ogg import _crc32
from asr_kd.errors import UserError
from tests.corpus.containers.conftest import Decode, Encode, noise

OGG = {"VORBIS": 1, "OPUS": 2}
ID3 = b"ID3\x04\0\0" + bytes((0, 0, 1, 0)) + b"x" * 128
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 64, 1, 0x80000000) + bytes(8)
TAG = b"TAG" + bytes(125)


def integers(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples * 32768).astype(int)


# FLAC


@pytest.mark.parametrize("seconds", [0.01, 0.5, 3.0])
def test_a_flac_without_a_length_or_with_too_small_a_one_is_read_whole(
    decode: Decode, encode: Encode, seconds: float
) -> None:
    samples = noise(seconds)
    content = encode(samples, "FLAC")
    for total in (0, 1, len(samples) - 1):
        for tag in (b"", TAG):
            assert np.array_equal(integers(decode(with_total(content, total) + tag)), samples[:, 0])
    assert np.array_equal(integers(decode(ID3 + with_total(content, 0))), samples[:, 0])


def test_a_flac_whose_length_is_too_large_or_whose_last_frame_is_cut_is_truncated(
    decode: Decode, encode: Encode
) -> None:
    content = encode(noise(1.0), "FLAC")
    for total in (16001, (1 << 36) - 1):
        with pytest.raises(UserError, match=rf"truncated: 16,000 samples where the header says {total:,}"):
            decode(with_total(content, total))
    for total in (0, 16000):
        for cut in (2, 1000, len(content) // 2):
            with pytest.raises(UserError, match=r"truncated|damaged"):
                decode(with_total(content, total)[:-cut])


@pytest.mark.parametrize("other", [1.0, 0.3, 5.0])
def test_joined_flac_streams_are_all_read(decode: Decode, encode: Encode, other: float) -> None:
    first, second = noise(1.0), noise(other, seed=1)
    for total in (0, len(first)):
        joined = with_total(encode(first, "FLAC"), total) + encode(second, "FLAC")
        assert np.array_equal(integers(decode(joined)), np.concatenate([first, second])[:, 0])
    with pytest.raises(UserError, match="several streams, and they differ: 16000 Hz in 1 channels, then 8000 Hz in 1"):
        decode(encode(first, "FLAC") + encode(second, "FLAC", rate=8000))


def test_flac_of_two_channels_and_of_silence_keeps_its_length(decode: Decode, encode: Encode) -> None:
    for samples in (noise(1.0, channels=2), np.zeros((40_000, 1), np.int16)):
        content = encode(samples, "FLAC")
        expected = decode(content)
        assert np.array_equal(decode(with_total(content, 0)), expected)


# Ogg


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("same_serial", [False, True])
def test_chained_ogg_streams_are_all_read(decode: Decode, encode: Encode, subtype: str, same_serial: bool) -> None:
    links = [encode(noise(seconds, seed=seed), "OGG", subtype) for seed, seconds in enumerate((1.5, 0.7, 0.2))]
    expected = np.concatenate([decode(link) for link in links])
    if same_serial:
        links = [with_serial(link, b"same") for link in links]
    assert np.array_equal(decode(b"".join(links)), expected)


def pages(content: bytes) -> list[bytes]:
    starts = [found.start() for found in re.finditer(b"OggS\0", content)]
    return [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]


def with_serial(content: bytes, serial: bytes) -> bytes:
    changed = []
    for page in pages(content):
        page = page[:14] + serial + page[18:22] + bytes(4) + page[26:]
        changed.append(page[:22] + struct.pack("<I", _crc32(page)) + page[26:])
    return b"".join(changed)


def test_ogg_that_is_multiplexed_incomplete_or_of_mixed_form_is_refused(decode: Decode, encode: Encode) -> None:
    one, two = (
        with_serial(encode(noise(2.0, seed=seed), "OGG", "VORBIS"), name)
        for seed, name in enumerate((b"aaaa", b"bbbb"))
    )
    ones, twos = pages(one), pages(two)
    side_by_side = [ones[0], twos[0], *ones[1:-1], *twos[1:], ones[-1]]
    for broken, message in [
        (side_by_side, "several interleaved Ogg streams"),
        ([ones[0], *twos[1:]], "several interleaved Ogg streams"),
        ([*ones[:-1], *twos], "another Ogg stream begins .* has ended"),
        (ones[:-1], "no last page"),
        ([*ones[:2], *ones[3:]], "page 3 of the Ogg stream follows page 1"),
        ([*ones, b"some more bytes"], "no Ogg page at byte"),
        ([*ones[:-1], ones[-1][:-5]], "is incomplete"),
        ([*ones, *pages(encode(noise(1.0, rate=8000), "OGG", "VORBIS", rate=8000))], "then 8000 Hz"),
    ]:
        with pytest.raises(UserError, match=message):
            decode(b"".join(broken))


# MP3


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_an_mp3_without_a_length_is_read_whole(decode: Decode, encode: Encode, mode: str, rate: int) -> None:
    samples = noise(2.0, rate)
    samples[: len(samples) // 2] //= 1000  # a quiet start: few bits, from which a length would be guessed
    content = encode(samples, "MP3", rate=rate, bitrate_mode=mode)
    expected = decode(content)
    assert len(expected) == len(samples)
    bare = without_first_frame(content)
    for tagged in (bare, ID3 + bare, bare + TAG, ID3 + bare + APE + TAG, bare + bytes(3000)):
        found = decode(tagged)
        assert len(samples) <= len(found) <= len(samples) + 3000  # the encoder's padding at both ends comes along
        assert aligned(found, expected) > 0.95


def without_first_frame(content: bytes) -> bytes:
    """An MP3 without the frame that counts the others."""
    return content[content.index(content[:2], 2) :]


def aligned(found: np.ndarray, expected: np.ndarray) -> float:
    """The correlation of ``expected`` with the place of ``found`` that is most like it."""
    spans = [found[lag : lag + len(expected)] for lag in range(len(found) - len(expected) + 1)]
    products = scipy.signal.correlate(found, expected, "valid")
    return float(np.corrcoef(spans[int(products.argmax())], expected)[0, 1])


def test_joined_mp3s_are_all_read(decode: Decode, encode: Encode) -> None:
    parts = [encode(noise(seconds, seed=seed), "MP3") for seed, seconds in enumerate((1.0, 0.4, 2.0))]
    expected = np.concatenate([decode(part) for part in parts])
    assert np.array_equal(decode(b"".join(parts)), expected)
    assert np.array_equal(decode(ID3 + parts[0] + ID3 + parts[1] + APE + parts[2] + TAG), expected)


def test_an_mp3_with_a_wrong_count_is_read_whole_or_truncated(decode: Decode, encode: Encode) -> None:
    content = encode(noise(2.0), "MP3")
    place = max(content.find(b"Xing"), content.find(b"Info")) + 8
    count = struct.unpack(">I", content[place : place + 4])[0]
    small = content[:place] + struct.pack(">I", count // 2) + content[place + 4 :]
    assert len(decode(small)) >= 32000
    large = content[:place] + struct.pack(">I", count + 5) + content[place + 4 :]
    with pytest.raises(UserError, match=f"truncated: {count} MPEG frames where the first one announces {count + 5}"):
        decode(large)
    for cut in (10, len(content) // 2):
        for whole in (content, without_first_frame(content)):
            with pytest.raises(UserError, match=r"truncated"):
                decode(whole[:-cut])
    with pytest.raises(UserError, match="no MPEG frame at byte"):
        decode(content[:2000] + b"garbage" * 1000 + content[2000:])


# SPHERE


def sphere(lines: list[str], samples: bytes, size: int = 1024) -> bytes:
    text = "\n".join(["NIST_1A", f"{size:7}", *lines, "end_head", ""])
    return text.encode().ljust(size) + samples


PCM = ["channel_count -i 1", "sample_rate -i 16000", "sample_n_bytes -i 2", "sample_coding -s3 pcm"]
COUNT = ["sample_count -i 1600"]
LATE = [f"comment{number} -s60 {'x' * 60}" for number in range(20)]


@pytest.mark.parametrize("size", [1024, 2048, 4096])
@pytest.mark.parametrize(("order", "kind"), [("01", "<i2"), ("10", ">i2")])
def test_sphere_headers_of_any_order_and_size_are_read(decode: Decode, size: int, order: str, kind: str) -> None:
    samples = noise(0.1)[:, 0]
    content = samples.astype(kind).tobytes()
    byte_order = [f"sample_byte_format -s2 {order}"]
    headers = [COUNT + PCM + byte_order, PCM + byte_order + COUNT, byte_order + PCM]  # the last has no count
    headers += [LATE + PCM + byte_order + COUNT] if size > 2000 else []
    for header in headers:
        assert np.array_equal(integers(decode(sphere(header, content, size))), samples)


def test_sphere_that_is_cut_packed_or_unclear_is_refused(decode: Decode) -> None:
    content = noise(0.1).tobytes()
    order = ["sample_byte_format -s2 01"]
    shorten = [PCM[0], PCM[1], PCM[2], "sample_coding -s26 pcm,embedded-shorten-v2.00"]
    for header, samples, message in [
        (COUNT + PCM + order, content[:1600], "truncated: 800 samples where the header says 1,600"),
        (LATE[:9] + PCM + order + COUNT, content[:1600], "truncated: 800 samples"),
        (COUNT + shorten + order, content, r"shorten SPHERE .* convert it with: sph2pipe"),
        (COUNT + PCM, content, "no byte order"),
        (["sample_count -i 100", *PCM, *order], content, "3,000 bytes follow the 100 samples"),
        (["sample_count -i 1x", *PCM, *order], content, "no usable sample_count: found '1x'"),
        (["sample_count -i 9999999999999999999999", *PCM, *order], content, "no usable sample_count"),
        (COUNT + PCM[1:2] + order, content, "no usable sample_n_bytes"),
    ]:
        with pytest.raises(UserError, match=message):
            decode(sphere(header, samples))
    with pytest.raises(UserError, match="no end_head"):
        decode(sphere(COUNT + PCM + order, content)[:100])
    with pytest.raises(UserError, match="does not state its size"):
        decode(b"NIST_1A\n  -1024\n" + content)
