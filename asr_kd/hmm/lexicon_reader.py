"""Read lexicons: plain ones, CMUdict's, and Kaldi's and MFA's with probabilities before the phones."""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import lines_of, read_lines, read_text
from asr_kd.hmm.lexicon import (
    PLAIN,
    SILENCES,
    WITH_PROBABILITIES,
    WITH_SILENCES,
    Lexicon,
    SilenceProbabilities,
    Weights,
)
from asr_kd.storage import local

LexiconFormat = Literal["auto", "plain", "lexiconp", "silprob", "mfa"]
FORMATS: tuple[LexiconFormat, ...] = get_args(LexiconFormat)

_RESERVED_WORDS = ("<eps>", "<s>", "</s>")
_DISAMBIGUATION = re.compile(r"#[0-9]+")
_VARIANT = re.compile(r"\([0-9]+\)$")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_FOREIGN_NUMBER = re.compile(r"[0-9]*,[0-9]+|[0-9]+([.,][0-9]+)?%")  # 0,5 and 50%: no phones
_ODD_SPACES = (
    "\x1c\x1d\x1e\x1f\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)

_COLUMNS: dict[str, int | None] = {"plain": 0, "lexiconp": 1, "silprob": 4, "mfa": None, "auto": None}
_OPTION = "--lexicon-format plain, lexiconp, silprob or mfa says which (see asr-kd hmm train --help)"


_Row = tuple[int, list[str]]  # the number of a line, and its fields without a comment: the word, then the others


def read_lexicon(path: str | Path, form: LexiconFormat = "auto") -> Lexicon:
    """Read a lexicon; ``form`` says what comes between a word and its phones.

    - ``plain``: nothing. ``WORD(2)`` is a further pronunciation of ``WORD``, as in CMUdict.
    - ``lexiconp``: a pronunciation probability, as in Kaldi's ``lexiconp.txt``.
    - ``silprob``: four columns, as in Kaldi's ``lexiconp_silprob.txt``; see ``Weights``. If the same
      folder has a ``silprob.txt``, that is read too.
    - ``mfa``: on each line none, one or four of these, as in dictionaries of the Montreal Forced Aligner.
    - ``auto``: one of the first three, which all lines must have in common.

    Lines that begin with ``;;;`` or a lone ``#`` are comments, and so is what follows a lone ``#`` after the phones.
    Raises ``UserError`` with the line number for a word without phones, a reserved word, an invalid
    probability, and a column that only some lines have; and for a file without entries.
    """
    text = read_text(path)
    _refuse_odd_spaces(path, text)
    columns = _COLUMNS[form]
    if form == "auto":
        columns = _detect(path, list(_rows(path, text))) if _may_have_numbers(path, text) else 0
    if columns == 0:
        return _plain(path, _rows(path, text))
    lexicon = _weighted(path, _rows(path, text), columns)
    silences = Path(path).parent / SILENCES
    if lexicon.has_word_silences and silences.is_file():
        return dataclasses.replace(lexicon, silences=read_silences(silences))
    return lexicon


def load_lexicon(folder: str | Path) -> Lexicon:
    """The lexicon of a model folder, as ``save_lexicon`` wrote it, or a ``lexicon.txt`` from elsewhere."""
    folder = local(folder)
    forms: dict[str, LexiconFormat] = {WITH_SILENCES: "silprob", WITH_PROBABILITIES: "lexiconp", PLAIN: "plain"}
    name = next((name for name in forms if (folder / name).is_file()), PLAIN)
    lexicon = read_lexicon(folder / name, forms[name])
    silences = folder / SILENCES
    return dataclasses.replace(lexicon, silences=read_silences(silences)) if silences.is_file() else lexicon


def read_silences(path: str | Path) -> SilenceProbabilities:
    """Read Kaldi's ``silprob.txt``; ``UserError`` with the line number for anything else."""
    names = {"<s>": "begin", "</s>_s": "end_after_silence", "</s>_n": "end_after_word", "overall": "overall"}
    values: dict[str, float] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or fields[0] not in names or names[fields[0]] in values:
            raise UserError(f"{path}:{number}: {line!r}: expected each of {', '.join(names)} once, with a number")
        probability = not fields[0].startswith("</s>")
        values[names[fields[0]]] = _positive(f"{path}:{number}", fields[1], 1.0 if probability else None, fields[0])
    if missing := sorted(set(names.values()) - set(values)):
        raise UserError(f"{path}: lacks {', '.join(n for n in names if names[n] in missing)}; see Kaldi's silprob.txt")
    return SilenceProbabilities(**values)


def _refuse_odd_spaces(path: str | Path, text: str) -> None:
    if odd := next((space for space in _ODD_SPACES if space in text), None):
        number = text[: text.index(odd)].count("\n") + 1
        raise UserError(
            f"{path}:{number}: has the character U+{ord(odd):04X} ({unicodedata.name(odd, 'a control character')}),"
            " which only some programs treat as a space; replace it with a space, or with _ inside a word"
        )


def _may_have_numbers(path: str | Path, text: str) -> bool:
    """A quick look that tells most lexicons without probabilities from those that may have some."""
    _, fields = next(_rows(path, text), (0, []))
    if "".join(fields[1:2]).isdecimal() or "e-" in text or "E-" in text:
        return True
    return "." in text and re.search(r"[ \t][-+0-9]*\.[0-9]|[0-9]\.[ \t]", text) is not None


def _rows(path: str | Path, text: str) -> Iterator[_Row]:
    """The lines that are no comments."""
    with_hash = "#" in text
    with_reserved = "<" in text
    for number, line in enumerate(lines_of(text, path), 1):
        fields = line.split()
        if not fields or fields[0] == "#" or line.startswith(";;;"):
            continue
        if with_hash and "#" in line:
            fields[1:] = _without_comment(path, number, fields[0], fields[1:])
        if len(fields) == 1:
            raise UserError(f"{path}:{number}: {shown(fields[0])} has no phones; expected WORD PHONE PHONE ...")
        if with_reserved and (fields[0] in _RESERVED_WORDS or "<eps>" in fields):
            found = fields[0] if fields[0] in _RESERVED_WORDS else "<eps>"
            raise UserError(f"{path}:{number}: {found} is reserved for the graph; delete this line")
        yield number, fields


def _without_comment(path: str | Path, number: int, word: str, phones: list[str]) -> list[str]:
    """The fields before a lone ``#``; ``UserError`` for a disambiguation symbol and for what may be a comment."""
    if "#" in phones[1:]:
        phones = phones[: phones.index("#", 1)]
    if _DISAMBIGUATION.fullmatch(word):
        raise UserError(f"{path}:{number}: the word {word!r} is reserved for disambiguation symbols; rename it")
    if marked := next((phone for phone in phones if phone.startswith("#")), None):
        raise UserError(
            f"{path}:{number}: {word!r} has the phone {marked!r}; #0, #1, ... are reserved for disambiguation symbols,"
            " and a comment after the phones begins with a # that has a space on either side"
        )
    return phones


def _is_number(field: str) -> bool:
    return _NUMBER.fullmatch(field) is not None


def _is_decimal(field: str) -> bool:
    """Whether ``field`` is a number and no phone: X-SAMPA has the phones 2 and 9, but none is called 0.99."""
    return not field.isdigit() and _is_number(field)


def _detect(path: str | Path, rows: Sequence[_Row]) -> int:
    """How many columns of probabilities all lines have; ``UserError`` where that is not clear."""
    weighted = [row for row in rows if any(map(_is_decimal, row[1][1:]))]
    if not weighted:
        if not rows or not _is_column(rows):
            return 0
        if Path(path).name.endswith(WITH_PROBABILITIES) and all(fields[1] in ("0", "1") for _, fields in rows):
            return 1
        raise UserError(f"{path}:{rows[0][0]}: is {rows[0][1][1]!r} a probability or a phone? {_OPTION}")
    columns = 4 if any(_is_decimal(field) for _, fields in weighted for field in fields[2:5]) else 1
    for line, fields in rows:
        leading, rest = fields[1 : 1 + columns], fields[1 + columns :]
        if len(leading) < columns or not all(map(_is_number, leading)) or any(map(_is_decimal, rest)):
            raise UserError(
                f"{path}:{line}: {shown(' '.join(fields))}: expected {columns} number(s) after the word, then phones,"
                f" since line {weighted[0][0]} has numbers; {_OPTION}"
            )
    return columns


def _is_column(rows: Sequence[_Row]) -> bool:
    """Whether each line begins with a whole number that may be a probability, or a percentage, and not a phone."""
    if not all(len(fields) > 2 and fields[1].isdecimal() for _, fields in rows):
        return False
    if all(fields[1] in ("0", "1") for _, fields in rows):
        return True
    numbers_elsewhere = any(field.isdecimal() for _, fields in rows for field in fields[2:])
    return any(len(fields[1]) > 1 for _, fields in rows) and not numbers_elsewhere


def _plain(path: str | Path, rows: Iterable[_Row]) -> Lexicon:
    entries: dict[str, list[tuple[str, ...]]] = {}
    for _, fields in rows:
        pron = tuple(fields[1:])
        prons = entries.setdefault(_base(fields[0]), [])
        if pron not in prons:
            prons.append(pron)
    _refuse_empty(path, entries)
    for phone in {phone for prons in entries.values() for pron in prons for phone in pron}:
        if _FOREIGN_NUMBER.fullmatch(phone):
            raise UserError(f"{path}: the phone {phone!r} is a number; write probabilities like 0.5. {_OPTION}")
    return Lexicon({word: tuple(prons) for word, prons in sorted(entries.items())})


def _weighted(path: str | Path, rows: Iterable[_Row], columns: int | None) -> Lexicon:
    """The lexicon of ``rows`` that begin with ``columns`` numbers (None: each with as many as it has)."""
    entries: dict[str, dict[tuple[str, ...], Weights]] = {}
    for line, (word, *fields) in rows:
        count = _own_columns(f"{path}:{line}: {word!r}", fields) if columns is None else columns
        pron = tuple(fields[count:])
        if not pron:
            raise UserError(f"{path}:{line}: {word!r} has no phones after its {count} column(s) of numbers")
        weights = _weights(f"{path}:{line}", word, fields[:count])
        if entries.setdefault(_base(word), {}).setdefault(pron, weights) != weights:
            raise UserError(f"{path}:{line}: {word!r} has this pronunciation twice, with different probabilities")
    _refuse_empty(path, entries)
    words = sorted(entries)
    return Lexicon(
        {word: tuple(entries[word]) for word in words}, {word: tuple(entries[word].values()) for word in words}
    )


def _refuse_empty(path: str | Path, entries: object) -> None:
    if not entries:
        raise UserError(f"{path}: the lexicon is empty; expected lines of WORD PHONE PHONE ...")


def _own_columns(where: str, fields: Sequence[str]) -> int:
    """How many numbers of MFA's columns a line has."""
    count = next((n for n, field in enumerate(fields) if not _is_decimal(field)), len(fields))
    if count not in (0, 1, 4):
        raise UserError(
            f"{where} is followed by {count} numbers; expected none, a pronunciation probability, or that and a silence"
            " probability and two corrections"
        )
    return count


def _weights(where: str, word: str, columns: Sequence[str]) -> Weights:
    if not columns:
        return Weights()
    probability = _positive(where, columns[0], 1.0, f"the pronunciation probability of {word!r}")
    if len(columns) == 1 or (all(map(_is_number, columns)) and not any(map(float, columns[1:]))):
        return Weights(probability)  # MFA writes 0.0 0.0 0.0 where it has not estimated the silences
    after = _positive(where, columns[1], 1.0, f"the silence probability of {word!r}")
    after_silence = _positive(where, columns[2], None, f"the correction of {word!r} after a silence")
    return Weights(
        probability,
        after,
        after_silence,
        _positive(where, columns[3], None, f"the correction of {word!r} after a word"),
    )


def _positive(where: str, field: str, most: float | None, what: str) -> float:
    """The number of a field, above 0 and at most ``most``."""
    value = float(field) if _is_number(field) else 0.0
    if not 0 < value <= (most or 1e6):
        expected = f"a number above 0 and at most {most:g}" if most else "a number above 0"
        raise UserError(f"{where}: {what} is {field[:20]}; expected {expected}")
    return value


def _base(word: str) -> str:
    """``WORD`` of ``WORD(2)``."""
    return (_VARIANT.sub("", word) or word) if word[-1] == ")" else word
