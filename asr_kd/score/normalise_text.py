"""Named normalisers: what is done to a transcript before its words are compared."""

import unicodedata
from collections.abc import Callable, Sequence

from asr_kd.errors import UserError

# What people type for an apostrophe: quotation marks, accents, the modifier letter, the full-width form.
_APOSTROPHES = "'‘’‛`´ʼ＇"
_ZERO_WIDTH_SPACE = "\u200b"  # the one invisible character that separates words


class _Replacements(dict[int, str]):
    """For ``str.translate``: what each character becomes; letters, digits and combining marks stay."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in _APOSTROPHES:
            kept = "'"
        elif unicodedata.name(character, "").startswith("VARIATION SELECTOR"):
            kept = ""
        elif character.isalnum() or category.startswith("M"):
            kept = character
        else:  # joiners, soft hyphens and direction marks are invisible inside a word
            kept = "" if category == "Cf" and character != _ZERO_WIDTH_SPACE else " "
        self[code] = kept
        return kept


_REPLACEMENTS = _Replacements()


def _as_it_is(words: Sequence[str]) -> list[str]:
    return list(words)


def _upper_strip_punct(words: Sequence[str]) -> list[str]:
    """Unicode's composed form (NFC) in upper case, without punctuation.

    Letters, digits, combining marks and apostrophes inside a word stay. Invisible characters (joiners, soft hyphens)
    are removed. Everything else becomes a space, so ``well-known`` is two words.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", " ".join(words)).upper())
    stripped = (word.strip("'") for word in text.translate(_REPLACEMENTS).split())
    return [word for word in stripped if any(map(str.isalnum, word))]


NORMALISERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "none": _as_it_is,
    "upper-strip-punct": _upper_strip_punct,
}


def normalise(words: Sequence[str], name: str) -> list[str]:
    """``words`` after the normaliser ``name``; ``UserError`` for a name that does not exist."""
    if name not in NORMALISERS:
        raise UserError(f"normaliser {name!r} does not exist; known: {', '.join(NORMALISERS)}")
    return NORMALISERS[name](words)


def same_but_for_unicode_form(word: str, other: str) -> bool:
    """Whether two different strings are the same word, once composed (NFC) and once decomposed (NFD)."""
    return word != other and unicodedata.normalize("NFC", word) == unicodedata.normalize("NFC", other)
