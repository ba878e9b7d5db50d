"""Audio: every format and rate gives the same samples; every damaged file is refused and named."""

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.corpus.audio import audio_info, load_audio, num_samples, read_audio, write_flac
from asr_kd.corpus.datadir import AudioSegment, DataDir
from asr_kd.errors import UserError

Tone = Callable[..., np.ndarray]
FORMATS = {
    "wav": {"format": "WAV"},
    "flac": {"format": "FLAC"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "mp3": {"format": "MP3"},
    "sph": {"format": "NIST", "subtype": "PCM_16"},
    "aiff": {"format": "AIFF"},
    "au": {"format": "AU", "subtype": "PCM_16"},
}


def datadir(path: Path, segments: dict[str, AudioSegment] | None = None) -> DataDir:
    utts = ["rec"] if segments is None else list(segments)
    return DataDir(Path("data"), {"rec": str(path)}, {}, dict.fromkeys(utts, "s"), segments)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_samples_and_its_header_the_length(tmp_path: Path, tone: Tone, name: str) -> None:
    path, samples = tmp_path / "audio", tone(1.237)
    soundfile.write(path, samples, 16000, **FORMATS[name])
    read = read_audio(path, 16000)
    assert read.dtype == np.float32
    assert len(read) == len(samples) == audio_info(path).samples
    assert np.corrcoef(read, samples)[0, 1] > 0.99


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "audio"
    noise = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    soundfile.write(path, noise, 16000, **FORMATS[name])
    content = path.read_bytes()
    for part in (0.5, 0.97):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(UserError, match=r"audio: .*truncated"):
            read_audio(path, 16000)


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "sph", "aiff", "au"])
def test_any_damaged_byte_of_a_header_is_read_or_refused(tmp_path: Path, name: str) -> None:
    forms = {"sph": {"format": "NIST", "subtype": "PCM_16"}, "au": {"format": "AU", "subtype": "PCM_16"}}
    noise = 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    soundfile.write(tmp_path / "audio", noise, 16000, **forms.get(name, {"format": name.upper()}))
    content = bytearray((tmp_path / "audio").read_bytes())
    for place in range(100):
        for change in (0x80, 0x01):
            content[place] ^= change
            (tmp_path / "audio").write_bytes(content)
            content[place] ^= change
            with contextlib.suppress(UserError):
                assert np.isfinite(read_audio(tmp_path / "audio", 16000)).all()


def test_a_wav_from_a_program_that_did_not_know_its_length_is_whole(tmp_path: Path, tone: Tone) -> None:
    path = tmp_path / "streamed.wav"
    soundfile.write(path, tone(0.5), 16000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path, 16000)) == 8000


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 2, 3, 441, 10007])
def test_resampled_length_is_known_from_the_header(tmp_path: Path, rate: int, samples: int) -> None:
    path = tmp_path / "audio.wav"
    soundfile.write(path, np.full(samples, 0.1), rate)
    assert len(read_audio(path, 16000)) == num_samples(datadir(path), "rec", 16000)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_resampling_keeps_the_tone(tmp_path: Path, tone: Tone, rate: int) -> None:
    path = tmp_path / "audio.wav"
    soundfile.write(path, tone(1.0, rate), rate, subtype="FLOAT")
    inner = slice(1000, -1000)  # the filter rings at the ends
    assert np.abs(read_audio(path, 16000)[inner] - tone(1.0, 16000)[inner]).max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.tile([0.5, -0.25], (1000, 1)), 16000)
    assert read_audio(path, 16000) == pytest.approx(np.full(1000, 0.125))


@pytest.mark.parametrize("suffix", ["raw", "mp3", "txt", "gsm"])
def test_the_content_counts_and_not_the_name(tmp_path: Path, tone: Tone, suffix: str) -> None:
    soundfile.write(tmp_path / "x.flac", tone(0.1), 16000)
    shutil.copy(tmp_path / "x.flac", tmp_path / f"x.{suffix}")
    assert len(read_audio(tmp_path / f"x.{suffix}", 16000)) == 1600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text" * 100, "not readable as audio"),
        (bytes(1000), "not readable as audio"),
    ],
)
def test_what_is_not_audio_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(UserError, match=f"x.wav: {message}"):
        read_audio(tmp_path / "x.wav", 16000)


def test_a_header_without_samples_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    for path, message in [("none.wav", "has no samples"), (".", "is a folder"), ("absent.wav", "no such audio file")]:
        with pytest.raises(UserError, match=message):
            read_audio(tmp_path / path, 16000)


def test_nan_and_integers_in_a_float_file_are_refused(tmp_path: Path, tone: Tone) -> None:
    samples = tone(0.1)
    soundfile.write(tmp_path / "loud.wav", samples * 32768, 16000, subtype="FLOAT")
    samples[123] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"nan.wav: sample 123 is NaN"):
        read_audio(tmp_path / "nan.wav", 16000)
    with pytest.raises(UserError, match=r"loud.wav: the largest sample is 163.*, but full scale is 1; rescale"):
        read_audio(tmp_path / "loud.wav", 16000)


@pytest.mark.parametrize("name", ["wav", "flac", "opus"])
def test_a_segment_is_its_part_of_the_recording(tmp_path: Path, tone: Tone, name: str) -> None:
    path = tmp_path / "audio"
    soundfile.write(path, tone(2.0) * np.linspace(0, 1, 32000, dtype=np.float32), 16000, **FORMATS[name])
    data = datadir(path, {"u": AudioSegment("rec", 0.75, 1.25)})
    whole = read_audio(path, 16000)
    assert load_audio(data, "u", 16000) == pytest.approx(whole[12000:20000], abs=1e-4)
    assert num_samples(data, "u", 8000) == len(load_audio(data, "u", 8000)) == 4000


def test_a_segment_may_end_half_a_second_after_the_recording_and_is_cut_there(tmp_path: Path, tone: Tone) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0), 16000)
    assert len(load_audio(datadir(tmp_path / "a.wav", {"u": AudioSegment("rec", 0.5, 1.49)}), "u", 16000)) == 8000
    for start, end, message in [(0.5, 1.52, "ends at 1.52 s"), (1.2, 1.4, "starts at 1.2 s")]:
        data = datadir(tmp_path / "a.wav", {"u": AudioSegment("rec", start, end)})
        for call in (load_audio, num_samples):
            with pytest.raises(UserError, match=rf"segments: 'u' {message}, but recording 'rec' has only 1.00 s"):
                call(data, "u", 16000)


def test_a_pipe_is_run_only_for_a_data_directory(tmp_path: Path, tone: Tone) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.1), 16000)
    data = DataDir(Path("data"), {"rec": f"cat {tmp_path}/a.wav |"}, {}, {"rec": "s"})
    assert len(load_audio(data, "rec", 16000)) == 1600
    with pytest.raises(UserError, match="no such audio file"):
        read_audio(f"cat {tmp_path}/a.wav |", 16000)
    with pytest.raises(UserError, match="failed with status 3; run it by hand"):
        load_audio(DataDir(Path("data"), {"rec": "exit 3 |"}, {}, {"rec": "s"}), "rec", 16000)


def test_flac_keeps_16_bit_samples_exactly_and_clips_the_rest(tmp_path: Path) -> None:
    integers = np.array([-32768, -1, 0, 1, 32767], dtype=np.int16)
    write_flac(tmp_path / "x.flac", integers, 16000)
    assert (read_audio(tmp_path / "x.flac", 16000) * 32768 == integers).all()
    write_flac(tmp_path / "y.flac", np.array([-1.5, 0.5, 1.5]), 16000)
    assert read_audio(tmp_path / "y.flac", 16000).tolist() == [-1.0, 0.5, 32767 / 32768]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # of a callback of libsndfile
def test_a_full_disk_while_flac_is_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            return offset

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(descriptor: int, *_: object, **__: object) -> io.BufferedWriter:
        os.close(descriptor)
        return io.BufferedWriter(Full())

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(UserError, match=r"x\.flac: the disk is full"):
        write_flac(tmp_path / "x.flac", np.random.default_rng(0).integers(-9999, 9999, 100_000, np.int16), 16000)
    assert list(tmp_path.iterdir()) == []


def test_real_opus_headers_state_the_decoded_length(corpora: Path) -> None:
    for path in sorted((corpora / "LibriSpeech" / "test-clean").rglob("*.opus"))[::200]:
        assert len(read_audio(path, 16000)) == audio_info(path).samples
