"""Subsets, unions and summaries of data directories."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from asr_kd.corpus.audio import audio_info, num_samples
from asr_kd.corpus.datadir import AudioSegment, DataDir, check_apart, write_data_dir
from asr_kd.corpus.splits import shuffled
from asr_kd.errors import UserError

_TICKS = 16000  # per second: durations are measured at this sample rate


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a data directory holds."""

    utterances: int
    speakers: int
    seconds: float
    words: int
    vocabulary: int
    transcribed: bool


def durations(datadir: DataDir) -> dict[str, float]:
    """Utterance -> seconds, from the headers of the audio."""
    return {utt: num_samples(datadir, utt, _TICKS) / _TICKS for utt in datadir.utterances}


def contents(datadir: DataDir) -> Contents:
    """Count utterances, speakers, seconds and words."""
    words = [word for transcript in datadir.text.values() for word in transcript]
    return Contents(
        utterances=len(datadir.utterances),
        speakers=len(datadir.speakers),
        seconds=sum(durations(datadir).values()),
        words=len(words),
        vocabulary=len(set(words)),
        transcribed=bool(datadir.text),
    )


def take_fraction(datadir: DataDir, out: str | Path, fraction: float, seed: int = 0) -> tuple[DataDir, float]:
    """Write about ``fraction`` of the duration to ``out``, in whole utterances and in proportion for each speaker.

    Returns the new directory and the fraction reached. The choice depends only on ids, durations and ``seed``, and a
    smaller fraction is a subset of a larger one.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--fraction {fraction:g}: expected more than 0 and at most 1")
    check_apart(out, [datadir])
    seconds = durations(datadir)
    wanted = fraction * sum(seconds.values())
    chosen: list[str] = []
    held = 0.0
    for utt in _stratified(datadir, seed):
        if chosen and abs(held + seconds[utt] - wanted) > abs(held - wanted):
            break
        chosen.append(utt)
        held += seconds[utt]
    part = datadir.subset(chosen)
    written = write_data_dir(out, part.wav, part.text, part.utt2spk, part.segments)
    return written, held / sum(seconds.values())


def _stratified(datadir: DataDir, seed: int) -> list[str]:
    """All utterances, ordered so that any prefix has the speakers in proportion, as nearly as possible.

    A speaker's n shuffled utterances are placed at (k + u) / n, with one shuffled offset 0 <= u < 1 for each speaker.
    At any fraction f, each speaker has contributed f n of them, rounded up or down, whatever their durations.
    """
    place: dict[str, float] = {}
    speakers = datadir.speakers
    for rank, speaker in enumerate(shuffled(speakers, seed)):
        utts = shuffled(speakers[speaker], seed)
        offset = (rank + 0.5) / len(speakers)
        place |= {utt: (k + offset) / len(utts) for k, utt in enumerate(utts)}
    return sorted(place, key=lambda utt: (place[utt], utt))


def combine(out: str | Path, datadirs: Sequence[DataDir]) -> DataDir:
    """Write the union of data directories to ``out``; ``UserError`` if two of them have an utterance id in common.

    If only some have segments, the recordings of the others become segments from start to end.
    """
    check_apart(out, datadirs)
    wav: dict[str, str] = {}
    text: dict[str, tuple[str, ...]] = {}
    utt2spk: dict[str, str] = {}
    segments: dict[str, AudioSegment] = {}
    segmented = any(datadir.segments is not None for datadir in datadirs)
    for datadir in datadirs:
        if twice := datadir.utt2spk.keys() & utt2spk.keys():
            raise UserError(f"{datadir.path}: utterance {min(twice)!r} is also in an earlier directory; rename one")
        for recording, entry in datadir.wav.items():
            if wav.setdefault(recording, entry) != entry:
                raise UserError(
                    f"{datadir.path / 'wav.scp'}: recording {recording!r} is a different file in an earlier directory;"
                    " rename one"
                )
        text |= datadir.text
        utt2spk |= datadir.utt2spk
        if segmented:
            segments |= datadir.segments or _whole_recordings(datadir)
    return write_data_dir(out, wav, text, utt2spk, segments if segmented else None)


def _whole_recordings(datadir: DataDir) -> dict[str, AudioSegment]:
    return {utt: AudioSegment(utt, 0.0, audio_info(entry, pipes=True).seconds) for utt, entry in datadir.wav.items()}
