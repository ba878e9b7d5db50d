"""Where audio comes from: archives, channels, pipes, odd paths, and limits."""

import io
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.corpus import audio as audio_module
from asr_kd.corpus import recording as recording_module
from asr_kd.corpus.audio import audio_info, hash_audio, load_audio, num_samples, read_audio, utterance_info
from asr_kd.corpus.datadir import AudioSegment, DataDir
from asr_kd.errors import UserError

Tone = Callable[..., np.ndarray]


def datadir(entry: str | Path, segments: dict[str, AudioSegment] | None = None, folder: str | Path = "data") -> DataDir:
    utts = ["rec"] if segments is None else list(segments)
    return DataDir(Path(folder), {"rec": str(entry)}, {}, dict.fromkeys(utts, "s"), segments)


@pytest.fixture
def archive(tmp_path: Path, tone: Tone) -> tuple[Path, list[int], list[np.ndarray]]:
    """An archive of three wavs as wav-copy writes it, the offset of each, and its samples."""
    content, offsets, samples = b"", [], []
    for number, seconds in enumerate((0.5, 0.2, 0.3)):
        samples.append(tone(seconds, frequency=300 + 100 * number))
        soundfile.write(tmp_path / "one.wav", samples[-1], 16000)
        content += f"utt-{number} ".encode()
        offsets.append(len(content))
        content += (tmp_path / "one.wav").read_bytes()
    (tmp_path / "wav.ark").write_bytes(content)
    return tmp_path / "wav.ark", offsets, samples


def test_an_entry_into_an_archive_is_the_wav_at_that_byte(
    archive: tuple[Path, list[int], list[np.ndarray]], tmp_path: Path
) -> None:
    path, offsets, samples = archive
    for offset, expected in zip(offsets, samples, strict=True):
        data = datadir(f"{path}:{offset}")
        assert load_audio(data, "rec", 16000) == pytest.approx(expected, abs=1e-4)
        assert num_samples(data, "rec", 16000) == len(expected)
    cut = datadir(f"{path}:{offsets[1]}", {"u": AudioSegment("rec", 0.05, 0.1)})
    assert load_audio(cut, "u", 16000) == pytest.approx(samples[1][800:1600], abs=1e-4)
    assert len({hash_audio(f"{path}:{offset}") for offset in offsets}) == 3
    path.rename(tmp_path / "wav.ark:7")  # a file whose own name looks like that
    assert num_samples(datadir(tmp_path / "wav.ark:7:6"), "rec", 16000) == 8000


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        ("-6", "-6 is not a byte offset"),
        ("99999999999999999999999", "is not a byte offset"),
        ("999999999", r"byte 999,999,999 is past the end of the archive"),
        ("7", "no wav, flac or ogg file there"),
    ],
)
def test_an_impossible_place_in_an_archive_is_refused(
    archive: tuple[Path, list[int], list[np.ndarray]], offset: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_audio(datadir(f"{archive[0]}:{offset}"), "rec", 16000)


def test_a_wav_in_an_archive_that_states_no_length_is_refused(
    archive: tuple[Path, list[int], list[np.ndarray]],
) -> None:
    path, offsets, _ = archive
    content = bytearray(path.read_bytes())
    content[offsets[0] + 40 : offsets[0] + 44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    with pytest.raises(UserError, match="declares 4,294,967,295 bytes"):
        load_audio(datadir(f"{path}:{offsets[0]}"), "rec", 16000)


def encoded(samples: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16000, format=kind)
    return stream.getvalue()


def mixed_archive(folder: Path, kinds: list[str], samples: list[np.ndarray], sizes: bool) -> list[DataDir]:
    """Data directories of the utterances of an archive, each of another format; ``sizes`` as kaldiio writes them."""
    content, offsets = b"", []
    for number, kind in enumerate(kinds):
        content += f"utt-{number} ".encode()
        offsets.append(len(content))
        audio = encoded(samples[number], kind)
        size = len(audio).to_bytes(3, "little")
        content += b"AUDIO" + bytes([len(size)]) + size + audio if sizes else audio
    (folder / "a.ark").write_bytes(content)
    cut = {"u": AudioSegment("rec", 0.05, -1)}
    return [datadir(f"{folder / 'a.ark'}:{offset}", cut) for offset in offsets]


@pytest.mark.parametrize("sizes", [False, True])
def test_archives_hold_flac_and_ogg_too(tmp_path: Path, tone: Tone, sizes: bool) -> None:
    # ESPnet writes FLAC; without an end of its own each entry was all that follows, and all but the first unreadable
    kinds = ["FLAC", "FLAC", "OGG", "WAV", "FLAC", "OGG", *(["MP3"] if sizes else [])]
    samples = [tone(0.3 + 0.1 * n, frequency=300 + 100 * n) for n in range(len(kinds))]
    folders = mixed_archive(tmp_path, kinds, samples, sizes)
    for data, expected, kind in zip(folders, samples, kinds, strict=True):
        error = 1e-4 if kind in ("FLAC", "WAV") else 0.1
        assert load_audio(data, "u", 16000) == pytest.approx(expected[800:], abs=error)
        assert num_samples(data, "u", 16000) == len(expected) - 800
    assert len({hash_audio(data.wav["rec"]) for data in folders}) == len(kinds)


def test_a_cut_flac_in_an_archive_does_not_continue_with_the_next_one(tmp_path: Path, tone: Tone) -> None:
    first, second = encoded(tone(1.0), "FLAC"), encoded(tone(1.0, frequency=600), "FLAC")
    (tmp_path / "a.ark").write_bytes(b"a " + first[: len(first) // 2] + b"b " + second)
    with pytest.raises(UserError, match="truncated"):
        load_audio(datadir(f"{tmp_path / 'a.ark'}:2"), "rec", 16000)


def test_an_entry_longer_than_its_archive_is_truncated(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "a.ark").write_bytes(b"a AUDIO\x02\xff\xff" + encoded(tone(0.1), "FLAC"))
    with pytest.raises(UserError, match="truncated: .* where the archive says 65,535"):
        load_audio(datadir(f"{tmp_path / 'a.ark'}:2"), "rec", 16000)


def test_a_format_whose_end_is_unknown_is_not_read_from_an_archive(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "a.ark").write_bytes(encoded(tone(0.2), "AU") + encoded(tone(0.1), "AU"))
    with pytest.raises(UserError, match="no wav, flac or ogg file there"):
        load_audio(datadir(f"{tmp_path / 'a.ark'}:{len(encoded(tone(0.2), 'AU'))}"), "rec", 16000)


def test_the_channel_of_a_segment_is_taken_alone(tmp_path: Path, tone: Tone) -> None:
    left, right = tone(1.0), tone(1.0, frequency=700)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 16000)
    segments = {str(c): AudioSegment("rec", 0.25, -1, c) for c in (None, 0, 1, 2)}
    data = datadir(tmp_path / "two.wav", segments)
    for channel, expected in (("None", (left + right) / 2), ("0", left), ("1", right)):
        assert load_audio(data, channel, 16000) == pytest.approx(expected[4000:], abs=1e-4)
    assert [utterance_info(data, channel, 16000).averaged for channel in ("None", "0")] == [True, False]
    with pytest.raises(UserError, match=r"'2' is on channel 2 \(counted from 0\), but recording 'rec' has 2 channels"):
        num_samples(data, "2", 16000)


def test_a_relative_path_that_leads_nowhere_is_explained(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "a.wav", tone(0.1), 16000)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"starts at the current folder \({tmp_path}\). The file exists in .*data"):
        load_audio(datadir("a.wav", folder=tmp_path / "data"), "rec", 16000)
    with pytest.raises(UserError, match=r"no such audio file; a relative path starts at"):
        read_audio("b.wav", 16000)
    with pytest.raises(UserError, match="no such audio file$"):
        read_audio("/nowhere/b.wav", 16000)


def test_pipes_devices_and_impossible_paths_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, message in [
        (str(tmp_path / "fifo"), "named pipe"),
        ("/dev/zero", "device"),
        ("a\0b.wav", "not a valid file name"),
        ("x" * 5000, "File name too long|no such audio file"),
    ]:
        for call in (
            lambda path=path: read_audio(path, 16000),
            lambda path=path: load_audio(datadir(path), "rec", 16000),
        ):
            with pytest.raises(UserError, match=message):
                call()


@pytest.mark.parametrize("rate", [1, 999, 768_001, 4_000_000_000])
def test_a_sample_rate_that_no_speech_has_is_refused(tmp_path: Path, rate: int) -> None:
    header = b"RIFF\x2c\1\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 0, 2, 16) + b"data"
    (tmp_path / "a.wav").write_bytes(header + struct.pack("<I", 200) + bytes(200))
    with pytest.raises(UserError, match=r"the sample rate is|not readable"):
        audio_info(tmp_path / "a.wav")


def test_what_memory_would_not_hold_is_refused_before_it_is_read(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, 8000), 8000)
    monkeypatch.setattr(audio_module, "AUDIO_SAMPLES", 23_999)
    with pytest.raises(UserError, match=r"8,000 samples .* are too many for one utterance"):
        read_audio(tmp_path / "a.wav", 16000)  # 8,000 read and 16,000 after resampling
    assert len(read_audio(tmp_path / "a.wav", 8000)) == 8000


def test_a_container_whose_length_cannot_be_checked_is_named(tmp_path: Path, tone: Tone) -> None:
    for form in ("PAF", "SVX", "VOC", "MAT5"):
        soundfile.write(tmp_path / "a", tone(0.1), 16000, format=form, subtype="PCM_16")
        with pytest.raises(UserError, match=r"the length of such a file cannot be checked; convert it"):
            read_audio(tmp_path / "a", 16000)
    for form in ("HTK", "IRCAM"):
        soundfile.write(tmp_path / "a", tone(0.1), 16000, format=form, subtype="PCM_16")
        assert len(read_audio(tmp_path / "a", 16000)) == 1600


def test_the_parts_of_a_large_file_are_found_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for samples in (200_000, 300_000):
        soundfile.write(path, np.full(samples, 0.1), 16000)
        content = bytearray(path.read_bytes())
        content[40:44] = bytes(4)  # as a program that writes to a pipe
        path.write_bytes(content)
        assert [len(read_audio(path, 16000)) for _ in range(2)] == [samples, samples]


def test_a_command_that_writes_without_end_is_stopped(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_module, "PIPED_AUDIO_BYTES", 1 << 20)
    for command in ("yes |", "yes | cat |", "| cat /dev/zero"):
        with pytest.raises(UserError, match=r"more than 1,048,576 bytes of output, .* correct the command"):
            load_audio(datadir(command), "rec", 16000)
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    assert num_samples(datadir(f"cat {tmp_path}/a.wav |"), "rec", 16000) == 8000
    read, write = os.pipe()
    with open("/dev/zero", "rb") as zeros, subprocess.Popen(["cat"], stdin=zeros, stdout=write) as process:
        os.close(write)
        try:
            with pytest.raises(UserError, match="more than 1,048,576 bytes"):
                read_audio(f"/dev/fd/{read}", 16000)
        finally:
            os.close(read)
            process.kill()


def test_the_output_of_a_command_that_a_full_disk_does_not_hold_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with pytest.raises(UserError, match=r"its output cannot be stored in .*: No space left on device; set TMPDIR"):
        load_audio(datadir("echo audio |"), "rec", 16000)
