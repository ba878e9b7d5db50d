"""Audio files -> samples: any format, any rate, and a clear error for what is not whole."""

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from asr_kd.corpus.datadir import DataDir, is_pipe
from asr_kd.errors import UserError
from asr_kd.files import write_bytes

if TYPE_CHECKING:
    import soundfile

LOUDEST = 8.0  # lossy codecs overshoot full scale a little; far above it the samples are not in [-1, 1] but integers
ROUNDING = 0.01  # seconds by which a segment may end after its recording: times are often written to a hundredth
_STREAMED = 0x7FFFF000  # a data chunk of this size or more was written by a program that could not know its length


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says: samples in each channel, hertz, channels, format."""

    samples: int
    sample_rate: int
    channels: int
    format: str

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """The audio at ``path`` as float32 ``[samples]`` in [-1, 1] at ``sample_rate`` hertz; channels are averaged.

    The format is recognised by the content, never by the name. Raises ``UserError`` for a file that is missing, not
    audio, truncated, without samples, or with NaN.
    """
    with _open(str(path)) as audio:
        return _resample(_read(audio, str(path), audio.frames), audio.samplerate, sample_rate)


def load_audio(datadir: DataDir, utt: str, sample_rate: int) -> np.ndarray:
    """The samples of an utterance, as ``read_audio``; of a segment only its part of the recording is decoded."""
    recording, place = _locate(datadir, utt)
    with _open(recording, pipes=True) as audio:
        begin, end = _span(datadir, utt, audio.frames, audio.samplerate)
        audio.seek(begin)
        return _resample(_read(audio, place, end - begin), audio.samplerate, sample_rate)


def num_samples(datadir: DataDir, utt: str, sample_rate: int) -> int:
    """The length of ``load_audio(datadir, utt, sample_rate)``, from the header alone."""
    info = audio_info(_locate(datadir, utt)[0], pipes=True)
    begin, end = _span(datadir, utt, info.samples, info.sample_rate)
    return _resampled_length(end - begin, info.sample_rate, sample_rate)


def audio_info(path: str | Path, pipes: bool = False) -> AudioInfo:
    """The header of an audio file; ``pipes``: an entry of ``wav.scp`` that is a shell command is run."""
    with _open(str(path), pipes) as audio:
        return AudioInfo(audio.frames, audio.samplerate, audio.channels, audio.format)


def write_flac(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write ``samples`` ``[samples]`` as 16-bit FLAC: int16 as they are, floats in [-1, 1] rounded and clipped."""
    import soundfile

    if samples.dtype != np.int16:
        samples = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()  # libsndfile would drop the error of a full disk
    soundfile.write(encoded, samples, sample_rate, format="FLAC", subtype="PCM_16")
    write_bytes(path, encoded.getvalue())


def _locate(datadir: DataDir, utt: str) -> tuple[str, str]:
    """The entry of ``wav.scp`` that holds ``utt``, and how to name the utterance in an error."""
    recording = utt if datadir.segments is None else datadir.segments[utt][0]
    return datadir.wav[recording], f"{utt} ({datadir.wav[recording]})"


def _span(datadir: DataDir, utt: str, samples: int, rate: int) -> tuple[int, int]:
    """First sample and end of ``utt`` in its recording of ``samples`` samples."""
    if datadir.segments is None:
        return 0, samples
    recording, start, end = datadir.segments[utt]
    if end > samples / rate + ROUNDING:
        raise UserError(
            f"{datadir.path / 'segments'}: {utt!r} ends at {end:g} s, but recording {recording!r} has only "
            f"{samples / rate:.2f} s; correct the segment"
        )
    return min(round(start * rate), samples - 1), min(round(end * rate), samples)


@contextlib.contextmanager
def _open(entry: str, pipes: bool = False) -> Iterator["soundfile.SoundFile"]:
    import soundfile

    with _stream(entry, pipes) as stream:
        descriptor = os.dup(stream.fileno())  # a bare descriptor: by its name, libsndfile would take x.raw for raw
        try:
            with soundfile.SoundFile(descriptor) as audio:
                if audio.frames == 0:
                    raise UserError(f"{entry}: the audio has no samples")
                _check_whole(entry, stream, audio)
                yield audio
        except soundfile.LibsndfileError as error:
            raise UserError(_unreadable(entry, stream, error)) from None


@contextlib.contextmanager
def _stream(entry: str, pipes: bool) -> Iterator[BinaryIO]:
    if pipes and is_pipe(entry):
        with tempfile.TemporaryFile() as output:
            status = subprocess.run(entry.strip("| "), shell=True, stdout=output, check=False).returncode
            if status:
                raise UserError(f"wav.scp: the command {entry!r} failed with status {status}")
            output.seek(0)
            yield output
        return
    try:
        with open(entry, "rb") as stream:
            yield stream
    except FileNotFoundError:
        raise UserError(f"{entry}: no such audio file") from None
    except IsADirectoryError:
        raise UserError(f"{entry}: is a folder; an audio file was expected") from None
    except PermissionError:
        raise UserError(f"{entry}: permission to read the audio file was denied") from None


def _unreadable(entry: str, stream: BinaryIO, error: Exception) -> str:
    if os.fstat(stream.fileno()).st_size == 0:
        return f"{entry}: the file is empty; audio was expected"
    reason = str(error).split(": ", 1)[-1].rstrip(".")
    return (
        f"{entry}: not readable as audio, or truncated: {reason}; expected wav, flac, ogg, opus, mp3 or sph "
        "(headerless audio needs a header: convert it, for example with sox)"
    )


def _check_whole(entry: str, stream: BinaryIO, audio: "soundfile.SoundFile") -> None:
    """Refuse a file that ends before its audio does, where libsndfile would silently give the part that is left."""
    declared = re.search(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", audio.extra_info, re.M)
    if declared and int(declared[2]) < int(declared[1]) < _STREAMED:
        raise UserError(f"{entry}: truncated: {declared[2]} bytes where the header says {declared[1]}")
    if audio.format == "OGG" and not _ogg_ends(stream):
        raise UserError(f"{entry}: truncated: the Ogg stream has no last page")
    if audio.format == "NIST":
        header = os.pread(stream.fileno(), 1024, 0)
        count = re.search(rb"sample_count -i (\d+)", header)
        if count and audio.frames < int(count[1]):
            raise UserError(f"{entry}: truncated: {audio.frames} samples where the header says {int(count[1])}")


def _ogg_ends(stream: BinaryIO) -> bool:
    """Whether an Ogg file's last page is whole and marked as the last (RFC 3533, section 6)."""
    size = os.fstat(stream.fileno()).st_size
    tail = os.pread(stream.fileno(), 1 << 16, max(0, size - (1 << 16)))
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    lengths = tail[page + 27 : page + 27 + tail[page + 26]]
    end = page + 27 + tail[page + 26] + sum(lengths)
    return bool(tail[page + 5] & 4) and end <= len(tail)


def _read(audio: "soundfile.SoundFile", name: str, samples: int) -> np.ndarray:
    """The next ``samples`` samples, channels averaged."""
    try:
        block = audio.read(samples, dtype="float32", always_2d=True)
    except MemoryError:
        raise UserError(f"{name}: the header says {samples:,} samples, more than memory holds; it is damaged") from None
    if len(block) != samples:
        raise UserError(f"{name}: truncated: {len(block)} samples where the header says {samples}")
    mono: np.ndarray = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    peak = float(np.abs(mono).max())
    if np.isnan(peak):
        raise UserError(f"{name}: sample {int(np.isnan(mono).argmax())} is NaN (not a number); mend the audio")
    if peak > LOUDEST:
        raise UserError(f"{name}: the largest sample is {peak:g}; full scale is 1: divide floating-point audio by it")
    return mono


def _resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    if rate == wanted:
        return samples
    import soxr

    resampled = soxr.resample(samples, rate, wanted)
    return np.asarray(resampled, dtype=np.float32)


def _resampled_length(samples: int, rate: int, wanted: int) -> int:
    """The length of soxr's output: ``samples * wanted / rate``, halves rounded up."""
    return (2 * samples * wanted + rate) // (2 * rate)
