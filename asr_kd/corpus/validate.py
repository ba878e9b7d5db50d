"""Every problem of a data directory and its audio, by file and line."""

import dataclasses
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from asr_kd.corpus.audio import load_audio, utterance_info
from asr_kd.corpus.datadir import DataDir, Problem, scan
from asr_kd.errors import UserError, counted
from asr_kd.files import fields_of, read_lines
from asr_kd.parallel import parallel_map
from asr_kd.progress import Progress

SHORTEST = 0.025  # seconds: one frame
FULL_SCALE = 0.999
CLIPPED = 0.01  # of an utterance's samples at full scale
_CHUNK = 100  # utterances that a process checks at a time
SHOWN = 3  # problems of one kind that are listed one by one


@dataclasses.dataclass(frozen=True)
class AudioCheck:
    """The result of decoding one utterance: hertz (0 where it cannot be read), and kind -> message of each problem."""

    utt: str
    sample_rate: int
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: dict[str, str] = dataclasses.field(default_factory=dict)


def validate(
    path: str | Path, lexicon: Container[str] | None = None, allow_pipes: bool = False, jobs: int = 1
) -> list[Problem]:
    """All problems of a data directory, in the order of its files and lines.

    Every recording is decoded. With a ``lexicon``, words outside it are errors.
    """
    datadir, problems = scan(path, allow_pipes)
    if lexicon is not None:
        problems += _outside(datadir, lexicon)
    sound = [utt for utt in datadir.utterances if _is_complete(datadir, utt)]
    if any(problem.kind == "pipe" for problem in problems):
        sound = []  # a refused pipe must not be run
    chunks = [sound[begin : begin + _CHUNK] for begin in range(0, len(sound), _CHUNK)]
    rates, checks = Counter[int](), list[AudioCheck]()
    with Progress(len(sound), "audio", "utterances") as bar:
        for chunk, found in zip(chunks, parallel_map(_check, chunks, jobs, _start, (datadir,)), strict=True):
            rates.update(check.sample_rate for check in found if check.sample_rate)
            checks += [check for check in found if check.errors or check.warnings]
            bar.advance(len(chunk))
    return problems + _audio_problems(datadir, checks, rates)


def summarise(problems: Iterable[Problem]) -> Iterator[str]:
    """Lines that show the problems; of many of one kind in one file, only the first few and their number."""
    groups: dict[tuple[Path, str, bool], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.file, problem.kind, problem.warning), []).append(problem)
    for (file, kind, warning), group in groups.items():
        shown = group if len(group) <= SHOWN + 1 else group[:SHOWN]
        yield from map(str, shown)
        if more := len(group) - len(shown):
            yield f"{file}: {'warning: ' if warning else ''}{more:,} more of this kind ({kind}); --all lists them"


_datadir: DataDir


def _start(datadir: DataDir) -> None:
    global _datadir
    _datadir = datadir


def _check(utterances: Sequence[str]) -> list[AudioCheck]:
    return [check_audio(_datadir, utterance) for utterance in utterances]


def check_audio(datadir: DataDir, utt: str) -> AudioCheck:
    """Decode one utterance of ``datadir``."""
    entry = datadir.wav[utt if datadir.segments is None else datadir.segments[utt].recording]
    rate, warnings = 0, {}
    try:
        info = utterance_info(datadir, utt, 1)
        rate = info.recorded_rate
        samples = load_audio(datadir, utt, rate)
    except UserError as error:
        return AudioCheck(utt, rate, {_kind(str(error)): str(error)})
    if info.averaged:
        warnings["channels averaged"] = (
            f"{entry}: has several channels, which are averaged; to take one, give it in the fifth column of segments"
        )
    if info.cut:
        warnings["segment cut"] = f"{entry}: the segment ends after the recording, and is cut there"
    if len(samples) < SHORTEST * rate:
        message = f"{entry}: {counted(len(samples), 'sample')}, shorter than one frame ({SHORTEST} s)"
        return AudioCheck(utt, rate, {"too short": message}, warnings)
    if np.ptp(samples) == 0:
        return AudioCheck(utt, rate, {"silent": f"{entry}: silent: every sample is {samples[0]:g}"}, warnings)
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE))
    if clipped >= CLIPPED:
        warnings["clipped"] = f"{entry}: clipped: {clipped:.1%} at full scale"
    return AudioCheck(utt, rate, warnings=warnings)


def _kind(message: str) -> str:
    """The kind of an audio error, from its message."""
    for kind in ("no such audio file", "truncated", "not readable as audio", "the file is empty", "has only", "NaN"):
        if kind in message:
            return kind
    return re.sub(r"[\d,.]+", "N", message.split(": ", 1)[-1])[:40]


def _is_complete(datadir: DataDir, utt: str) -> bool:
    """Whether the tables locate the audio of ``utt``."""
    if utt not in datadir.utt2spk:
        return False
    return datadir.segments is None or datadir.segments[utt].recording in datadir.wav


def _outside(datadir: DataDir, lexicon: Container[str]) -> list[Problem]:
    path = datadir.path / "text"
    lines = _lines(path) if datadir.text else {}
    problems = []
    for utt, words in datadir.text.items():
        if outside := [word for word in words if word not in lexicon]:
            message = f"{utt!r}: not in the lexicon: {' '.join(outside)}"
            problems.append(Problem(path, lines[utt], message, "not in the lexicon"))
    return problems


def _audio_problems(datadir: DataDir, checks: list[AudioCheck], rates: Counter[int]) -> list[Problem]:
    path = datadir.path / ("wav.scp" if datadir.segments is None else "segments")
    lines = _lines(path) if checks else {}
    problems = []
    for check in checks:
        for found, warning in ((check.errors, False), (check.warnings, True)):
            for kind, message in found.items():
                problems.append(Problem(path, lines[check.utt], f"{check.utt!r}: {message}", kind, warning))
    if len(rates) > 1:
        listed = ", ".join(f"{rate} Hz ({count})" for rate, count in sorted(rates.items()))
        message = f"sample rates differ between utterances: {listed}"
        problems.append(Problem(path, 0, message, "sample rates differ", warning=True))
    return problems


def _lines(path: Path) -> dict[str, int]:
    """The line on which each id appears first."""
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        lines.setdefault((fields_of(line, 1) or [""])[0], number)
    return lines
