import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.graph.arpa import write_arpa
from asr_kd.graph.arpa_reader import read_arpa

GOOD = """a comment before the header
\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-1.1\t</s>
-99\t<s>\t-0.3
-0.9 B -0.2
-1.0\tA\t-0.4
-2 <unk>

\\2-grams:
-0.4 <s> A -0.1
-0.5\tA B\t-0.3
-0.9 B </s>
-0.7 A A 0.25

\\3-grams:
-0.3 <s> A B
-0.15 A B </s>

\\end\\
"""


def test_an_arpa_file_is_read_sorted_with_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(GOOD)
    arpa = read_arpa(tmp_path / "a.arpa")
    assert arpa.vocabulary == ("</s>", "<s>", "B", "A", "<unk>")
    assert arpa.order == 3
    grams = {
        " ".join(arpa.vocabulary[word] for word in row): (p, b)
        for level in arpa.grams
        for row, p, b in zip(level.words, level.log_prob, level.backoff, strict=True)
    }
    assert grams["A A"] == (-0.7, 0.25)
    assert grams["A B </s>"] == (-0.15, 0.0)
    assert grams["<unk>"] == (-2.0, 0.0)
    assert grams["B </s>"] == (-0.9, 0.0)


def test_find_gives_the_row_of_each_ngram(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(GOOD)
    arpa = read_arpa(tmp_path / "a.arpa")
    for level in arpa.grams:
        assert arpa.find(level.words).tolist() == list(range(len(level.words)))
    number = {word: n for n, word in enumerate(arpa.vocabulary)}
    missing = np.array([[number["B"], number["B"]], [number["<unk>"], number["A"]], [-1, number["A"]]])
    assert arpa.find(missing).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("name", ["b.arpa", "b.arpa.gz"])
def test_write_then_read_gives_the_same_model_and_the_same_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.arpa").write_text(GOOD)
    arpa = read_arpa(tmp_path / "a.arpa")
    write_arpa(arpa, tmp_path / name)
    again = read_arpa(tmp_path / name)
    assert again.vocabulary == arpa.vocabulary
    for one, other in zip(again.grams, arpa.grams, strict=True):
        np.testing.assert_array_equal(one.words, other.words)
        np.testing.assert_allclose(one.log_prob, other.log_prob, atol=1e-6)
        np.testing.assert_allclose(one.backoff, other.backoff, atol=1e-6)
    content = (tmp_path / name).read_bytes()
    assert (content[:2] == b"\x1f\x8b") == name.endswith("gz")
    write_arpa(arpa, tmp_path / name)
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "no .data. line"),
        ("ngram 2=4", "ngram 2=5", "2-grams: holds 4 n-grams; the header promises 5"),
        ("ngram 2=4", "ngram 4=4", "a.arpa:4: expected 'ngram 2=COUNT'"),
        ("ngram 1=5", "ngram 1=0", "empty"),
        ("-0.7 A A 0.25", "-0.7 A", "a.arpa:18: '-0.7 A'.*2 word"),
        ("-0.7 A A 0.25", "-0.7 A A 0.25 extra", "a.arpa:18"),
        ("-0.7 A A 0.25", "x A A 0.25", "a.arpa:18: 'x' is not a finite number"),
        ("-0.7 A A 0.25", "nan A A 0.25", "a.arpa:18: 'nan' is not a finite number"),
        ("-0.7 A A 0.25", "-0.7 A A inf", "a.arpa:18: 'inf' is not a finite number"),
        ("-0.7 A A 0.25", "0.7 A A 0.25", "a.arpa:18: the log10 probability 0.7 is above 0"),
        ("-0.7 A A 0.25", "-0.7 A C 0.25", "a.arpa:18: 'C' is not among the 1-grams"),
        ("-0.7 A A 0.25", "-0.7 A B 0.25", "a.arpa:18: the 2-gram 'A B' occurs twice"),
        ("-1.0\tA\t-0.4", "-1.0\tB\t-0.4", "occurs twice"),
        ("-0.3 <s> A B", "-0.3 B A B", "history 'B A' of the 3-gram 'B A B' is not among the 2-grams"),
        ("-1.1\t</s>", "-1.1\tC", "no </s>|'</s>' is not among"),
        ("\\3-grams:", "\\4-grams:", "expected .3-grams:, found"),
        ("\\3-grams:\n-0.3 <s> A B\n-0.15 A B </s>\n\n\\end\\\n", "", "no .3-grams: section"),
        ("\\end\\", "", "truncated"),
        ("ngram 2=4", f"ngram 2={'9' * 5000}", "a.arpa:4: expected 'ngram 2=COUNT', found 'ngram 2=999"),
        ("ngram 2=4", "ngram 2=\u0664", "a.arpa:4: expected 'ngram 2=COUNT'"),
        ("ngram 2=4", "ngram 2=999999999999999999", "a.arpa:19: .2-grams: holds 4 n-grams"),
        ("ngram 2=4", "ngram 2=3", "2-grams: holds 4 n-grams; the header promises 3"),
        ("-0.7 A A 0.25", "-0,7 A A 0.25", "a.arpa:18: '-0,7' is not a finite number"),
        ("-0.7 A A 0.25", "-0_7 A A 0.25", "a.arpa:18: '-0_7' is not a finite number"),
        ("-0.7 A A 0.25", "-\u0667 A A 0.25", "a.arpa:18: '-\u0667' is not a finite number"),
        ("-0.7 A A 0.25", f"-{'9' * 5000} A A 0.25", "a.arpa:18: '-999.* is not a finite number"),
        ("-0.7 A A 0.25", "# a comment", "a.arpa:18: 'a' is not among"),
        ("\\end\\\n", "\\end\\\n\n-1 C\n", r"a.arpa:26: '-1 C' after .end"),
        ("\\end\\\n", f"\\end\\\n{GOOD}", r"a.arpa:[0-9]+: '.*' after .end"),
        ("ngram 3=2\n", "", r"a.arpa:19: expected .end., found '.*3-grams:'"),
        ("\\2-grams:", "\\5-grams:", r"a.arpa:14: expected .2-grams:, found '.*5-grams:'"),
        ("</s>", "</S>", "no </s> among its 1-grams; it has '</S>'|is not among"),
    ],
)
def test_what_is_malformed_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    (tmp_path / "a.arpa").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_arpa(tmp_path / "a.arpa")


def test_a_section_that_the_header_calls_empty_may_have_its_title(tmp_path: Path) -> None:
    text = GOOD.replace("ngram 3=2\n", "ngram 3=2\nngram 4=0\nngram 5=0\n")
    (tmp_path / "a.arpa").write_text(text.replace("\\end\\", "\\4-grams:\n\n\\5-grams:\n\n\\end\\"))
    assert read_arpa(tmp_path / "a.arpa").order == 3


def test_a_model_of_no_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1 <s>\n-1 </s>\n\n\\end\\\n")
    with pytest.raises(UserError, match="no words"):
        read_arpa(tmp_path / "a.arpa")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bnot gzip", gzip.compress(GOOD.encode())[:-20], b"\xff\xfe\0\1"])
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.arpa.gz").write_bytes(content)
    with pytest.raises(UserError, match="a.arpa.gz"):
        read_arpa(tmp_path / "a.arpa.gz")
    with pytest.raises(UserError, match="no such file"):
        read_arpa(tmp_path / "b.arpa")


def test_a_flipped_byte_of_a_gzip_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(GOOD.encode()))
    for place in range(10, len(content)):  # the header before has bytes that do not matter
        content[place] ^= 0x41
        (tmp_path / "a.arpa.gz").write_bytes(content)
        content[place] ^= 0x41
        with pytest.raises(UserError, match=r"a\.arpa\.gz: the compressed data is damaged or truncated"):
            read_arpa(tmp_path / "a.arpa.gz")


def test_a_byte_order_mark_other_compressions_and_names_do_not_matter(tmp_path: Path) -> None:
    for name, content in {
        "bom.arpa": b"\xef\xbb\xbf" + GOOD.removeprefix("a comment before the header\n").encode(),
        "gz_without_its_name.arpa": gzip.compress(GOOD.encode()),
        "a.arpa.bz2": bz2.compress(GOOD.encode()),
        "crlf.arpa": GOOD.replace("\n", "\r\n").encode(),
        "no_last_newline.arpa": GOOD.rstrip("\n").encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert [len(grams.words) for grams in read_arpa(tmp_path / name).grams] == [5, 4, 2], name
    (tmp_path / "a.xz").write_bytes(lzma.compress(GOOD.encode()))
    with pytest.raises(UserError, match=r"a\.xz: compressed with xz.*xz -d"):
        read_arpa(tmp_path / "a.xz")


@pytest.mark.parametrize("word", ["\v", "TEN\u00a0THIRTY", "\u3000", "A\x0cB", "X\u2028Y", "\x85"])
def test_a_word_may_hold_what_only_python_takes_for_a_space(tmp_path: Path, word: str) -> None:
    (tmp_path / "a.arpa").write_text(GOOD.replace("B", word), encoding="utf-8")
    arpa = read_arpa(tmp_path / "a.arpa")
    assert arpa.vocabulary == ("</s>", "<s>", word, "A", "<unk>")
    assert arpa.order == 3


def test_minus_infinity_is_the_log_of_zero_and_a_rounded_zero_is_zero(tmp_path: Path) -> None:
    text = GOOD.replace("-99\t<s>", "-inf\t<s>").replace("-0.7 A A 0.25", "0.0000002 A A -Infinity")
    (tmp_path / "a.arpa").write_text(text)
    arpa = read_arpa(tmp_path / "a.arpa")
    assert arpa.grams[0].log_prob[1] == -99
    assert arpa.grams[1].log_prob.max() == 0
    assert arpa.grams[1].backoff.min() == -99


def test_words_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_bytes(GOOD.replace("B", "CAF\u00c9").encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.arpa: the word b'CAF\\xc9' is not UTF-8"):
        read_arpa(tmp_path / "a.arpa")


def test_what_expands_without_bound_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_kd.compressed.EXPANDED_BYTES", 100_000)
    head = GOOD.partition("-0.7 A A 0.25\n")[0].replace("ngram 2=4", "ngram 2=99999999")
    (tmp_path / "bomb.arpa.gz").write_bytes(gzip.compress((head + "-0.7 A A 0.25\n" * 100_000).encode()))
    with pytest.raises(UserError, match=r"bomb\.arpa\.gz: expands to more than"):
        read_arpa(tmp_path / "bomb.arpa.gz")
    (tmp_path / "line.arpa").write_bytes(b"x" * 3_000_000)
    with pytest.raises(UserError, match=r"line\.arpa:1: a line of more than"):
        read_arpa(tmp_path / "line.arpa")
