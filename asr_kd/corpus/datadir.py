"""Kaldi's data directory: who said what, in which file, as sorted plain text.

    wav.scp    RECORDING PATH           the audio; a relative path starts at the current folder, as in Kaldi
    text       UTTERANCE WORD WORD ...  absent in a transfer set, whose words nobody knows
    utt2spk    UTTERANCE SPEAKER
    spk2utt    SPEAKER UTTERANCE ...    the inverse; written always, checked where present
    segments   UTTERANCE RECORDING START END    in seconds; absent where each utterance is a recording

Ids are unique and sorted by their bytes (``LC_ALL=C sort``).
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from asr_kd.errors import UserError
from asr_kd.files import read_lines, write_text

FILES = ("wav.scp", "text", "utt2spk", "spk2utt", "segments")

Table = dict[str, tuple[int, str]]  # key -> (line number, the rest of the line)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong with a data directory; ``line`` counts from 1, 0 for the file as a whole."""

    file: Path
    line: int
    message: str
    warning: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {'warning: ' if self.warning else ''}{self.message}"


@dataclasses.dataclass(frozen=True)
class DataDir:
    """A data directory in memory. ``segments`` is None where each utterance is the recording of the same id."""

    path: Path
    wav: dict[str, str]
    text: dict[str, tuple[str, ...]]
    utt2spk: dict[str, str]
    segments: dict[str, tuple[str, float, float]] | None = None

    @functools.cached_property
    def utterances(self) -> tuple[str, ...]:
        """Utterance ids, sorted."""
        return tuple(sorted(self.wav if self.segments is None else self.segments))

    @functools.cached_property
    def speakers(self) -> dict[str, list[str]]:
        """Speaker -> its utterances, both sorted."""
        return _invert(self.utt2spk)

    def words(self, utt: str) -> list[str]:
        """The transcript of ``utt``; ``UserError`` where it has none."""
        if utt not in self.text:
            raise UserError(f"{self.path / 'text'}: no transcript of {utt!r}; this step needs the words")
        return list(self.text[utt])

    def subset(self, utterances: Iterable[str]) -> "DataDir":
        """The same directory with some of its utterances; nothing is written."""
        utts = sorted(utterances)
        segments = None if self.segments is None else {utt: self.segments[utt] for utt in utts}
        recordings = utts if segments is None else sorted({recording for recording, _, _ in segments.values()})
        return DataDir(
            self.path,
            {recording: self.wav[recording] for recording in recordings},
            {utt: self.text[utt] for utt in utts if utt in self.text},
            {utt: self.utt2spk[utt] for utt in utts},
            segments,
        )


def read_data_dir(path: str | Path, allow_pipes: bool = False) -> DataDir:
    """Read and check a data directory; the audio is not opened.

    A ``wav.scp`` entry that is a pipe would run a shell command: refused unless ``allow_pipes``. Raises ``UserError``
    with the first problem's file and line, and the number of further ones.
    """
    datadir, problems = scan(path, allow_pipes)
    if errors := [problem for problem in problems if not problem.warning]:
        more = f" ({len(errors) - 1} more; list them with: asr-kd corpus validate {path})" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{more}")
    return datadir


def write_data_dir(
    path: str | Path,
    wav: Mapping[str, str | Path],
    text: Mapping[str, Sequence[str]],
    utt2spk: Mapping[str, str],
    segments: Mapping[str, tuple[str, float, float]] | None = None,
) -> DataDir:
    """Write a data directory, sorted, with its ``spk2utt``, and return it as ``read_data_dir`` reads it back.

    ``wav.scp`` goes first and comes last: a directory whose writing was interrupted has none and is not taken for
    whole. An empty ``text`` makes a transfer set.
    """
    path = Path(path)
    for name in FILES:
        (path / name).unlink(missing_ok=True)
    if text:
        _write_table(path / "text", {utt: " ".join(words) for utt, words in text.items()})
    _write_table(path / "utt2spk", utt2spk)
    _write_table(path / "spk2utt", {speaker: " ".join(utts) for speaker, utts in _invert(utt2spk).items()})
    if segments is not None:
        lines = {
            utt: f"{recording} {_seconds(start)} {_seconds(end)}" for utt, (recording, start, end) in segments.items()
        }
        _write_table(path / "segments", lines)
    _write_table(path / "wav.scp", {recording: str(file) for recording, file in wav.items()})
    return read_data_dir(path, allow_pipes=True)


def check_apart(out: str | Path, datadirs: Iterable[DataDir]) -> None:
    """Raise ``UserError`` where ``out`` is one of the directories that it is made from, and would overwrite it."""
    for datadir in datadirs:
        if Path(out).resolve() == datadir.path.resolve():
            raise UserError(f"{out}: is both an input and the output; name another folder to write")


def scan(path: str | Path, allow_pipes: bool = False) -> tuple[DataDir, list[Problem]]:
    """A data directory as far as it can be read, and every problem of its tables by file and line."""
    path = Path(path)
    if not (path / "wav.scp").is_file():
        missing = Problem(path / "wav.scp", 0, "no such file; a data directory has wav.scp, utt2spk and mostly text")
        return DataDir(path, {}, {}, {}), [missing]
    problems: list[Problem] = []
    wav = _read_table(path / "wav.scp", problems)
    problems += _pipes(path / "wav.scp", wav, allow_pipes)
    table = _read_table(path / "segments", problems) if (path / "segments").exists() else None
    segments = None if table is None else _segments(path / "segments", table, wav, problems)
    utterances = wav if table is None else table
    source = "wav.scp" if table is None else "segments"
    utt2spk = _read_table(path / "utt2spk", problems)
    problems += _unmatched(path, utterances, source, utt2spk, "utt2spk")
    text: Table = {}
    if (path / "text").exists():
        text = _read_table(path / "text", problems, values=False)
        problems += _unmatched(path, utterances, source, text, "text")
        problems += [
            Problem(path / "text", line, f"{utt!r}: the transcript is empty", warning=True)
            for utt, (line, words) in text.items()
            if not words
        ]
    if (path / "spk2utt").exists():
        problems += _spk2utt(path, _read_table(path / "spk2utt", problems), utt2spk)
    datadir = DataDir(
        path,
        {recording: file for recording, (_, file) in wav.items()},
        {utt: tuple(words.split()) for utt, (_, words) in text.items()},
        {utt: speaker for utt, (_, speaker) in utt2spk.items()},
        segments,
    )
    return datadir, problems


def _read_table(path: Path, problems: list[Problem], values: bool = True) -> Table:
    """``KEY REST`` lines; what is wrong goes to ``problems``. ``values``: each key must have something after it."""
    try:
        lines = read_lines(path)
    except UserError as error:
        problems.append(Problem(path, 0, str(error).removeprefix(f"{path}: ")))
        return {}
    table: Table = {}
    previous = ""
    if not lines:
        problems.append(Problem(path, 0, "the file is empty"))
    for number, line in enumerate(lines, 1):
        key, *rest = line.split(maxsplit=1) or [""]
        if not key:
            problems.append(Problem(path, number, "the line is empty"))
            continue
        if values and not rest:
            problems.append(Problem(path, number, f"{key!r} has nothing after it"))
        if key in table:
            problems.append(Problem(path, number, f"{key!r} is a duplicate of line {table[key][0]}"))
        elif key < previous:
            message = f"{key!r} comes after {previous!r}: not sorted; mend it with: LC_ALL=C sort -o {path} {path}"
            problems.append(Problem(path, number, message))
        table.setdefault(key, (number, rest[0].rstrip() if rest else ""))
        previous = key
    return table


def _pipes(path: Path, wav: Table, allowed: bool) -> list[Problem]:
    message = "is a pipe, which would run a shell command; refused unless --allow-pipes is given"
    pipes = [] if allowed else [item for item in wav.items() if is_pipe(item[1][1])]
    return [Problem(path, line, f"{recording!r} {message}") for recording, (line, _) in pipes]


def is_pipe(entry: str) -> bool:
    """Whether Kaldi would run a ``wav.scp`` entry as a shell command."""
    return entry.startswith("|") or entry.endswith("|")


def _segments(path: Path, table: Table, wav: Table, problems: list[Problem]) -> dict[str, tuple[str, float, float]]:
    segments = {}
    for utt, (line, rest) in table.items():
        try:
            recording, start, end = rest.split()
            segments[utt] = recording, float(start), float(end)
        except ValueError:
            problems.append(Problem(path, line, f"{utt!r}: expected RECORDING START END in seconds, found {rest!r}"))
            continue
        if recording not in wav:
            problems.append(Problem(path, line, f"{utt!r}: recording {recording!r} is not in wav.scp"))
        if not 0 <= segments[utt][1] < segments[utt][2] < math.inf:
            problems.append(Problem(path, line, f"{utt!r}: expected 0 <= start < end, found {start} to {end}"))
    return segments


def _unmatched(path: Path, utterances: Table, source: str, table: Table, name: str) -> list[Problem]:
    """Utterances without an entry in ``table``, and entries of ``table`` without audio."""
    lacking = [
        Problem(path / source, line, f"{utt!r} is not in {name}")
        for utt, (line, _) in utterances.items()
        if utt not in table
    ]
    surplus = [
        Problem(path / name, line, f"{utt!r} has no audio: it is not in {source}")
        for utt, (line, _) in table.items()
        if utt not in utterances
    ]
    return lacking + surplus


def _spk2utt(path: Path, spk2utt: Table, utt2spk: Table) -> list[Problem]:
    problems = []
    found = {speaker: set(utts.split()) for speaker, (_, utts) in spk2utt.items()}
    expected = _invert({utt: speaker for utt, (_, speaker) in utt2spk.items()})
    for speaker in sorted(found.keys() | expected.keys()):
        if different := found.get(speaker, set()) ^ set(expected.get(speaker, ())):
            line = spk2utt.get(speaker, (0, ""))[0]
            example = min(different)
            message = f"{speaker!r} disagrees with utt2spk on {len(different)} utterances, {example!r} the first"
            problems.append(Problem(path / "spk2utt", line, message))
    return problems


def _invert(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    speakers: dict[str, list[str]] = {}
    for utt, speaker in sorted(utt2spk.items()):
        speakers.setdefault(speaker, []).append(utt)
    return dict(sorted(speakers.items()))


def _seconds(time: float) -> str:
    return f"{time:.6f}".rstrip("0").rstrip(".")


def _write_table(path: Path, table: Mapping[str, str]) -> None:
    write_text(path, "".join(f"{key} {value}".rstrip() + "\n" for key, value in sorted(table.items())))
