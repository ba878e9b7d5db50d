"""Kaldi's data directory: utterances, transcripts, speakers and audio files as sorted plain text.

    wav.scp    RECORDING PATH           the audio; a relative path starts at the current folder, as in Kaldi.
                                        PATH:OFFSET is the audio at that byte of an archive of wav, flac or ogg
    text       UTTERANCE WORD WORD ...  absent in a transfer set, which has no transcripts
    utt2spk    UTTERANCE SPEAKER
    spk2utt    SPEAKER UTTERANCE ...    the inverse; always written, checked where present
    segments   UTTERANCE RECORDING START END [CHANNEL]    in seconds, END -1 for the end of the recording; channels
                                        count from 0; absent where each utterance is a recording

Ids are unique and sorted by bytes (``LC_ALL=C sort``).
"""

import dataclasses
import functools
import math
import operator
import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asr_kd.collection import uncollected
from asr_kd.config import shown
from asr_kd.errors import UserError, counted
from asr_kd.files import fields_of, read_lines, write_text
from asr_kd.storage import local

FILES = ("wav.scp", "text", "utt2spk", "spk2utt", "segments")

_AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".sph", ".aiff", ".au", ".m4a")


class Table(dict[str, str]):
    """Key -> the rest of its line. ``lines`` are the numbers of the lines, in the same order: an object for each would
    take more memory than the text."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = array("I")

    def numbered(self) -> Iterator[tuple[str, int, str]]:
        """Key, line number and rest of each line."""
        return ((key, line, rest) for (key, rest), line in zip(self.items(), self.lines, strict=True))

    def places(self) -> dict[str, int]:
        """The line number of each key."""
        return dict(zip(self, self.lines, strict=True))


class AudioSegment(NamedTuple):
    """A part of a recording, in seconds. ``end`` -1: to the end of the recording; ``channel`` None: mean of all."""

    recording: str
    start: float
    end: float
    channel: int | None = None

    @property
    def place(self) -> tuple[float | int, ...]:
        """Start, end and, if there is one, the channel."""
        return (self.start, self.end) if self.channel is None else (self.start, self.end, self.channel)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong with a data directory; ``line`` counts from 1, 0 for the file as a whole.

    Problems of the same ``kind`` in one file share their cause and remedy.
    """

    file: Path
    line: int
    message: str
    kind: str
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
    segments: dict[str, AudioSegment] | None = None

    @functools.cached_property
    def utterances(self) -> tuple[str, ...]:
        """Utterance ids, sorted."""
        return tuple(sorted(self.wav if self.segments is None else self.segments))

    @functools.cached_property
    def speakers(self) -> dict[str, list[str]]:
        """Speaker -> its utterances, both sorted."""
        return _invert(self.utt2spk)

    def words(self, utt: str) -> list[str]:
        """The transcript of ``utt``; ``UserError`` if it has none."""
        if utt not in self.text:
            raise UserError(f"{self.path / 'text'}: no transcript of {utt!r}; this step needs the words")
        return list(self.text[utt])

    def subset(self, utterances: Iterable[str]) -> "DataDir":
        """The same directory, in memory, with only some of its utterances."""
        utts = sorted(utterances)
        segments = None if self.segments is None else {utt: self.segments[utt] for utt in utts}
        recordings = utts if segments is None else sorted({segment.recording for segment in segments.values()})
        return DataDir(
            self.path,
            {recording: self.wav[recording] for recording in recordings},
            {utt: self.text[utt] for utt in utts if utt in self.text},
            {utt: self.utt2spk[utt] for utt in utts},
            segments,
        )


def read_data_dir(path: str | Path, allow_pipes: bool = False) -> DataDir:
    """Read and check a data directory, without opening the audio.

    A ``wav.scp`` entry that is a pipe would run a shell command; it is refused unless ``allow_pipes``. Raises
    ``UserError`` with the file and line of the first problem, and the number of further ones.
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
    segments: Mapping[str, AudioSegment] | None = None,
) -> DataDir:
    """Write a sorted data directory with its ``spk2utt``; return it as ``read_data_dir`` reads it back.

    ``wav.scp`` is deleted first and written last, so that a directory whose writing was interrupted is recognised as
    incomplete. An empty ``text`` makes a transfer set.
    """
    path = Path(path)
    for name in FILES:
        (path / name).unlink(missing_ok=True)
    if text:
        _write_table(path / "text", {utt: " ".join(words) for utt, words in text.items()})
    _write_table(path / "utt2spk", utt2spk)
    _write_table(path / "spk2utt", {speaker: " ".join(utts) for speaker, utts in _invert(utt2spk).items()})
    if segments is not None:
        _write_table(path / "segments", {utt: _segment_line(segment) for utt, segment in segments.items()})
    _write_table(path / "wav.scp", {recording: str(file) for recording, file in wav.items()})
    return read_data_dir(path, allow_pipes=True)


def check_apart(out: str | Path, datadirs: Iterable[DataDir]) -> None:
    """Raise ``UserError`` if ``out`` is also an input, which would be overwritten."""
    for datadir in datadirs:
        if Path(out).resolve() == datadir.path.resolve():
            raise UserError(f"{out}: is both an input and the output; choose another output folder")


@uncollected()
def scan(path: str | Path, allow_pipes: bool = False) -> tuple[DataDir, list[Problem]]:
    """A data directory, as far as it can be read, and every problem in its tables by file and line."""
    path = local(path, FILES)
    if not (path / "wav.scp").is_file():
        return DataDir(path, {}, {}, {}), [_no_directory(path)]
    problems: list[Problem] = []
    wav = _read_table(path / "wav.scp", problems)
    problems += _pipes(path / "wav.scp", wav, allow_pipes)
    table = _read_table(path / "segments", problems) if (path / "segments").exists() else None
    segments = None if table is None else _segments(path / "segments", table, wav, problems)
    utterances = wav if table is None else table
    source = "wav.scp" if table is None else "segments"
    problems += _unsafe_ids(path / source, utterances)
    utt2spk = _read_table(path / "utt2spk", problems)
    names: dict[str, str] = {}
    utt2spk.update({utt: names.setdefault(speaker, speaker) for utt, speaker in utt2spk.items()})  # one object each
    problems += _unmatched(path, utterances, source, utt2spk, "utt2spk")
    problems += [
        Problem(path / "utt2spk", line, f"{utt!r}: expected one speaker, found {shown(speaker)}", "several speakers")
        for utt, line, speaker in utt2spk.numbered()
        if len(fields_of(speaker)) > 1
    ]
    text = Table()
    if (path / "text").exists():
        text = _read_table(path / "text", problems, values=False)
        problems += _unmatched(path, utterances, source, text, "text")
        problems += [
            Problem(path / "text", line, f"{utt!r}: the transcript is empty", "transcript empty", warning=True)
            for utt, line, words in text.numbered()
            if not words
        ]
    transcripts = _transcripts(text)
    del text
    if (path / "spk2utt").exists():
        problems += _spk2utt(path, _read_table(path / "spk2utt", problems), utt2spk)
    return DataDir(path, wav, transcripts, utt2spk, segments), problems


def _transcripts(text: Table) -> dict[str, tuple[str, ...]]:
    """The words of each utterance, every distinct word once in memory; empties ``text`` meanwhile."""
    vocabulary: dict[str, str] = {}
    transcripts: dict[str, tuple[str, ...]] = {}
    for utt in list(text):
        words = text.pop(utt).split()
        transcripts[utt] = tuple(vocabulary.setdefault(word, word) for word in words)
    return transcripts


def _no_directory(path: Path) -> Problem:
    """The problem of a folder without ``wav.scp``."""
    message = "no such file; a data directory has wav.scp, utt2spk and usually text"
    audio = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _AUDIO) if path.is_dir() else []
    if audio:
        message += (
            f". {path} is a folder of audio files ({audio[0]}, ...): to decode them, name the files themselves; for a "
            "data directory, write a line UTTERANCE PATH for each into wav.scp, and UTTERANCE SPEAKER into utt2spk"
        )
    return Problem(path / "wav.scp", 0, message, "missing")


def _unsafe_ids(path: Path, ids: Table) -> list[Problem]:
    """Warnings about ids that are unsafe as file names, which many tools use them as."""
    message = "contains a slash or a control character; tools that use ids as file names may write elsewhere: rename it"
    return [
        Problem(path, line, f"{name!r} {message}", "unsafe id", warning=True)
        for name, line, _ in ids.numbered()
        if "/" in name or "\\" in name or name in (".", "..") or not name.isprintable()
    ]


def _read_table(path: Path, problems: list[Problem], values: bool = True) -> Table:
    """Parse ``KEY REST`` lines and append problems to ``problems``; with ``values``, REST must not be empty."""
    try:
        lines = read_lines(path)
    except UserError as error:
        line_number, colon, message = str(error).removeprefix(f"{path}:").partition(": ")
        if colon and line_number.isdecimal():
            problems.append(Problem(path, int(line_number), message, "unreadable"))
        else:
            problems.append(Problem(path, 0, str(error).removeprefix(f"{path}: "), "unreadable"))
        return Table()
    table, places = Table(), dict[str, int]()
    previous = highest = ""
    if not lines:
        problems.append(Problem(path, 0, "the file is empty", "empty"))
    for number, line in enumerate(lines, 1):
        key, *rest = fields_of(line, 1) or [""]
        if not key:
            problems.append(Problem(path, number, "the line is empty", "line empty"))
            continue
        if values and not rest:
            problems.append(
                Problem(path, number, f"{key!r} has nothing after it; expected two or more fields", "incomplete")
            )
        if key <= highest and key in table:  # in a sorted file each key is new
            places = places or table.places()
            problems.append(Problem(path, number, f"{key!r} is a duplicate of line {places[key]}", "duplicate"))
            previous = key
            continue
        if key < previous:
            message = f"{key!r} comes after {previous!r}: not sorted; sort it with: LC_ALL=C sort -o {path} {path}"
            problems.append(Problem(path, number, message, "not sorted"))
        table[key] = rest[0].rstrip(" \t\r\v\f") if rest else ""
        table.lines.append(number)
        if places:  # there was a duplicate, and more may come
            places[key] = number
        previous, highest = key, max(key, highest)
    return table


def _pipes(path: Path, wav: Table, allowed: bool) -> list[Problem]:
    message = "is a pipe, which would run a shell command; pass --allow-pipes to permit it"
    pipes = [] if allowed else [item for item in wav.numbered() if is_pipe(item[2])]
    return [Problem(path, line, f"{recording!r} {message}", "pipe") for recording, line, _ in pipes]


def is_pipe(entry: str) -> bool:
    """Whether a ``wav.scp`` entry is a shell command, as Kaldi defines it."""
    return entry.startswith("|") or entry.endswith("|")


def split_archive(entry: str) -> tuple[str, int]:
    """Split ``ARCHIVE:OFFSET`` into the file and the byte where its audio begins; the offset of a plain path is 0.

    An existing file whose own name ends like that is a plain path. Raises ``UserError`` for an impossible offset.
    """
    if not entry[-1:].isdecimal():  # nearly all entries, of which there may be millions
        return entry, 0
    found = re.fullmatch(r"(.+):(-?[0-9]+)", entry, re.S)
    if found is None or os.path.lexists(entry.replace("\0", "")):
        return entry, 0
    if found[2].startswith("-") or len(found[2]) > 18:
        raise UserError(f"{entry}: {found[2]} is not a byte offset; expected ARCHIVE:OFFSET, as wav-copy writes it")
    return found[1], int(found[2])


def _segments(path: Path, table: Table, wav: Table, problems: list[Problem]) -> dict[str, AudioSegment]:
    segments = {}
    names = {name: name for name in wav}
    for utt, line, rest in table.numbered():
        try:
            segment = _parse_segment(rest)
            segment = segments[utt] = segment._replace(recording=names.get(segment.recording, segment.recording))
        except ValueError:
            expected = "expected RECORDING START END in seconds, perhaps with a channel (0, 1, ...)"
            problems.append(Problem(path, line, f"{utt!r}: {expected}, found {shown(rest)}", "malformed"))
            continue
        if segment.recording not in wav:
            message = f"{utt!r}: recording {segment.recording!r} is not in wav.scp"
            problems.append(Problem(path, line, message, "recording missing"))
        if not (0 <= segment.start < math.inf and (segment.end == -1 or segment.start < segment.end < math.inf)):
            message = f"{utt!r}: expected 0 <= start < end (or end -1), found {segment.start:g} to {segment.end:g}"
            problems.append(Problem(path, line, message, "impossible times"))
    return segments


def _parse_segment(text: str) -> AudioSegment:
    """Raises ``ValueError`` for what is no segment."""
    recording, start, end, *channels = fields_of(text)
    if len(channels) > 1 or (channels and not re.fullmatch(r"[0-9]{1,4}|[AB]", channels[0])):
        raise ValueError("no channel")
    channel = None if not channels else "AB".find(channels[0]) if channels[0] in "AB" else int(channels[0])
    return AudioSegment(recording, float(start), float(end), channel)


def _segment_line(segment: AudioSegment) -> str:
    end = "-1" if segment.end == -1 else _seconds(segment.end)
    channel = "" if segment.channel is None else f" {segment.channel}"
    return f"{segment.recording} {_seconds(segment.start)} {end}{channel}"


def _unmatched(path: Path, utterances: Table, source: str, table: Table, name: str) -> list[Problem]:
    """Problems: utterances without an entry in ``table``, and entries of ``table`` without audio."""
    if len(utterances) == len(table) and all(map(operator.eq, utterances, table)):  # faster than looking each up
        return []
    lacking = [(utt, line) for utt, line, _ in utterances.numbered() if utt not in table]
    surplus = [(utt, line) for utt, line, _ in table.numbered() if utt not in utterances]
    alike = {_composed(utt) for utt, _ in lacking} & {_composed(utt) for utt, _ in surplus}

    def remark(utt: str) -> str:
        if _composed(utt) not in alike:
            return ""
        return f"; {source} and {name} have this id in two Unicode forms, which look alike: convert both to NFC"

    return [
        Problem(path / source, line, f"{utt!r} is not in {name}{remark(utt)}", f"not in {name}")
        for utt, line in lacking
    ] + [
        Problem(path / name, line, f"{utt!r} has no audio: it is not in {source}{remark(utt)}", "no audio")
        for utt, line in surplus
    ]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _spk2utt(path: Path, spk2utt: Table, utt2spk: Table) -> list[Problem]:
    problems = []
    unknown = {utt for utt, speaker in utt2spk.items() if not speaker}  # these lines are problems already
    expected, places = _invert(utt2spk), spk2utt.places()
    for speaker in sorted(spk2utt.keys() | expected.keys()):
        listed = fields_of(spk2utt.get(speaker, ""))
        found = set(listed)
        if len(listed) > len(found):
            again = min(utt for utt, times in Counter(listed).items() if times > 1)
            message = f"{speaker!r} has {again!r} twice; remove one"
            problems.append(Problem(path / "spk2utt", places.get(speaker, 0), message, "utterance twice"))
        if different := (found ^ set(expected.get(speaker, ()))) - unknown:
            line = places.get(speaker, 0)
            example = min(different)
            message = (
                f"{speaker!r} disagrees with utt2spk on {counted(len(different), 'utterance')}, first {example!r};"
                " delete spk2utt, or make it again from utt2spk"
            )
            problems.append(Problem(path / "spk2utt", line, message, "speakers disagree"))
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
