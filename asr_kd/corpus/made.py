"""A record of what a data directory was made from, so that the same command need not make it again."""

import hashlib
from pathlib import Path
from typing import Any

from asr_kd import __version__
from asr_kd.corpus.audio import hash_audio
from asr_kd.corpus.datadir import DataDir
from asr_kd.files import read_json, write_json

MADE = "made.json"


def content_of(datadir: DataDir) -> str:
    """SHA-256 of the audio, transcripts, speakers and segments of a data directory, wherever it lies."""
    audio = {recording: hash_audio(str(entry)) for recording, entry in datadir.wav.items()}
    text = {utt: list(words) for utt, words in datadir.text.items()}
    segments = {} if datadir.segments is None else dict(datadir.segments)
    content = [sorted(table.items()) for table in (audio, text, dict(datadir.utt2spk), segments)]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def is_made(folder: str | Path, settings: dict[str, Any]) -> bool:
    """Whether ``folder`` is complete and was made with these settings."""
    path = Path(folder) / MADE
    return path.exists() and read_json(path) == _record(folder, settings)


def begin_making(folder: str | Path) -> None:
    """Forget what ``folder`` was made from, before anything in it changes."""
    (Path(folder) / MADE).unlink(missing_ok=True)


def end_making(folder: str | Path, settings: dict[str, Any]) -> None:
    """Record that ``folder`` is complete and was made with these settings."""
    write_json(Path(folder) / MADE, _record(folder, settings))


def _record(folder: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "folder": str(Path(folder).resolve()), "version": __version__}  # wav.scp has full paths
