"""Back-off n-gram language models in the ARPA format."""

import dataclasses
import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import atomic_write

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LOG_ZERO = -99.0  # how the format writes the log10 of zero

_COUNT = re.compile(r"ngram\s+(\d+)\s*=\s*(\d+)\s*$")


@dataclasses.dataclass(frozen=True)
class Grams:
    """The n-grams of one order: ``words`` ``[n, order]`` int32, and float64 ``log_prob`` and ``backoff`` ``[n]``.

    Both are log10, as in the file; the back-off weight is 0 where the file has none.
    """

    words: np.ndarray
    log_prob: np.ndarray
    backoff: np.ndarray


@dataclasses.dataclass(frozen=True)
class Arpa:
    """A language model: ``vocabulary`` (the unigrams' words, in order) and ``grams`` of order 1, 2, ...

    A word's number is its place in ``vocabulary``. The n-grams of each order are sorted by their numbers, so that the
    unigram of word ``w`` is row ``w``; every n-gram's first n - 1 words are an n-gram too.
    """

    vocabulary: tuple[str, ...]
    grams: tuple[Grams, ...]
    _keys: list[np.ndarray] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = [np.arange(len(self.vocabulary), dtype=np.int64)]  # history's row and last word as one sorted number
        object.__setattr__(self, "_keys", keys)
        for order, grams in enumerate(self.grams[1:], 2):
            history = self.find(grams.words[:, :-1])
            if (history < 0).any():
                words = [self.vocabulary[word] for word in grams.words[np.argmin(history)]]
                raise UserError(
                    f"the {order}-gram {' '.join(words)!r} has no history {' '.join(words[:-1])!r} "
                    f"among the {order - 1}-grams"
                )
            keys.append(history * len(self.vocabulary) + grams.words[:, -1])

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.grams)

    def find(self, words: np.ndarray) -> np.ndarray:
        """The row of each n-gram ``words`` ``[n, k]`` among the n-grams of order k; -1 where there is none."""
        row = words[:, 0].astype(np.int64)
        for k in range(1, words.shape[1]):
            keys = self._keys[k]
            key = row * len(self.vocabulary) + words[:, k]
            place = np.minimum(np.searchsorted(keys, key), max(len(keys) - 1, 0))
            found = (row >= 0) & (words[:, k] >= 0) & (keys[place] == key if len(keys) else False)
            row = np.where(found, place, -1)
        return row


def read_arpa(path: str | Path) -> Arpa:
    """Read an ARPA file, gzip-compressed where its name ends in ``.gz``.

    Raises ``UserError`` with the line number for whatever is malformed: counts that differ from the header's, a line
    with too few or too many fields, a number that is none, a probability above one, a word that is no unigram, an
    n-gram twice or without its history, a model without ``</s>`` or without any word.
    """
    lines = _read_lines(path)
    at, counts = _read_counts(path, lines)
    index: dict[str, int] = {}
    grams: list[Grams] = []
    for order, count in enumerate(counts, 1):
        at, first = _find_section(path, lines, at, f"\\{order}-grams:", count)
        fields = [line.split() for line in lines[first:at]]
        numbers = range(first + 1, at + 1)
        if order == 1:
            index = {field[1]: row for row, field in enumerate(fields) if len(field) > 1}
        grams.append(_parse(path, fields, numbers, order, order == len(counts), index))
    if not any(line.strip() == "\\end\\" for line in lines[at:]):
        raise UserError(f"{path}: no \\end\\ after the {len(counts)}-grams; the file is truncated")
    words = tuple(index)
    if END not in index or len(set(words) - {BEGIN, END, UNKNOWN}) == 0:
        raise UserError(f"{path}: the language model has no {END if END not in index else 'words'} among its 1-grams")
    try:
        return Arpa(words, tuple(grams))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_arpa(arpa: Arpa, path: str | Path) -> None:
    """Write an ARPA file atomically, gzip-compressed where its name ends in ``.gz``; same model, same bytes."""
    with atomic_write(path, "wb") as stream:
        compressed = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if str(path).endswith(".gz") else None
        out = compressed or stream
        counts = "".join(f"ngram {order}={len(grams.words)}\n" for order, grams in enumerate(arpa.grams, 1))
        out.write(f"\\data\\\n{counts}".encode())
        vocabulary = arpa.vocabulary
        for order, grams in enumerate(arpa.grams, 1):
            out.write(f"\n\\{order}-grams:\n".encode())
            rows = zip(grams.words.tolist(), grams.log_prob.tolist(), grams.backoff.tolist(), strict=True)
            for words, log_prob, backoff in rows:
                tail = f"\t{backoff:.7g}" if order < arpa.order else ""
                out.write(f"{log_prob:.7g}\t{' '.join(vocabulary[word] for word in words)}{tail}\n".encode())
        out.write(b"\n\\end\\\n")
        if compressed:
            compressed.close()


def _read_lines(path: str | Path) -> list[str]:
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected an ARPA language model") from None
    except (zlib.error, EOFError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable ARPA file (plain or gzip, UTF-8): {error}") from None


def _read_counts(path: str | Path, lines: list[str]) -> tuple[int, list[int]]:
    """The line after the header, and the header's number of n-grams of each order."""
    start = next((at for at, line in enumerate(lines) if line.strip() == "\\data\\"), None)
    if start is None:
        raise UserError(f"{path}: no \\data\\ line; this is not an ARPA language model")
    counts: list[int] = []
    for at in range(start + 1, len(lines)):
        line = lines[at].strip()
        if line.startswith("\\"):
            break
        if not line:
            continue
        match = _COUNT.match(line)
        if not match or int(match[1]) != len(counts) + 1:
            raise UserError(f"{path}:{at + 1}: expected 'ngram {len(counts) + 1}=COUNT', found {line!r}")
        counts.append(int(match[2]))
    while counts and counts[-1] == 0:
        counts.pop()
    if not counts or 0 in counts:
        raise UserError(f"{path}: the language model is empty: its header counts {counts} n-grams")
    return start + 1, counts


def _find_section(path: str | Path, lines: list[str], at: int, title: str, count: int) -> tuple[int, int]:
    """The end and the beginning (lines) of the section ``title``, which must hold ``count`` n-grams."""
    first = next((row + 1 for row in range(at, len(lines)) if lines[row].strip() == title), None)
    if first is None:
        raise UserError(f"{path}: no {title} section; its header promises {count} n-grams of this order")
    while first < len(lines) and not lines[first].strip():
        first += 1
    end = first
    while end < len(lines) and (line := lines[end].strip()) and not line.startswith("\\"):
        end += 1
    if end - first != count:
        raise UserError(f"{path}:{end}: {title} holds {end - first} n-grams; the header promises {count}")
    return end, first


def _parse(
    path: str | Path, fields: list[list[str]], numbers: range, order: int, last: bool, index: dict[str, int]
) -> Grams:
    """The fields of a section's lines as sorted arrays."""
    widths = np.fromiter(map(len, fields), np.int64, len(fields))
    bad = np.flatnonzero((widths != order + 1) & (widths != order + 2))
    if len(bad):
        raise UserError(
            f"{path}:{numbers[bad[0]]}: {' '.join(fields[bad[0]])!r}: expected a log10 probability, {order} word(s) "
            "and at most a back-off weight"
        )
    words = np.empty((len(fields), order), np.int32)
    for column in range(order):
        row = np.fromiter((index.get(field[column + 1], -1) for field in fields), np.int32, len(fields))
        if (row < 0).any():
            at = int(np.argmin(row))
            raise UserError(f"{path}:{numbers[at]}: {fields[at][column + 1]!r} is not among the 1-grams")
        words[:, column] = row
    log_prob = _floats(path, [field[0] for field in fields], numbers)
    backoff = _floats(path, [field[order + 1] if len(field) > order + 1 else "0" for field in fields], numbers)
    if (log_prob > 0).any():
        at = int(np.argmax(log_prob))
        raise UserError(f"{path}:{numbers[at]}: the log10 probability {log_prob[at]:g} is above 0")
    order_of = np.lexsort(words.T[::-1])
    same = (words[order_of[1:]] == words[order_of[:-1]]).all(axis=1)
    if same.any():
        at = int(order_of[1:][same].min())
        raise UserError(
            f"{path}:{numbers[at]}: the {order}-gram {' '.join(fields[at][1 : order + 1])!r} is there twice"
        )
    return Grams(words[order_of], log_prob[order_of], backoff[order_of])


def _floats(path: str | Path, values: list[str], numbers: range) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except ValueError:
        array = np.array([_float_or_nan(value) for value in values])
    if not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise UserError(f"{path}:{numbers[at]}: {values[at]!r} is not a finite number")
    return array


def _float_or_nan(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan
