"""The lengths of a data directory's utterances and a hash of its audio, before anything is decoded."""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from asr_kd.corpus.audio import UtteranceInfo, hash_audio, utterance_info
from asr_kd.corpus.datadir import DataDir
from asr_kd.errors import UserError, counted
from asr_kd.features.config import FeatureConfig
from asr_kd.parallel import parallel_map
from asr_kd.progress import Progress, note

_CHUNK = 200  # utterances in one task


@dataclasses.dataclass(frozen=True)
class Survey:
    """Frames of each utterance, the reason why others cannot be read, and a hash of all audio."""

    frame_counts: dict[str, int]
    bad: dict[str, str]
    sha256: str


def survey(datadir: DataDir, config: FeatureConfig, jobs: int = 1) -> Survey:
    """Read every header, hash every file's bytes (in a thousandth of the time of decoding them), and say what a user
    may not expect of the audio."""
    frame_counts: dict[str, int] = {}
    bad: dict[str, str] = {}
    infos: list[UtteranceInfo] = []
    digest = hashlib.sha256()
    utterances = datadir.utterances
    chunks = [utterances[start : start + _CHUNK] for start in range(0, len(utterances), _CHUNK)]
    with Progress(len(utterances), "reading audio headers") as bar:
        for headers in parallel_map(_read_headers, chunks, jobs, _start, (datadir, config)):
            for header in headers:
                if header.info is None:
                    bad[header.utterance] = header.content
                    continue
                infos.append(header.info)
                frame_counts[header.utterance] = header.frames
                digest.update(f"{header.utterance} {header.frames} {header.content}\n".encode())
            bar.advance(len(headers))
    for remark in remarks(infos, config.sample_rate):
        note(remark)
    return Survey(frame_counts, bad, digest.hexdigest())


def remarks(infos: Iterable[UtteranceInfo], sample_rate: int) -> tuple[str, ...]:
    """What a user may not expect of the way from the recordings to ``sample_rate``, one sentence for each kind."""
    rates, averaged, cut, count = Counter[int](), 0, 0, 0
    for info in infos:
        rates[info.recorded_rate] += 1
        averaged, cut, count = averaged + info.averaged, cut + info.cut, count + 1
    found = [
        f"{number:,} of {counted(count, 'utterance')} {_verb(number, 'was', 'were')} recorded at {rate:,} Hz and"
        f" upsampled to {sample_rate:,} Hz: nothing above {rate // 2:,} Hz"
        for rate, number in sorted(rates.items())
        if rate < sample_rate
    ]
    if averaged:
        have = _verb(averaged, "has", "have")
        found.append(f"{averaged:,} of {counted(count, 'utterance')} {have} several channels, which are averaged")
    if cut:
        end, are = _verb(cut, "ends after its", "end after their"), _verb(cut, "is", "are")
        found.append(f"{cut:,} of {counted(count, 'segment')} {end} recording and {are} truncated there")
    return tuple(found)


def _verb(number: int, singular: str, plural: str) -> str:
    return singular if number == 1 else plural


@dataclasses.dataclass(frozen=True)
class _Header:
    """An utterance's frames and its audio: hash and times. Where it cannot be read: no ``info``, and the reason."""

    utterance: str
    info: UtteranceInfo | None
    frames: int
    content: str


_datadir: DataDir
_config: FeatureConfig


def _start(datadir: DataDir, config: FeatureConfig) -> None:
    global _datadir, _config
    _datadir, _config = datadir, config
    _hash.cache_clear()


def _read_headers(utterances: Sequence[str]) -> list[_Header]:
    found = []
    for utterance in utterances:
        try:
            info = utterance_info(_datadir, utterance, _config.sample_rate)
            frames = _config.num_frames(info.samples)
        except UserError as error:
            found.append(_Header(utterance, None, 0, str(error)))
            continue
        segment = _datadir.segments[utterance] if _datadir.segments else None
        recording, place = (segment.recording, list(segment.place)) if segment else (utterance, [])
        found.append(_Header(utterance, info, frames, f"{_hash(_datadir.wav[recording])} {place}"))
    return found


@functools.lru_cache(8)  # the segments of a recording mostly come one after the other
def _hash(entry: str) -> str:
    return hash_audio(entry)
