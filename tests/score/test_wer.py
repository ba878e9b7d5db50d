import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import UserError
from asr_kd.score.wer import Score, score

WORDS = st.lists(st.sampled_from(["A", "B", "C", "B'"]), max_size=7)


def _distance(reference: list[str], hypothesis: list[str]) -> int:
    """Fewest substitutions, deletions and insertions, by the textbook recursion."""
    table = np.zeros((len(reference) + 1, len(hypothesis) + 1), int)
    table[:, 0], table[0] = np.arange(len(reference) + 1), np.arange(len(hypothesis) + 1)
    for i, said in enumerate(reference, 1):
        for j, heard in enumerate(hypothesis, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (said != heard))
    return int(table[-1, -1])


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_errors_are_the_fewest_edits_and_every_word_is_accounted_for(pairs: list[tuple[list[str], list[str]]]) -> None:
    references = {"anchor": ["A"]} | {f"u{n}": reference for n, (reference, _) in enumerate(pairs)}
    hypotheses = {"anchor": ["A"]} | {f"u{n}": hypothesis for n, (_, hypothesis) in enumerate(pairs)}
    result = score(references, hypotheses)
    for utt, errors, (words, _, deletions, insertions) in zip(
        result.utterances, result.errors, result.counts, strict=True
    ):
        assert errors == _distance(references[utt], hypotheses[utt])
        assert words == len(references[utt])
        assert len(hypotheses[utt]) == words - deletions + insertions
    assert sum(count for _, count in result.confused) == result.total.substitutions
    assert sum(count for _, count in result.deleted) == result.total.deletions
    assert sum(count for _, count in result.inserted) == result.total.insertions


@pytest.fixture
def result() -> Score:
    references = {"a1": ["ONE", "TWO"], "a2": ["NINE", "NINE"], "b1": ["FIVE"], "b2": []}
    hypotheses = {"a1": ["ONE", "TOO"], "a2": ["FIVE", "FIVE"], "b2": ["OH"]}
    return score(references, hypotheses, {"a1": "a", "a2": "a", "b1": "b", "b2": "b"})


def test_thousands_of_utterances_are_counted_each_in_its_row() -> None:
    references = {f"u{number:05d}": ["A"] * (1 + number % 3) for number in range(2500)}
    hypotheses = {utt: words[1:] for utt, words in references.items()}
    result = score(references, hypotheses)
    assert result.counts[:, 0].tolist() == [1 + number % 3 for number in range(2500)]
    assert (result.errors == 1).all()
    assert result.deleted == (("A", 2500),)


def test_a_missing_hypothesis_is_all_deletions_and_is_reported(result: Score) -> None:
    assert result.missing == ("b1",)
    assert result.counts[2].tolist() == [1, 0, 1, 0]


def test_an_empty_reference_counts_the_insertions(result: Score) -> None:
    assert result.counts[3].tolist() == [0, 0, 0, 1]


def test_totals_and_rates(result: Score) -> None:
    total = result.total
    assert (total.words, total.substitutions, total.deletions, total.insertions) == (5, 3, 1, 1)
    assert total.wer == 5 / 5
    assert total.sentence_error_rate == 1


def test_speakers_add_up(result: Score) -> None:
    by_speaker = result.by_speaker
    assert list(by_speaker) == ["a", "b"]
    assert by_speaker["a"].wer == 3 / 4
    assert (by_speaker["b"].errors, by_speaker["b"].words, by_speaker["b"].utterances) == (2, 1, 2)


def test_the_commonest_confusion_comes_first(result: Score) -> None:
    assert result.confused == ((("NINE", "FIVE"), 2), (("TWO", "TOO"), 1))
    assert result.inserted == (("OH", 1),)


def test_without_speakers_or_with_one_the_utterance_is_the_unit() -> None:
    references = {"u1": ["A"], "u2": ["B"]}
    alone = score(references, references)
    assert (alone.cluster_unit, alone.clusters, alone.by_speaker) == ("utterance", ("u1", "u2"), {})
    one = score(references, references, {"u1": "s", "u2": "s"})
    assert (one.cluster_unit, one.clusters) == ("utterance", ("u1", "u2"))


def test_the_normaliser_works_on_both_sides() -> None:
    references, hypotheses = {"u": ["Don’t", "stop,", "WELL-KNOWN"]}, {"u": ["DON'T", "STOP", "well", "known", "."]}
    assert score(references, hypotheses).total.errors > 0
    assert score(references, hypotheses, normaliser="upper-strip-punct").total.errors == 0


def test_a_hypothesis_of_an_unknown_utterance_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no reference for 1 of 2 hypotheses, first 'x'"):
        score({"u": ["A"]}, {"u": ["A"], "x": ["B"]})


def test_an_utterance_without_speaker_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no speaker in utt2spk for 1 reference utterance, first 'v'"):
        score({"u": ["A"], "v": ["A"]}, {}, {"u": "s"})


@pytest.mark.parametrize("references", [{}, {"u": []}])
def test_references_without_a_word_are_an_error(references: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match="contain no words"):
        score(references, {})


def test_an_unknown_normaliser_is_an_error() -> None:
    with pytest.raises(UserError, match="'whisper' does not exist; known: none, upper-strip-punct"):
        score({"u": ["A"]}, {}, normaliser="whisper")
