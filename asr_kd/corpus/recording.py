"""One recording, opened: a file, a stretch of an archive, or the output of a command."""

import contextlib
import functools
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from asr_kd.corpus.containers import Part, Source, View, find_parts
from asr_kd.corpus.datadir import is_pipe, split_archive
from asr_kd.errors import UserError, counted
from asr_kd.files import open_descriptor
from asr_kd.limits import AUDIO_CHANNELS, AUDIO_RATES, PIPED_AUDIO_BYTES
from asr_kd.storage import is_url

if TYPE_CHECKING:
    import soundfile

LOUDEST = 8.0  # lossy codecs overshoot full scale slightly; samples far above it are integers stored as floats
_BLOCK = 1 << 18  # values decoded together
_MOST_SAMPLES = 1 << 48  # libsndfile's largest number stands for "not known"
_CHECKED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")
_HEADERS = {"HTK": 12, "IRCAM": 1024}  # bytes before the samples, in containers that are checked by their size
_FORMATS = "wav, flac, ogg, opus, mp3 or sph"


class Recording:
    """The decoder of a recording: ``samples`` in each of its ``channels``, at ``sample_rate`` hertz."""

    def __init__(self, source: Source, pieces: "list[soundfile.SoundFile]", parts: tuple[Part, ...]) -> None:
        first = pieces[0]
        self._pieces = pieces
        self.sample_rate, self.channels, self.samples = first.samplerate, first.channels, first.frames
        self.format: str = first.format
        if parts:
            self.samples = _check_parts(source, pieces, parts)
        self._check(source, bool(parts))

    def _check(self, source: Source, in_parts: bool) -> None:
        """Raise ``UserError`` for what is beyond the limits, and for a container whose length cannot be checked."""
        if not 0 < self.samples < _MOST_SAMPLES:
            raise source.fault(
                "the audio has no samples" if self.samples == 0 else "the header states no length; write the file again"
            )
        if not AUDIO_RATES[0] <= self.sample_rate <= AUDIO_RATES[1]:
            raise source.fault(
                f"the sample rate is {self.sample_rate:,} Hz; expected {AUDIO_RATES[0]:,} to {AUDIO_RATES[1]:,}: the "
                "header is damaged, or this is not speech"
            )
        if self.channels > AUDIO_CHANNELS:
            raise source.fault(f"{self.channels:,} channels; at most {AUDIO_CHANNELS} are read: split them")
        if self.format == "MP3" and not in_parts and source.at(0, 1) not in (b"I", b"\xff"):
            raise source.fault("bytes that are not audio precede the first MPEG frame; remove them")
        if self.format not in _CHECKED:
            _check_size(source, self._pieces[0])

    def read(self, begin: int, end: int, place: str, channel: int | None = None) -> np.ndarray:
        """Samples ``begin`` to ``end`` of one channel, or the mean of all, as float32; ``place`` is for errors.

        Raises ``UserError`` for samples that cannot be decoded, are NaN or far above full scale.
        """
        mono = np.empty(end - begin, np.float32)  # memory is taken only as it is filled
        peak, offset, filled = 0.0, 0, 0
        for piece in self._pieces:
            first, last = max(begin - offset, 0), min(end - offset, piece.frames)
            offset += piece.frames
            if 0 < first < last:
                piece.seek(first)
            while first < last:
                part = mono[filled : filled + min(max(1, _BLOCK // self.channels), last - first)]
                part = _decode(piece, part, channel)
                if not len(part):
                    raise UserError(
                        f"{place}: truncated: {counted(begin + filled, 'sample')} where {end:,} were expected"
                    )
                largest = float(max(part.max(), -part.min()))
                if np.isnan(largest):
                    bad = begin + filled + int(np.isnan(part).argmax())
                    raise UserError(f"{place}: sample {bad} is NaN (not a number); correct the audio")
                peak, first, filled = max(peak, largest), first + len(part), filled + len(part)
        if peak > LOUDEST:
            remedy = "rescale the floating-point audio to -1..1"
            raise UserError(f"{place}: the largest sample is {peak:g}, but full scale is 1; {remedy}")
        return mono


def _decode(audio: "soundfile.SoundFile", out: np.ndarray, channel: int | None) -> np.ndarray:
    """Fill ``out`` with the next samples of one channel, or the mean of all; return the part that was filled."""
    if audio.channels == 1:
        found: np.ndarray = audio.read(out=out)
        return found
    block = audio.read(len(out), dtype="float32", always_2d=True)
    out = out[: len(block)]
    out[:] = block.mean(axis=1) if channel is None else block[:, channel]
    return out


@contextlib.contextmanager
def open_recording(entry: str, pipes: bool = False, folder: Path | None = None) -> Iterator[Recording]:
    """Open a file, or an entry of ``wav.scp``: also ``ARCHIVE:OFFSET`` and, with ``pipes``, a shell command.

    ``folder`` is the data directory, which helps to explain a relative path that does not exist. Raises ``UserError``
    for audio that is missing, unreadable, truncated, without samples, or beyond the limits on rate and channels.
    """
    import soundfile

    source = _open_source(entry, pipes, folder)
    pieces: list[soundfile.SoundFile] = []
    try:
        parts = find_parts(source)
        # The bare descriptor has no name: by its name, libsndfile would take x.raw for raw samples.
        files: list[View | int] = [View(source, part) for part in parts] or [source.descriptor]
        for file in files:
            pieces.append(_decoder()(file, closefd=False))
        yield Recording(source, pieces, parts)
    except soundfile.LibsndfileError as error:
        raise UserError(_unreadable(source, error)) from None
    finally:
        for piece in pieces:
            piece.close()
        os.close(source.descriptor)


@functools.cache
def _decoder() -> "type[soundfile.SoundFile]":
    import soundfile

    class Sequential(soundfile.SoundFile):
        """Reads without a seek after each block; libsndfile would search a FLAC file for its own position."""

        __setattr__ = object.__setattr__  # no tags are written, which is what the slower one is for

        def seekable(self) -> bool:
            return False

        def flush(self) -> None:
            """Nothing is written."""

    return Sequential


def _check_parts(source: Source, pieces: "list[soundfile.SoundFile]", parts: tuple[Part, ...]) -> int:
    """The number of samples in all parts; ``UserError`` if rate or channels differ, or a part cannot be decoded."""
    first = pieces[0]
    for piece, part in zip(pieces, parts, strict=True):
        if (piece.samplerate, piece.channels) != (first.samplerate, first.channels):
            raise source.fault(
                f"holds several streams, and they differ: {first.samplerate} Hz in {first.channels} channels, then "
                f"{piece.samplerate} Hz in {piece.channels}; split them"
            )
        if part.samples is not None and piece.frames != part.samples:
            raise source.fault(
                f"only {piece.frames:,} of its {counted(part.samples, 'sample')} can be decoded; convert it to wav"
            )
    return sum(int(piece.frames) for piece in pieces)


def _check_size(source: Source, audio: "soundfile.SoundFile") -> None:
    """Raise ``UserError`` for a rare container unless its header and samples fill the file exactly."""
    width = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "ULAW": 1, "ALAW": 1}
    block = width.get(audio.subtype, 0) * audio.channels
    if audio.format in _HEADERS and block and source.size - _HEADERS[audio.format] == audio.frames * block:
        return
    raise source.fault(f"{audio.format_info}: the length of such a file cannot be checked; convert it to {_FORMATS}")


def _open_source(entry: str, pipes: bool, folder: Path | None) -> Source:
    """The open file, whose descriptor the caller closes."""
    if pipes and is_pipe(entry):
        descriptor = _run(entry)
        return Source(descriptor, os.fstat(descriptor), entry)
    path, begin = (entry, 0) if folder is None else split_archive(entry)
    try:
        descriptor, status = open_descriptor(path)
    except UserError:
        if "\0" in path or is_url(path) or os.path.lexists(path):
            raise  # it is there, but it is no file, or may not be read
        raise UserError(f"{entry}: no such audio file{_place(path, folder)}") from None
    if not stat.S_ISREG(status.st_mode):  # a pipe that the shell opened: <(command)
        with os.fdopen(descriptor, "rb") as stream:
            descriptor = _spooled(stream, entry)
        return Source(descriptor, os.fstat(descriptor), entry)
    if begin and begin >= status.st_size:
        os.close(descriptor)
        raise UserError(f"{entry}: byte {begin:,} is past the end of the archive ({status.st_size:,} bytes)")
    return Source(descriptor, status, entry, begin)


def _run(command: str) -> int:
    """The output of a shell command in ``wav.scp``, as ``_spooled`` gives it."""
    process = subprocess.Popen(command.strip("| "), shell=True, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with process.stdout as stream:
            descriptor = _spooled(stream, command)
    except BaseException:  # whatever still writes to the pipe, which is closed, ends with it
        process.kill()
        process.wait()
        raise
    if status := process.wait():
        os.close(descriptor)
        raise UserError(f"wav.scp: the command {command!r} failed with status {status}; run it by hand to see why")
    return descriptor


def _spooled(stream: IO[bytes], name: str) -> int:
    """The descriptor of a temporary file that holds all of ``stream``; ``UserError`` if that is too much."""
    with tempfile.TemporaryFile(buffering=0) as output:
        size = 0
        while block := stream.read(_BLOCK):
            size += len(block)
            if size > PIPED_AUDIO_BYTES:
                raise UserError(
                    f"{name}: more than {PIPED_AUDIO_BYTES:,} bytes of output, the most that is read from a command; "
                    "write it to a file, or correct the command"
                )
            _store(output, block, name)
        output.seek(0)  # libsndfile begins where the descriptor stands
        return os.dup(output.fileno())


def _store(output: IO[bytes], block: bytes, name: str) -> None:
    try:
        while block:
            block = block[output.write(block) :]
    except OSError as error:
        where = tempfile.gettempdir()
        raise UserError(f"{name}: its output cannot be stored in {where}: {error.strerror}; set TMPDIR") from None


def _place(path: str, folder: Path | None) -> str:
    """Advice for a relative path that does not exist."""
    if os.path.isabs(path):
        return ""
    advice = f"; a relative path starts at the current folder ({Path.cwd()})"
    if folder is not None and os.path.isfile(folder / path):
        advice += f". The file exists in {folder}: use absolute paths in wav.scp, or run the command from there"
    return advice


def _unreadable(source: Source, error: Exception) -> str:
    if source.size == 0:
        return f"{source.name}: the file is empty; audio was expected"
    reason = str(error).split(": ", 1)[-1].rstrip(".")
    return (
        f"{source.name}: not readable as audio, or truncated: {reason or 'the decoder gives no reason'}; expected "
        f"{_FORMATS} (headerless audio needs a header: convert it, for example with sox)"
    )
