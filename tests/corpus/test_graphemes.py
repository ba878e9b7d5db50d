"""Grapheme lexicons."""

import pytest

from asr_kd.corpus.graphemes import grapheme_lexicon
from asr_kd.errors import UserError


def test_a_word_is_pronounced_as_its_letters_with_their_accents() -> None:
    lexicon = grapheme_lexicon(["Été", "it's", "well-known", "हिंदी", "B2", "[laughter]"])
    assert lexicon["Été"] == ("é", "t", "é")
    assert lexicon["it's"] == ("i", "t", "s")
    assert lexicon["हिंदी"] == ("हिं", "दी")
    assert lexicon["B2"] == ("b", "2")
    assert lexicon["[laughter]"] == ("spn",)


def test_a_word_without_letters_is_refused() -> None:
    with pytest.raises(UserError, match="1 word without a letter or digit, such as '--'"):
        grapheme_lexicon(["a", "--"])
