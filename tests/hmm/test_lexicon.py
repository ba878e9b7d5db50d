"""Lexicons as people have them: CMUdict's, Kaldi's, MFA's, and what none of them is."""

from pathlib import Path

import pytest

from asr_kd.errors import UserError
from asr_kd.hmm.lexicon import (
    Lexicon,
    SilenceProbabilities,
    Weights,
    save_lexicon,
    with_silence_probability,
    with_unknown,
    write_lexicon,
)
from asr_kd.hmm.lexicon_reader import LexiconFormat, load_lexicon, read_lexicon

LEXICON = Lexicon({"go": (("G", "OW"),), "oh": (("OW",), ("AO",))})


def read(folder: Path, text: str, form: LexiconFormat = "auto", name: str = "l") -> Lexicon:
    (folder / name).write_text(text, encoding="utf-8")
    return read_lexicon(folder / name, form)


def test_a_lexicon_reads_back_as_written(tmp_path: Path) -> None:
    write_lexicon(LEXICON, tmp_path / "lexicon.txt")
    assert read_lexicon(tmp_path / "lexicon.txt") == LEXICON
    assert LEXICON.missing(["oh", "no", "go", "no"]) == ["no"]


def test_lexicon_variants_comments_and_repeats(tmp_path: Path) -> None:
    text = "\ufeff;;; CMUdict\n# a heading\nOH(2) AO\n\nOH OW\nOH  OW # interjection, 2.0 uses\n"
    assert read(tmp_path, text) == Lexicon({"OH": (("AO",), ("OW",))})


def test_a_word_that_begins_with_a_hash_is_no_comment(tmp_path: Path) -> None:
    found = read(tmp_path, "#HASH-MARK HH AE SH # the sign\nD'ARTAGNAN D AA R # foreign french\n")
    assert found == Lexicon({"#HASH-MARK": (("HH", "AE", "SH"),), "D'ARTAGNAN": (("D", "AA", "R"),)})


def test_words_of_kaldi_for_noise_are_words(tmp_path: Path) -> None:
    found = read(tmp_path, "!SIL SIL\n<SPOKEN_NOISE> SPN\n<UNK> SPN\nA AH\n")
    assert found.entries["<SPOKEN_NOISE>"] == (("SPN",),)


@pytest.mark.parametrize(
    "text",
    ["deux d 2\neuh 2\noeil 9 j\nun 9~\n", "two 2 j\nneuf 9 f\n", "a 1 b\nb 9 a\n", "A.B. AH B\nMR. M IH S\n"],
)
def test_phones_that_are_digits_are_phones(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, text)
    assert found.weights == {}
    assert [" ".join(pron) for prons in found.entries.values() for pron in prons] == [
        line.split(" ", 1)[1] for line in sorted(text.splitlines())
    ]


def test_pronunciation_probabilities_are_no_phones(tmp_path: Path) -> None:
    found = read(tmp_path, "OH 1 OW\nOH 0.25 AO # rare\nEUH 1e-05 2\nNEUF 1.0 n 9 f\n")
    assert found.phones == ("2", "9", "AO", "OW", "f", "n")
    assert found.weights["OH"] == (Weights(1.0), Weights(0.25))
    assert found.weights["EUH"] == (Weights(1e-05),)
    assert found.silences is None


def test_silence_columns_are_no_phones_and_the_file_beside_them_is_read(tmp_path: Path) -> None:
    text = "GO\t0.99\t0.12\t1.04\t0.98\tG OW\nOH\t1\t0.0\t0.0\t0.0\tOW\n"
    found = read(tmp_path, text)
    assert found.weights == {"GO": (Weights(0.99, 0.12, 1.04, 0.98),), "OH": (Weights(1.0),)}
    (tmp_path / "silprob.txt").write_text("<s> 0.99\n</s>_s 2.5\n</s>_n 0.0065\noverall 0.20\n")
    assert read(tmp_path, text).silences == SilenceProbabilities(0.2, 0.99, 2.5, 0.0065)


def test_mfa_dictionaries_may_have_columns_on_some_lines_only(tmp_path: Path) -> None:
    text = "GO\t0.99\t0.12\t1.04\t0.98\tG OW\nOH\tOW\nNO\t0.5\tN OW\n"
    with pytest.raises(UserError, match=r"l:2: 'OH OW': expected 4 number\(s\).*since line 1 has.*--lexicon-format"):
        read(tmp_path, text)
    assert read(tmp_path, text, "mfa").weights == {
        "GO": (Weights(0.99, 0.12, 1.04, 0.98),),
        "NO": (Weights(0.5),),
        "OH": (Weights(),),
    }


def test_a_column_of_ones_needs_a_word_from_the_user_or_from_the_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"l:1: is '1' a probability or a phone\? --lexicon-format"):
        read(tmp_path, "OH 1 OW\nGO 1 G OW\n")
    with pytest.raises(UserError, match=r"l:1: is '100' a probability or a phone\? --lexicon-format"):
        read(tmp_path, "OH 100 OW\nGO 80 G OW\n")
    assert read(tmp_path, "OH 12 7\nGO 3 7\n").entries["OH"] == (("12", "7"),)  # phones that are numbers
    assert read(tmp_path, "OH 1 OW\n", "lexiconp").entries == {"OH": (("OW",),)}
    assert read(tmp_path, "OH 1 OW\n", "plain").entries == {"OH": (("1", "OW"),)}
    assert read(tmp_path, "OH 1 OW\n", name="lexiconp.txt").entries == {"OH": (("OW",),)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n;;; no\n", "empty"),
        ("A AH\nB\n", "l:2: 'B' has no phones"),
        ("A # only a comment\n", r"l:1: 'A' has the phone '#'"),
        ("A AH #glued\n", r"l:1: 'A' has the phone '#glued'.*space on either side"),
        ("A AH #1\n", "l:1: .*disambiguation"),
        ("A AH\n#1 AH\n", "l:2: the word '#1' is reserved"),
        ("A AH\n<eps> AH\n", "l:2: <eps> is reserved"),
        ("<s> SIL\n", "l:1: <s> is reserved"),
        ("A AH <eps>\n", "l:1: <eps> is reserved"),
        ("A 0.5 AH\nB AH\n", "l:2: 'B AH': expected 1 number.*line 1 has numbers"),
        ("A AH 0.5\n", "l:1: 'A AH 0.5': expected"),
        ("A 0.5 0.2 AH\n", "l:1: .*expected 4 number"),
        ("A 0.0 AH\n", r"l:1: the pronunciation probability of 'A' is 0.0; expected a number above 0 and at most 1"),
        ("A 1.5 AH\n", "l:1: the pronunciation probability of 'A' is 1.5"),
        ("A -0.5 AH\n", "l:1: the pronunciation probability of 'A' is -0.5"),
        (f"A 0.{'9' * 5000} AH\nB {'9' * 5000} AH\n", "l:2: the pronunciation probability of 'B' is 999"),
        ("A 1E-5\n", "l:1: 'A' has no phones after its 1 column"),
        ("A 0,5 AH\nB 1,0 B\n", r"the phone '[01],[05]' is a number; write probabilities like 0.5"),
        ("A 50% AH\n", "the phone '50%' is a number"),
        ("A 0.5\n", "l:1: 'A' has no phones after its 1 column"),
        ("A 0.5 AH\nA 0.4 AH\n", "l:2: 'A' has this pronunciation twice"),
        ("A 1.0 0.3 1.0 0.0 AH\n", "l:1: the correction of 'A' after a word is 0.0"),
        ("A AH\nNEW\u00a0YORK N UW\n", r"l:2: has the character U\+00A0 \(NO-BREAK SPACE\)"),
        ("A AH\nFO\u2028UR F AO R\n", r"l:2: has the character U\+2028"),
    ],
)
def test_a_bad_lexicon_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["", "<s> 0.5\n", "<s> x\n", "<s> 0.5\n<s> 0.5\n", "<s> 0\n", "overall 1.5\n", "a b c\n", "<s> 1e999\n"]
)
def test_bad_silence_probabilities_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "silprob.txt").write_text(text)
    with pytest.raises(UserError, match=r"silprob\.txt"):
        read(tmp_path, "GO 0.99 0.12 1.04 0.98 G OW\n")


@pytest.mark.parametrize(
    ("lexicon", "files"),
    [
        (LEXICON, ["lexicon.txt"]),
        (with_silence_probability(LEXICON, 0.3), ["lexicon.txt", "silprob.txt"]),
        (Lexicon({"a": (("1", "A"), ("B",))}, {"a": (Weights(), Weights(1 / 3))}), ["lexiconp.txt"]),
        (
            Lexicon({"a": (("A",),)}, {"a": (Weights(0.7, 0.2, 1.1, 0.9),)}, SilenceProbabilities(0.1, 0.9, 2.0, 0.5)),
            ["lexiconp_silprob.txt", "silprob.txt"],
        ),
    ],
)
def test_a_model_folder_keeps_the_probabilities(tmp_path: Path, lexicon: Lexicon, files: list[str]) -> None:
    save_lexicon(Lexicon({"x": (("X",),)}, {"x": (Weights(0.5, 0.5),)}, SilenceProbabilities()), tmp_path)
    save_lexicon(lexicon, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert load_lexicon(tmp_path) == lexicon


def test_an_unknown_word_has_no_effect_on_the_probabilities_of_others() -> None:
    lexicon = Lexicon({"a": (("A",),)}, {"a": (Weights(0.5),)}, SilenceProbabilities(0.1))
    assert with_unknown(lexicon).weights == {"<unk>": (Weights(),), "a": (Weights(0.5),)}
    assert with_unknown(lexicon).silences == lexicon.silences
