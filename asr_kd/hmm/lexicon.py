"""The pronunciation lexicon: words as phone sequences, several for each word where needed."""

import dataclasses
import re
from pathlib import Path

from asr_kd.errors import UserError
from asr_kd.files import read_lines, write_text

SILENCE = "SIL"
UNKNOWN_WORD = "<unk>"
UNKNOWN_PHONE = "SPN"  # spoken noise: what a word outside the lexicon is aligned to

_VARIANT = re.compile(r"\(\d+\)$")


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """``entries``: word -> its distinct pronunciations, each a tuple of phones. Silence is not an entry."""

    entries: dict[str, tuple[tuple[str, ...], ...]]

    @property
    def phones(self) -> tuple[str, ...]:
        """Every phone in use, sorted."""
        return tuple(sorted({phone for prons in self.entries.values() for pron in prons for phone in pron}))

    def __contains__(self, word: str) -> bool:
        return word in self.entries

    def missing(self, words: list[str]) -> list[str]:
        """The distinct words that have no pronunciation, sorted."""
        return sorted({word for word in words if word not in self.entries})


def read_lexicon(path: str | Path) -> Lexicon:
    """Read ``WORD PHONE PHONE ...`` lines; ``WORD(2)`` is a further pronunciation of ``WORD`` (as in CMUdict).

    Raises ``UserError`` with the line number for a word without phones, and for a file without entries.
    """
    entries: dict[str, list[tuple[str, ...]]] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.startswith(";;;"):
            continue
        word, *phones = line.split()
        if not phones:
            raise UserError(f"{path}:{number}: {word!r} has no phones; expected WORD PHONE PHONE ...")
        prons = entries.setdefault(_VARIANT.sub("", word) or word, [])
        if tuple(phones) not in prons:
            prons.append(tuple(phones))
    if not entries:
        raise UserError(f"{path}: the lexicon is empty; expected lines of WORD PHONE PHONE ...")
    return Lexicon({word: tuple(prons) for word, prons in sorted(entries.items())})


def with_unknown(lexicon: Lexicon) -> Lexicon:
    """The lexicon with ``<unk>``, spoken noise, which stands for every word that it lacks."""
    return Lexicon({UNKNOWN_WORD: ((UNKNOWN_PHONE,),), **lexicon.entries})


def write_lexicon(lexicon: Lexicon, path: str | Path) -> None:
    """Write one line for each pronunciation, sorted by word, repeating the word."""
    lines = [f"{word} {' '.join(pron)}\n" for word, prons in lexicon.entries.items() for pron in prons]
    write_text(path, "".join(lines))
