"""Named normalisers: what is done to a transcript before its words are compared."""

import re
from collections.abc import Callable, Sequence

from asr_kd.errors import UserError


def _as_it_is(words: Sequence[str]) -> list[str]:
    return list(words)


def _upper_strip_punct(words: Sequence[str]) -> list[str]:
    """Upper case; all but letters, digits and apostrophes inside a word become spaces (``well-known`` is two words)."""
    text = re.sub(r"[^\w']|_", " ", " ".join(words).upper().replace("’", "'"))
    return [stripped for word in text.split() if (stripped := word.strip("'"))]


NORMALISERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "none": _as_it_is,
    "upper-strip-punct": _upper_strip_punct,
}


def normalise(words: Sequence[str], name: str) -> list[str]:
    """``words`` after the normaliser ``name``; ``UserError`` for a name that does not exist."""
    if name not in NORMALISERS:
        raise UserError(f"normaliser {name!r} does not exist; known: {', '.join(NORMALISERS)}")
    return NORMALISERS[name](words)
