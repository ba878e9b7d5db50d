"""Read ARPA files: n-grams become arrays as the lines come, so memory is that of the arrays."""

import codecs
import math
import re
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr_kd.compressed import open_compressed
from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.graph.arpa import BEGIN, END, LOG_ZERO, UNKNOWN, Arpa, Grams
from asr_kd.limits import LINE_BYTES, NGRAM_ORDER

_COUNT = re.compile(rb"ngram\s+([0-9]{1,9})\s*=\s*([0-9]{1,18})")
_FIELDS = re.compile(rb"[^ \t\r\n]+")
_BLOCK = 1 << 22  # bytes read at once
_ROUNDING = 1e-5  # a log10 probability this far above 0 is a rounded 0, as some tools write


def read_arpa(path: str | Path) -> Arpa:
    """Read an ARPA file: plain, or compressed by gzip or bzip2, whatever its name; UTF-8.

    Fields end at spaces and tabs only, so a word may hold any other character. A log10 probability of ``-inf`` is
    that of zero, -99. Raises ``UserError`` with the line number for whatever is malformed: counts that differ from the
    header's, a line with too few or too many fields, an invalid number, a probability above one, a word that is not a
    unigram, an n-gram twice or without its history, a model without ``</s>`` or without any word.
    """
    with open_compressed(path) as stream:
        lines = _Lines(path, stream)
        counts, empty = _read_counts(lines)
        index: dict[bytes, int] = {}
        words: list[str] = []
        grams = []
        for order, count in enumerate(counts, 1):
            section = _Section(order, count)
            _find_title(lines, section)
            grams.append(_read_section(lines, section, index))
            if order == 1:
                words = _vocabulary(path, index)
        for order in range(len(counts) + 1, len(counts) + empty + 1):  # SRILM writes their titles
            if lines.skip_blank() and lines.block[lines.at].strip() == _Section(order, 0).title.encode():
                lines.use(1)
        if not lines.skip_blank_to(b"\\end\\"):
            raise UserError(f"{path}: no \\end\\ after the {len(counts)}-grams; the file is truncated")
        if lines.skip_blank():  # to the checksum of a compressed file
            found = shown(lines.block[lines.at].decode(errors="replace"))
            raise UserError(f"{path}:{lines.number}: {found} after \\end\\; expected the end of the file: split it")
    _check_words(path, words)
    try:
        return Arpa(tuple(words), tuple(grams))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _Section(NamedTuple):
    """The n-grams of one order, and how many of them the header promises."""

    order: int
    promised: int

    @property
    def title(self) -> str:
        return f"\\{self.order}-grams:"


class _Lines:
    """A file in blocks of lines; ``block[at]`` is the next line, and ``number`` its number in the file."""

    def __init__(self, path: str | Path, stream: BufferedReader) -> None:
        self.path, self.stream = path, stream
        self.block: list[bytes] = []
        self.at, self.number = 0, 1
        self.rest = stream.read(3).removeprefix(codecs.BOM_UTF8)

    def fill(self) -> bool:
        """Read the next block when all lines of this one are used; False at the end of the file."""
        while self.at == len(self.block):
            content = self.stream.read(_BLOCK)
            lines = (self.rest + content).split(b"\n")
            self.rest = lines.pop()
            if len(self.rest) > LINE_BYTES:
                raise UserError(f"{self.path}:{self.number + len(lines)}: a line of more than {LINE_BYTES:,} bytes")
            if not content:
                if not self.rest:
                    return False
                lines, self.rest = [self.rest], b""
            self.block, self.at = lines, 0
        return True

    def use(self, count: int) -> None:
        """Advance by ``count`` lines."""
        self.at += count
        self.number += count

    def skip_blank(self) -> bool:
        """Skip empty lines; whether another line follows."""
        while self.fill():
            if self.block[self.at].strip():
                return True
            self.use(1)
        return False

    def skip_blank_to(self, line: bytes) -> bool:
        """Skip empty lines and then ``line``; False at the end of the file. Any other line is a ``UserError``."""
        if not self.skip_blank():
            return False
        if (found := self.block[self.at].strip()) != line:
            text = shown(found.decode(errors="replace"))
            raise UserError(f"{self.path}:{self.number}: expected {line.decode()}, found {text}")
        self.use(1)
        return True

    def skip_to(self, line: bytes) -> bool:
        """Skip past the next line that equals ``line``; False if there is none."""
        while self.fill():
            found = next((n for n in range(self.at, len(self.block)) if self.block[n].strip() == line), None)
            self.use((len(self.block) if found is None else found + 1) - self.at)
            if found is not None:
                return True
        return False


def _read_counts(lines: _Lines) -> tuple[list[int], int]:
    """The header's number of n-grams of each order, and how many further orders it gives none.

    The next line is the first section's title, or the last line.
    """
    if not lines.skip_to(b"\\data\\"):
        raise UserError(f"{lines.path}: no \\data\\ line; this is not an ARPA language model")
    counts: list[int] = []
    while lines.fill() and not (line := lines.block[lines.at].strip()).startswith(b"\\"):
        if line:
            match = _COUNT.fullmatch(line)
            if not match or int(match[1]) != len(counts) + 1:
                found = shown(line.decode(errors="replace"))
                raise UserError(f"{lines.path}:{lines.number}: expected 'ngram {len(counts) + 1}=COUNT', found {found}")
            counts.append(int(match[2]))
        lines.use(1)
    orders = len(counts)
    while counts and counts[-1] == 0:
        counts.pop()
    if not counts or 0 in counts:
        raise UserError(f"{lines.path}: the language model is empty: its header counts {counts} n-grams")
    if len(counts) > NGRAM_ORDER:
        raise UserError(f"{lines.path}: n-grams of order {len(counts)}; at most order {NGRAM_ORDER} is supported")
    return counts, orders - len(counts)


def _find_title(lines: _Lines, section: _Section) -> None:
    """Skip to the first n-gram of a section."""
    if not lines.skip_blank_to(section.title.encode()):
        raise UserError(
            f"{lines.path}: no {section.title} section; its header promises {section.promised} n-grams of this order"
        )
    lines.skip_blank()


def _read_section(lines: _Lines, section: _Section, index: dict[bytes, int]) -> Grams:
    """The lines of a section as sorted arrays; unigrams add their words to ``index``."""
    first, order = lines.number, section.order
    parts: list[Grams] = []
    found, ended = 0, False
    while not ended and lines.fill():
        fields = _split(lines.block[lines.at :] if lines.at else lines.block)
        widths = np.fromiter(map(len, fields), np.int64, len(fields))
        stops = np.flatnonzero((widths <= order) | (widths > order + 2))
        end = int(stops[0]) if len(stops) else len(fields)
        ended = end < len(fields)
        if ended and fields[end] and not fields[end][0].startswith(b"\\"):
            raise UserError(
                f"{lines.path}:{lines.number + end}: {_text(fields[end])}: expected a log10 probability,"
                f" {order} word(s) and at most a back-off weight"
            )
        found += end
        if found > section.promised or (ended and found != section.promised):
            raise UserError(
                f"{lines.path}:{lines.number + end}: {section.title} holds {'at least ' * (not ended)}{found} n-grams;"
                f" the header promises {section.promised}"
            )
        parts.append(_parse(lines, fields[:end], order, index))
        lines.use(end)
    if found != section.promised:
        raise UserError(
            f"{lines.path}:{lines.number}: {section.title} holds {found} n-grams; the header promises"
            f" {section.promised}"
        )
    return _sorted(lines.path, first, parts, index)


def _split(lines: Sequence[bytes]) -> list[list[bytes]]:
    """The fields of each line, separated by spaces and tabs; ``bytes.split`` would also split at \\v and \\f."""
    return [_FIELDS.findall(line) if b"\v" in line or b"\f" in line else line.split() for line in lines]


def _parse(lines: _Lines, fields: list[list[bytes]], order: int, index: dict[bytes, int]) -> Grams:
    """The n-grams of some lines; the first is the next line of ``lines``."""
    words = np.empty((len(fields), order), np.int32)
    if order == 1:
        words[:, 0] = np.fromiter((index.setdefault(field[1], len(index)) for field in fields), np.int32, len(fields))
    else:
        for column in range(order):
            row = np.fromiter((index.get(field[column + 1], -1) for field in fields), np.int32, len(fields))
            if (row < 0).any():
                at = int(np.argmin(row))
                word = _text([fields[at][column + 1]])
                raise UserError(f"{lines.path}:{lines.number + at}: {word} is not among the 1-grams")
            words[:, column] = row
    log_prob = _floats(lines, [field[0] for field in fields])
    backoff = _floats(lines, [field[order + 1] if len(field) > order + 1 else b"0" for field in fields])
    if (log_prob > 0).any():
        at = int(np.argmax(log_prob))
        if log_prob[at] > _ROUNDING:
            raise UserError(f"{lines.path}:{lines.number + at}: the log10 probability {log_prob[at]:g} is above 0")
        log_prob = np.minimum(log_prob, 0.0)
    return Grams(words, log_prob, backoff)


def _sorted(path: str | Path, first: int, parts: list[Grams], index: dict[bytes, int]) -> Grams:
    """All n-grams of a section, whose first line is ``first``, sorted by their words."""
    words = np.concatenate([part.words for part in parts])
    order_of = np.lexsort(words.T[::-1])
    words = words[order_of]
    same = (words[1:] == words[:-1]).all(axis=1)
    if same.any():
        at = int(order_of[1:][same].min())
        names = list(index)
        gram = _text([names[word] for word in np.concatenate([part.words for part in parts])[at]])
        raise UserError(f"{path}:{first + at}: the {words.shape[1]}-gram {gram} occurs twice")
    log_prob, backoff = (
        np.concatenate([getattr(part, name) for part in parts])[order_of] for name in ("log_prob", "backoff")
    )
    return Grams(words, log_prob, backoff)


def _floats(lines: _Lines, values: list[bytes]) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except ValueError:
        array = np.array([_float_or_nan(value) for value in values])
    for at in np.flatnonzero(np.isneginf(array)).tolist():
        array[at] = LOG_ZERO if values[at].lower() in (b"-inf", b"-infinity") else math.nan  # a number that overflows
    if b"_" in b"".join(values):  # Python reads 1_0 as 10
        array[[b"_" in value for value in values]] = math.nan
    if not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise UserError(f"{lines.path}:{lines.number + at}: {_text([values[at]])} is not a finite number")
    return array


def _float_or_nan(value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _vocabulary(path: str | Path, index: dict[bytes, int]) -> list[str]:
    words = []
    for word in index:
        try:
            words.append(word.decode())
        except UnicodeDecodeError:
            raise UserError(
                f"{path}: the word {word!r} is not UTF-8; convert the file to UTF-8, for example with iconv"
            ) from None
    return words


def _check_words(path: str | Path, words: list[str]) -> None:
    if END not in words:
        other = next((word for word in words if word.lower() == END), None)
        hint = f"; it has {other!r}, which must be written {END}" if other else ""
        raise UserError(f"{path}: the language model has no {END} among its 1-grams{hint}")
    if not set(words) - {BEGIN, END, UNKNOWN}:
        raise UserError(f"{path}: the language model has no words among its 1-grams")


def _text(fields: Sequence[bytes]) -> str:
    return shown(b" ".join(fields).decode(errors="replace"))
