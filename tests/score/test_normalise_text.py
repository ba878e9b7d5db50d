"""Values worked out by hand from Unicode's character tables."""

import unicodedata

import pytest

from asr_kd.score.normalise_text import NORMALISERS, normalise, same_but_for_unicode_form
from asr_kd.score.wer import score


def upper(text: str) -> list[str]:
    return normalise(text.split(), "upper-strip-punct")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में काम।", ["हिन्दी", "में", "काम"]),  # vowel signs and the virama are marks; the danda is punctuation
        ("காலை வணக்கம்!", ["காலை", "வணக்கம்"]),
        ("ภาษาไทย", ["ภาษาไทย"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("cafe\u0301", ["CAFÉ"]),
        ("Q\u0323 ok", ["Q\u0323", "OK"]),  # no composed form exists
        ("ΐ", ["\u03aa\u0301"]),  # its upper case is decomposed by definition, and composed again as far as possible
        ("straße ﬁn", ["STRASSE", "FIN"]),
    ],
)  # fmt: skip
def test_marks_belong_to_their_word(text: str, words: list[str]) -> None:
    assert upper(text) == words


@pytest.mark.parametrize("apostrophe", ["'", "’", "‘", "ʼ", "＇", "`", "´"])
def test_every_apostrophe_is_the_same_inside_a_word_and_gone_around_it(apostrophe: str) -> None:
    assert upper(f"don{apostrophe}t {apostrophe}tis dogs{apostrophe} {apostrophe}") == ["DON'T", "TIS", "DOGS"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("می\u200cخواهم", ["میخواهم"]),  # zero-width non-joiner
        ("क्\u200dष", ["क्ष"]),  # zero-width joiner
        ("co\u00adoperate", ["COOPERATE"]),  # soft hyphen
        ("\u202bשלום\u202c", ["שלום"]),  # direction marks
        ("\ufeffone", ["ONE"]),
        ("กา\u200bขา", ["กา", "ขา"]),  # a zero-width space separates
        ("yes ❤\ufe0f 1\ufe0f\u20e3", ["YES", "1\u20e3"]),  # an emoji leaves no word of marks alone
        ("one\u2028two", ["ONE", "TWO"]),
    ],
)
def test_invisible_characters_join_and_only_spaces_separate(text: str, words: list[str]) -> None:
    assert upper(text) == words


def test_punctuation_separates_words() -> None:
    assert upper("well-known, e.g. a_b «100 %» ½") == ["WELL", "KNOWN", "E", "G", "A", "B", "100", "½"]


def test_normalising_twice_changes_nothing() -> None:
    text = "don’t हिन्दी cafe\u0301 ΐ ŉ ǰ co\u00adop ß"
    assert normalise(upper(text), "upper-strip-punct") == upper(text)


def test_a_hindi_error_rate_counts_whole_words() -> None:
    references, hypotheses = {"u": ["हिन्दी", "में", "काम"]}, {"u": ["हिन्दी", "मैं", "नाम"]}
    for name in NORMALISERS:
        total = score(references, hypotheses, normaliser=name).total
        assert (total.words, total.substitutions, total.errors) == (3, 2, 2)


def test_the_unicode_form_of_a_transcript_does_not_count_once_normalised() -> None:
    composed = [unicodedata.normalize("NFC", word) for word in ("CAFÉ", "한국어", "Å")]
    decomposed = [unicodedata.normalize("NFD", word) for word in composed]
    for mine, other in ((composed, decomposed), (decomposed, composed)):
        assert score({"u": mine}, {"u": other}, normaliser="upper-strip-punct").total.errors == 0
    kept = score({"u": [*composed, "A"]}, {"u": [*decomposed, "B"]})
    assert kept.total.errors == 4
    assert kept.unicode_form_only == 3


def test_only_spelling_in_another_form_is_the_same_word() -> None:
    assert same_but_for_unicode_form("é", "e\u0301")
    assert not same_but_for_unicode_form("é", "é")
    assert not same_but_for_unicode_form("é", "e")
