import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.graph.arpa import Arpa, write_arpa
from asr_kd.graph.arpa_reader import read_arpa
from asr_kd.graph.ngram import _discounts, estimate, measure, read_sentences, read_vocabulary

SENTENCES = st.lists(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=5), min_size=1, max_size=12)


def probability(arpa: Arpa, history: tuple[int, ...], word: int) -> float:
    """The model's recursive definition."""
    history = history[len(history) - min(len(history), arpa.order - 1) :]
    row = int(arpa.find(np.array([[*history, word]]))[0])
    if row >= 0:
        return float(10 ** arpa.grams[len(history)].log_prob[row])
    known = int(arpa.find(np.array([history]))[0])
    backoff = 10 ** float(arpa.grams[len(history) - 1].backoff[known]) if known >= 0 else 1.0
    return backoff * probability(arpa, history[1:], word)


def some_text(sentences: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [list(rng.choice(list("ABCDEFGH"), rng.integers(1, 9), p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.02]))
            for _ in range(sentences)]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(SENTENCES, st.integers(1, 3), st.booleans())
def test_the_words_after_every_history_sum_to_one(sentences: list[list[str]], order: int, unknown: bool) -> None:
    arpa = estimate(sentences, order, "ABCDE", unknown)
    words = [n for n, word in enumerate(arpa.vocabulary) if word != "<s>"]
    begin, end = arpa.vocabulary.index("<s>"), arpa.vocabulary.index("</s>")
    for length in range(order):
        for history in itertools.product(range(len(arpa.vocabulary)), repeat=length):
            if end not in history and begin not in history[1:]:
                assert sum(probability(arpa, history, word) for word in words) == pytest.approx(1.0, abs=1e-9)


def test_kneser_ney_by_hand() -> None:
    """Bigrams of one sentence, A B A: every discount is the one of small corpora."""
    arpa = estimate([["A", "B", "A"]], order=2)
    begin, end, a, b = (arpa.vocabulary.index(word) for word in ("<s>", "</s>", "A", "B"))
    # Continuation counts: A after <s> and B: 2; B after A: 1; </s> after A: 1. Discounts 1.0, 0.5, 0.5; 4 in all.
    share = (1.0 + 0.5 + 0.5) / 4 / 3
    p_a, p_b, p_end = (2 - 1.0) / 4 + share, (1 - 0.5) / 4 + share, (1 - 0.5) / 4 + share
    assert probability(arpa, (), a) == pytest.approx(p_a)
    assert probability(arpa, (begin,), a) == pytest.approx(0.5 + 0.5 * p_a)
    assert probability(arpa, (a,), b) == pytest.approx((1 - 0.5) / 2 + 0.5 * p_b)
    assert probability(arpa, (a,), end) == pytest.approx((1 - 0.5) / 2 + 0.5 * p_end)
    assert probability(arpa, (b,), b) == pytest.approx(0.5 * p_b)


def test_modified_discounts_follow_chen_and_goodman() -> None:
    counts = np.repeat([1, 2, 3, 4, 7], [50, 20, 10, 6, 3])
    y = 50 / (50 + 2 * 20)
    assert _discounts(counts) == pytest.approx((1 - 2 * y * 20 / 50, 2 - 3 * y * 10 / 20, 3 - 4 * y * 6 / 10))


def test_discounts_of_a_small_corpus_are_well_defined() -> None:
    assert _discounts(np.array([1, 1, 2])) == (0.5, 1.0, 1.5)
    assert _discounts(np.array([5, 9])) == (0.5, 1.0, 1.5)
    assert _discounts(np.repeat([1, 2, 3, 4], [1, 1, 1, 50])) == (0.5, 1.0, 1.5)  # where the formula is negative


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("unknown", [False, True])
def test_perplexity_is_kenlms_on_the_same_file(tmp_path: Path, order: int, unknown: bool) -> None:
    kenlm = pytest.importorskip("kenlm")
    write_arpa(estimate(some_text(60, seed=0), order, unknown=unknown), tmp_path / "a.arpa")
    arpa, theirs = read_arpa(tmp_path / "a.arpa"), kenlm.Model(str(tmp_path / "a.arpa"))
    text = some_text(40, seed=1)
    if unknown:
        text += [["A", "ZZZ", "B"], ["ZZZ"], ["ZZZ", "ZZZ", "A", "A"]]
    ours = measure(arpa, text)
    total = sum(theirs.score(" ".join(sentence), bos=True, eos=True) for sentence in text)
    assert ours.log10_prob + (ours.log10_prob_oov or 0) == pytest.approx(total, rel=1e-6)
    tokens = sum(len(sentence) + 1 for sentence in text)
    assert (ours.perplexity_with_oov if unknown else ours.perplexity) == pytest.approx(
        10 ** (-total / tokens), rel=1e-5
    )


def test_words_outside_the_vocabulary_are_counted_and_left_out() -> None:
    arpa = estimate([["A", "B"], ["B"]], order=2)
    result = measure(arpa, [["A", "ZZZ", "B"]])
    assert (result.sentences, result.words, result.oov, result.oov_rate) == (1, 3, 1, pytest.approx(1 / 3))
    assert result.perplexity_with_oov is None
    begin, end, a, b = (arpa.vocabulary.index(word) for word in ("<s>", "</s>", "A", "B"))
    expected = probability(arpa, (begin,), a) * probability(arpa, (), b) * probability(arpa, (b,), end)
    assert result.perplexity == pytest.approx(expected ** (-1 / 3))


def test_a_closed_vocabulary_refuses_other_words_and_an_open_one_takes_them() -> None:
    with pytest.raises(UserError, match="'C' is not in the vocabulary"):
        estimate([["A", "C"]], 2, ["A", "B"])
    arpa = estimate([["A", "C"]], 2, ["A", "B"], unknown=True)
    assert set(arpa.vocabulary) == {"<s>", "</s>", "<unk>", "A", "B"}


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_arpa(estimate(some_text(50, seed=3)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_text_of_lines_of_ids_and_of_data_directories(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1 A B\nu2\nu3 C\n")
    assert read_sentences(tmp_path / "text", ids=True).sentences == [["A", "B"], ["C"]]
    assert read_sentences(tmp_path).sentences == [["A", "B"], ["C"]]
    assert read_sentences(tmp_path / "text").sentences[0] == ["u1", "A", "B"]


@pytest.mark.parametrize("content", ["", "\n\n", "u1\nu2\n"])
def test_empty_text_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "text").write_text(content)
    with pytest.raises(UserError, match="no words"):
        read_sentences(tmp_path / "text", ids=True)
    with pytest.raises(UserError, match="at least one"):
        estimate([])


def test_sentence_marks_in_the_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("A B\n<s> A\n")
    with pytest.raises(UserError, match="text:2: <s>"):
        read_sentences(tmp_path / "text")


def test_only_newlines_end_a_sentence_and_a_byte_order_mark_is_no_word(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\ufeffONE TWO\u2028THREE\x0cFOUR\x85FIVE\nSIX\r\n", encoding="utf-8")
    assert read_sentences(tmp_path / "text").sentences == [["ONE", "TWO", "THREE", "FOUR", "FIVE"], ["SIX"]]


def test_an_id_is_no_word_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\u00a0b ONE\u3000TWO\n", encoding="utf-8")
    assert read_sentences(tmp_path / "text", ids=True).sentences == [["ONE", "TWO"]]


def test_empty_transcripts_and_what_looks_like_ids_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"utt{number} {['ONE', 'TWO', 'THREE', 'FOUR'][number % 4]} TWO" for number in range(12)]
    (tmp_path / "text").write_text("\n".join(lines) + "\nutt12\nutt13\n")
    assert main(["lm", "estimate", str(tmp_path / "text"), str(tmp_path / "a.arpa")]) == 0
    assert "each line begins with a word that occurs nowhere else, such as 'utt0'" in capsys.readouterr().err
    assert main(["lm", "estimate", str(tmp_path / "text"), str(tmp_path / "a.arpa"), "--ids"]) == 0
    assert capsys.readouterr().err.endswith("text: left out 2 lines without words\n")
    (tmp_path / "text").write_text("\n".join("ONE TWO" if n % 2 else "TWO ONE ONE" for n in range(12)))
    assert main(["lm", "estimate", str(tmp_path / "text"), str(tmp_path / "a.arpa")]) == 0
    assert capsys.readouterr().err == ""


def test_a_lexicon_gives_the_vocabulary_without_its_variants(tmp_path: Path) -> None:
    (tmp_path / "l").write_text(";;; x\n# y\nOH OW\nOH(2) AO\nF(2) EH F\n#HASH-MARK H\n<eps> 0\n#0 7\n")
    assert read_vocabulary(tmp_path / "l") == ["OH", "F(2)", "#HASH-MARK"]


def test_a_model_of_srilm_may_call_the_unknown_word_unk_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-1 <s>\n-1 </s>\n-1 A\n-2 <UNK>\n\n\\end\\\n")
    assert measure(read_arpa(tmp_path / "a.arpa"), [["A", "B"]]).log10_prob_oov == -2
