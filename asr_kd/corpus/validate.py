"""Everything that is wrong with a data directory, by file and line, its audio included."""

import dataclasses
from collections import Counter
from collections.abc import Container
from pathlib import Path

import numpy as np

from asr_kd.corpus.audio import audio_info, load_audio
from asr_kd.corpus.datadir import DataDir, Problem, scan
from asr_kd.errors import UserError
from asr_kd.files import read_lines
from asr_kd.parallel import parallel_map
from asr_kd.progress import progress

SHORTEST = 0.025  # seconds: one frame
FULL_SCALE = 0.999
CLIPPED = 0.01  # of an utterance's samples at full scale


@dataclasses.dataclass(frozen=True)
class Heard:
    """What listening to one utterance gave: hertz (0 where it is unreadable), and what is wrong with it."""

    utt: str
    sample_rate: int
    error: str = ""
    warning: str = ""


def validate(
    path: str | Path, lexicon: Container[str] | None = None, allow_pipes: bool = False, jobs: int = 1
) -> list[Problem]:
    """All problems of a data directory, in the order of its files' lines; none where it is sound.

    Every recording is decoded. With a ``lexicon``, words outside it are errors.
    """
    datadir, problems = scan(path, allow_pipes)
    if lexicon is not None:
        problems += _outside(datadir, lexicon)
    sound = [utt for utt in datadir.utterances if _is_complete(datadir, utt)]
    if any(problem.file.name == "wav.scp" and "pipe" in problem.message for problem in problems):
        sound = []  # a refused pipe must not be run
    tasks = [datadir.subset([utt]) for utt in sound]
    heard = list(progress(parallel_map(listen, tasks, jobs), len(tasks), "audio"))
    return problems + _audio_problems(datadir, heard)


def listen(datadir: DataDir) -> Heard:
    """Decode the one utterance of ``datadir``."""
    (utt,) = datadir.utterances
    (entry,) = datadir.wav.values()
    rate = 0
    try:
        rate = audio_info(entry, pipes=True).sample_rate
        samples = load_audio(datadir, utt, rate)
    except UserError as error:
        return Heard(utt, rate, error=str(error))
    if len(samples) < SHORTEST * rate:
        return Heard(utt, rate, error=f"{entry}: {len(samples)} samples, shorter than one frame ({SHORTEST} s)")
    if np.ptp(samples) == 0:
        return Heard(utt, rate, error=f"{entry}: silent: every sample is {samples[0]:g}")
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE))
    return Heard(utt, rate, warning=f"{entry}: clipped: {clipped:.1%} at full scale" if clipped >= CLIPPED else "")


def _is_complete(datadir: DataDir, utt: str) -> bool:
    """Whether the tables say where the audio of ``utt`` is."""
    if utt not in datadir.utt2spk:
        return False
    return datadir.segments is None or datadir.segments[utt][0] in datadir.wav


def _outside(datadir: DataDir, lexicon: Container[str]) -> list[Problem]:
    path = datadir.path / "text"
    lines = _lines(path) if datadir.text else {}
    problems = []
    for utt, words in datadir.text.items():
        if outside := [word for word in words if word not in lexicon]:
            problems.append(Problem(path, lines[utt], f"{utt!r}: not in the lexicon: {' '.join(outside)}"))
    return problems


def _audio_problems(datadir: DataDir, heard: list[Heard]) -> list[Problem]:
    path = datadir.path / ("wav.scp" if datadir.segments is None else "segments")
    lines = _lines(path) if heard else {}
    problems = []
    for entry in heard:
        if message := entry.error or entry.warning:
            problems.append(Problem(path, lines[entry.utt], f"{entry.utt!r}: {message}", warning=not entry.error))
    rates = Counter(entry.sample_rate for entry in heard if entry.sample_rate)
    if len(rates) > 1:
        listed = ", ".join(f"{rate} Hz ({count})" for rate, count in sorted(rates.items()))
        problems.append(Problem(path, 0, f"sample rates differ between utterances: {listed}", warning=True))
    return problems


def _lines(path: Path) -> dict[str, int]:
    """The line on which each id stands first."""
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        lines.setdefault((line.split(maxsplit=1) or [""])[0], number)
    return lines
