"""A grapheme lexicon: each word's letters in place of phones, for a language without a pronunciation dictionary.

It works where spelling follows sound, and usefully where it does not (Kanthak and Ney 2002): context-dependent states
learn what a letter sounds like beside its neighbours.
"""

import re
import unicodedata
from collections.abc import Iterable

from asr_kd.errors import UserError, counted

NOISE = "spn"
_MARKED = re.compile(r"<.+>|\[.+\]|\(.+\)")  # <noise>, [laughter]: no words


def grapheme_lexicon(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Word -> its letters and digits in lower case, each with its accents; a word in brackets is a noise, ``spn``.

    Punctuation is dropped. Raises ``UserError`` for words of nothing else, with the first of them.
    """
    lexicon = {word: (NOISE,) if _MARKED.fullmatch(word) else tuple(_graphemes(word)) for word in sorted(set(words))}
    if silent := [word for word, graphemes in lexicon.items() if not graphemes]:
        raise UserError(
            f"{counted(len(silent), 'word')} without a letter or digit, such as {silent[0]!r}: a grapheme lexicon"
            " cannot pronounce them; remove them from the transcripts, or give a lexicon"
        )
    return lexicon


def _graphemes(word: str) -> list[str]:
    """The letters and digits of a word, each with the marks that follow it."""
    found: list[str] = []
    for character in unicodedata.normalize("NFC", word.casefold()):
        kind = unicodedata.category(character)[0]
        if kind in "LN":
            found.append(character)
        elif kind == "M" and found:
            found[-1] += character
    return found
