"""A spreadsheet of transcripts (CSV or TSV) and audio files -> data directories."""

import csv
import dataclasses
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from asr_kd.config import shown
from asr_kd.corpus.datadir import DataDir, write_data_dir
from asr_kd.errors import UserError
from asr_kd.files import read_text

Case = Literal["lower", "upper", "keep"]
NEEDED, OPTIONAL = ("path", "text"), ("speaker", "set")
_PUNCTUATION = re.compile(r"(?<!\w)['’-]|['’-](?!\w)|[^\w\s'’-]")  # not an apostrophe or hyphen inside a word


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a spreadsheet: an audio file and what is said in it; ``set`` may be empty."""

    place: str
    audio: Path
    words: tuple[str, ...]
    speaker: str
    set: str


def read_spreadsheet(
    path: str | Path, audio: str | Path, columns: Mapping[str, str], case: Case = "lower", punctuation: bool = False
) -> list[Line]:
    """The lines of a spreadsheet whose first line names the columns, separated by commas, semicolons or tabs.

    ``columns``: the names of the columns ``path``, ``text``, ``speaker`` and ``set`` where they are called otherwise.
    Paths are relative to ``audio``. Words are in one ``case`` and without punctuation, unless it is kept. Without the
    column ``speaker`` each file is a speaker of its own. Raises ``UserError`` with the line for a missing column,
    file or text.
    """
    rows, names = _rows(path), _names(columns)
    found = rows.fieldnames or ()
    for key in (*NEEDED, *columns):
        if names[key] not in found:
            raise UserError(
                f"{path}: has no column {names[key]!r}; its columns are {', '.join(map(repr, found))}. Name it"
                f" with --column {key}=NAME"
            )
    try:
        return [
            _line(f"{path}:{rows.line_num}", row, names, Path(audio), (case, punctuation))
            for row in rows
            if any(row.values())
        ]
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num + 1}: not a line of a spreadsheet: {error}") from None


def unused_columns(path: str | Path, columns: Mapping[str, str]) -> list[str]:
    """The names of the columns that ``read_spreadsheet`` does not read."""
    used = _names(columns).values()
    return [name for name in _rows(path).fieldnames or () if name and name not in used]


def _rows(path: str | Path) -> "csv.DictReader[str]":
    text = read_text(path)
    first = text.partition("\n")[0]
    separator = max("\t;,", key=first.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
    return rows


def _names(columns: Mapping[str, str]) -> dict[str, str]:
    return {key: columns.get(key, key) for key in (*NEEDED, *OPTIONAL)}


def _line(
    place: str, row: Mapping[str, str | None], names: Mapping[str, str], audio: Path, how: tuple[Case, bool]
) -> Line:
    values = {key: (row.get(name) or "").strip() for key, name in names.items()}
    if not values["path"] or not values["text"]:
        raise UserError(f"{place}: {names['path'] if not values['path'] else names['text']} is empty")
    file = audio / values["path"]
    if not file.is_file():
        raise UserError(f"{place}: {file}: no such file; --audio is the folder that the paths are relative to")
    words = tuple(normalised(values["text"], *how).split())
    if not words:
        raise UserError(f"{place}: {shown(values['text'])} has no words")
    return Line(place, file, words, _identifier(values["speaker"] or file.stem), values["set"])


def normalised(text: str, case: Case, punctuation: bool) -> str:
    """``text`` in one case, without punctuation unless it is kept; apostrophes and hyphens inside words remain."""
    text = unicodedata.normalize("NFC", text)
    if not punctuation:
        text = _PUNCTUATION.sub(" ", text).replace("’", "'")
    return text.lower() if case == "lower" else text.upper() if case == "upper" else text


def write_spreadsheet(lines: list[Line], out: str | Path) -> dict[str, DataDir]:
    """Write a data directory ``out/SET`` for each set; without sets, ``out`` itself.

    An utterance's id is ``SPEAKER-FILE``. Raises ``UserError`` for two lines with one id, and if only some have a set.
    """
    sets = {line.set for line in lines}
    if "" in sets and len(sets) > 1:
        bare = next(line for line in lines if not line.set)
        raise UserError(f"{bare.place}: has no set, but other lines have one")
    members = dict(_by_set(lines))
    return {name: _write(Path(out) / _identifier(name), own) for name, own in members.items()}


def _by_set(lines: list[Line]) -> Iterator[tuple[str, dict[str, Line]]]:
    for name in dict.fromkeys(line.set for line in lines):
        members: dict[str, Line] = {}
        for line in lines:
            if line.set == name:
                utt = f"{line.speaker}-{_identifier(line.audio.stem)}"
                if utt in members:
                    raise UserError(
                        f"{line.place}: {utt} is the id of {members[utt].place} too; rename one of the files"
                    )
                members[utt] = line
        yield name, members


def _write(out: Path, lines: Mapping[str, Line]) -> DataDir:
    return write_data_dir(
        out,
        wav={utt: line.audio.resolve() for utt, line in lines.items()},
        text={utt: line.words for utt, line in lines.items()},
        utt2spk={utt: line.speaker for utt, line in lines.items()},
    )


def _identifier(name: str) -> str:
    """A name without spaces, for an id or a folder."""
    return re.sub(r"[\s/]+", "_", name)
