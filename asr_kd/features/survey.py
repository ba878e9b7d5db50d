"""What the audio headers of a data directory say, before anything is decoded."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

from asr_kd.corpus.audio import num_samples
from asr_kd.corpus.datadir import DataDir, is_pipe
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.files import sha256
from asr_kd.parallel import parallel_map
from asr_kd.progress import Progress

_CHUNK = 200  # utterances in one task


@dataclasses.dataclass(frozen=True)
class Survey:
    """Frames of each utterance, what is wrong with the others, and a hash of all audio."""

    frame_counts: dict[str, int]
    bad: dict[str, str]
    sha256: str


def survey(datadir: DataDir, config: FeatureConfig, jobs: int = 1) -> Survey:
    """Read every header, and hash every file's bytes (which takes a thousandth of the time of decoding them)."""
    frame_counts: dict[str, int] = {}
    bad: dict[str, str] = {}
    digest = hashlib.sha256()
    utterances = datadir.utterances
    chunks = [utterances[start : start + _CHUNK] for start in range(0, len(utterances), _CHUNK)]
    with Progress(len(utterances), "reading audio headers") as bar:
        for headers in parallel_map(_read_headers, chunks, jobs, _start, (datadir, config)):
            for utterance, frames, content in headers:
                if isinstance(frames, int):
                    frame_counts[utterance] = frames
                    digest.update(f"{utterance} {frames} {content}\n".encode())
                else:
                    bad[utterance] = str(frames)
            bar.advance(len(headers))
    return Survey(frame_counts, bad, digest.hexdigest())


_datadir: DataDir
_config: FeatureConfig


def _start(datadir: DataDir, config: FeatureConfig) -> None:
    global _datadir, _config
    _datadir, _config = datadir, config
    _hash.cache_clear()


def _read_headers(utterances: Sequence[str]) -> list[tuple[str, int | UserError, str]]:
    """Utterance, frames or what is wrong, and what its audio is: the file's hash and the segment's times."""
    found: list[tuple[str, int | UserError, str]] = []
    for utterance in utterances:
        try:
            frames = _config.num_frames(num_samples(_datadir, utterance, _config.sample_rate))
        except UserError as error:
            found.append((utterance, error, ""))
            continue
        recording, *times = _datadir.segments[utterance] if _datadir.segments else (utterance,)
        found.append((utterance, frames, f"{_hash(_datadir.wav[recording])} {times}"))
    return found


@functools.lru_cache(8)  # the segments of a recording mostly come one after the other
def _hash(entry: str) -> str:
    return hashlib.sha256(entry.encode()).hexdigest() if is_pipe(entry) else sha256(entry)
