"""Audio files -> samples: any format, any sample rate, all of the audio, or an error that says why not."""

import dataclasses
import hashlib
import io
import os
from pathlib import Path

import numpy as np

from asr_kd.corpus.containers import Source, find_parts
from asr_kd.corpus.datadir import AudioSegment, DataDir, is_pipe, split_archive
from asr_kd.corpus.recording import Recording, open_recording
from asr_kd.errors import UserError, counted
from asr_kd.files import open_regular, sha256, write_bytes
from asr_kd.limits import AUDIO_SAMPLES

OVERSHOOT = 0.5  # seconds by which a segment may end after its recording and is cut, as Kaldi's extract-segments does
ROUNDING = 0.01  # seconds of it that are not reported: times are often rounded to a hundredth


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What an audio file holds: samples per channel, sample rate in hertz, channels, format."""

    samples: int
    sample_rate: int
    channels: int
    format: str

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


@dataclasses.dataclass(frozen=True)
class UtteranceInfo:
    """An utterance's length at the requested sample rate, and what is done to its recording on the way.

    ``recorded_rate`` is the recording's own rate in hertz. ``averaged``: several channels are averaged. ``cut``: the
    segment ends after the recording by more than a rounding error, and is cut there.
    """

    samples: int
    recorded_rate: int
    averaged: bool
    cut: bool


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """The audio at ``path`` as float32 ``[samples]`` in [-1, 1] at ``sample_rate`` hertz; channels are averaged.

    The format is recognised by the content, never by the name. Raises ``UserError`` for a file that is missing, not
    audio, truncated, too long for memory, without samples, or with NaN.
    """
    return read_audio_and_rate(path, sample_rate)[0]


def read_audio_and_rate(path: str | Path, sample_rate: int) -> tuple[np.ndarray, int]:
    """As ``read_audio``, with the rate of the recording."""
    with open_recording(str(path)) as recording:
        return _read(recording, 0, recording.samples, str(path), sample_rate), recording.sample_rate


def load_audio(datadir: DataDir, utt: str, sample_rate: int) -> np.ndarray:
    """The samples of an utterance, as ``read_audio`` gives them; for a segment, only that part is decoded."""
    return load_audio_and_rate(datadir, utt, sample_rate)[0]


def load_audio_and_rate(datadir: DataDir, utt: str, sample_rate: int) -> tuple[np.ndarray, int]:
    """As ``load_audio``, with the rate of the recording."""
    entry, segment = _locate(datadir, utt)
    with open_recording(entry, pipes=True, folder=datadir.path) as recording:
        begin, end = _span(datadir, utt, recording)
        channel = segment.channel if segment else None
        return _read(recording, begin, end, f"{utt} ({entry})", sample_rate, channel), recording.sample_rate


def num_samples(datadir: DataDir, utt: str, sample_rate: int) -> int:
    """The length of ``load_audio(datadir, utt, sample_rate)``, without decoding."""
    entry, _ = _locate(datadir, utt)
    with open_recording(entry, pipes=True, folder=datadir.path) as recording:
        begin, end = _span(datadir, utt, recording)
        return _resampled_length(end - begin, recording.sample_rate, sample_rate)


def utterance_info(datadir: DataDir, utt: str, sample_rate: int) -> UtteranceInfo:
    """What ``load_audio(datadir, utt, sample_rate)`` would give, without decoding."""
    entry, segment = _locate(datadir, utt)
    with open_recording(entry, pipes=True, folder=datadir.path) as recording:
        begin, end = _span(datadir, utt, recording)
        rate = recording.sample_rate
        cut = segment is not None and segment.end > recording.samples / rate + ROUNDING
        averaged = recording.channels > 1 and (segment is None or segment.channel is None)
        return UtteranceInfo(_resampled_length(end - begin, rate, sample_rate), rate, averaged, cut)


def audio_info(path: str | Path, pipes: bool = False) -> AudioInfo:
    """What an audio file holds; with ``pipes``, ``path`` may be any entry of ``wav.scp``, and a command is run."""
    with open_recording(str(path), pipes, Path() if pipes else None) as audio:
        return AudioInfo(audio.samples, audio.sample_rate, audio.channels, audio.format)


def hash_audio(entry: str) -> str:
    """SHA-256 of a ``wav.scp`` entry: of a file's bytes, of one file's bytes in an archive, of a command's text."""
    if is_pipe(entry):
        return hashlib.sha256(entry.encode()).hexdigest()
    path, begin = split_archive(entry)
    if not begin:
        return sha256(path)
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        source = Source(stream.fileno(), os.fstat(stream.fileno()), entry, begin)
        for part in find_parts(source):
            digest.update(part.header)
            for offset in range(part.begin, part.end, 1 << 20):
                digest.update(source.read(offset, min(1 << 20, part.end - offset)))
    return digest.hexdigest()


def write_flac(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write ``samples`` ``[samples]`` as 16-bit FLAC: int16 as they are, floats in [-1, 1] rounded and clipped."""
    import soundfile

    if samples.dtype != np.int16:
        samples = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()  # libsndfile would drop the error of a full disk
    soundfile.write(encoded, samples, sample_rate, format="FLAC", subtype="PCM_16")
    write_bytes(path, encoded.getvalue())


def _locate(datadir: DataDir, utt: str) -> tuple[str, AudioSegment | None]:
    """The entry of ``wav.scp`` that holds ``utt``, and its segment."""
    if datadir.segments is None:
        return datadir.wav[utt], None
    segment = datadir.segments[utt]
    return datadir.wav[segment.recording], segment


def _span(datadir: DataDir, utt: str, recording: Recording) -> tuple[int, int]:
    """First and end sample of ``utt`` in its recording; ``UserError`` if the segment lies outside it."""
    samples, rate = recording.samples, recording.sample_rate
    if datadir.segments is None:
        return 0, samples
    segment = datadir.segments[utt]
    name, length = f"{datadir.path / 'segments'}: {utt!r}", samples / rate
    where = f"recording {segment.recording!r} has only {length:.2f} s; correct the segment"
    if segment.channel is not None and segment.channel >= recording.channels:
        raise UserError(
            f"{name} is on channel {segment.channel} (counted from 0), but recording {segment.recording!r} has "
            f"{counted(recording.channels, 'channel')}; correct the segment"
        )
    if segment.start >= length + ROUNDING:
        raise UserError(f"{name} starts at {segment.start:g} s, but {where}")
    if segment.end > length + OVERSHOOT:
        raise UserError(f"{name} ends at {segment.end:g} s, but {where}")
    begin = min(round(segment.start * rate), samples - 1)
    end = samples if segment.end == -1 else min(round(segment.end * rate), samples)
    return begin, max(end, begin + 1)


def _read(
    recording: Recording, begin: int, end: int, place: str, sample_rate: int, channel: int | None = None
) -> np.ndarray:
    resampled = _resampled_length(end - begin, recording.sample_rate, sample_rate)
    most = resampled + (end - begin if recording.sample_rate != sample_rate else 0)
    if most > AUDIO_SAMPLES:
        raise UserError(
            f"{place}: {counted(end - begin, 'sample')} ({(end - begin) / recording.sample_rate / 3600:,.1f} hours)"
            " are too many for one utterance; cut the recording into segments, unless its header is damaged"
        )
    return _resample(recording.read(begin, end, place, channel), recording.sample_rate, sample_rate)


def _resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    if rate == wanted:
        return samples
    import soxr

    resampled = soxr.resample(samples, rate, wanted)
    return np.asarray(resampled, dtype=np.float32)


def _resampled_length(samples: int, rate: int, wanted: int) -> int:
    """The length of soxr's output: ``samples * wanted / rate``, rounded half up."""
    return (2 * samples * wanted + rate) // (2 * rate)
