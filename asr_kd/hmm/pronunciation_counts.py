"""Probabilities of pronunciations and silences from alignments, as Kaldi's get_prons.sh and dict_dir_add_pronprobs.sh.

See Chen et al., "Pronunciation and silence probability modeling for ASR", Interspeech 2015. One thing differs from the
scripts: where they expect no silence after ``<s>`` when they compute the corrections, its estimated probability counts,
as in the paper.
"""

import itertools
from collections import Counter
from collections.abc import Iterable

from asr_kd.errors import UserError
from asr_kd.hmm.align import Alignment
from asr_kd.hmm.lexicon import Lexicon, SilenceProbabilities, Weights

Spoken = tuple[str, tuple[str, ...]]  # a word and the pronunciation it had
BEGIN: Spoken = ("<s>", ())
END: Spoken = ("</s>", ())

_SMOOTHING = 2.0  # Kaldi's lambda 2 and lambda 3


class PronunciationCounts:
    """How often each pronunciation was said, with and without a silence before and after it."""

    def __init__(self) -> None:
        self.said: Counter[Spoken] = Counter()
        self.before: tuple[Counter[Spoken], Counter[Spoken]] = (Counter(), Counter())  # without, with a silence
        self.after: tuple[Counter[Spoken], Counter[Spoken]] = (Counter(), Counter())
        self.pairs: Counter[tuple[Spoken, Spoken]] = Counter()

    def add(self, alignment: Alignment) -> None:
        """Count one utterance; one without words counts for nothing."""
        if not alignment.words:
            return
        said = [_spoken(alignment, number) for number in range(len(alignment.words))]
        self.said.update(said)
        ends = [0, *(word.end for word in alignment.words)]
        begins = [*(word.start for word in alignment.words), len(alignment.states)]
        neighbours = itertools.pairwise([BEGIN, *said, END])
        for (one, other), end, begin in zip(neighbours, ends, begins, strict=True):
            silence = int(begin > end)
            self.after[silence][one] += 1
            self.before[silence][other] += 1
            self.pairs[one, other] += 1


def estimate_probabilities(lexicon: Lexicon, alignments: Iterable[Alignment]) -> Lexicon:
    """``lexicon`` with the probabilities of its pronunciations, and of silences around them, in ``alignments``.

    A pronunciation's count is smoothed by one and the likeliest one of each word scaled to 1; values are rounded as
    Kaldi's scripts round them.
    """
    counts = PronunciationCounts()
    for alignment in alignments:
        counts.add(alignment)
    if not counts.said:
        raise UserError("no utterance has words, so there are no pronunciations to count")
    without, with_silence = (counter.total() for counter in counts.before)
    overall = _rounded(with_silence / (with_silence + without), most=0.99)
    prons = [(word, pron) for word, variants in lexicon.entries.items() for pron in variants]
    after = {spoken: _silence_after(counts, spoken, overall) for spoken in [BEGIN, *prons]}
    expected = _expected_silences(counts, after)
    factors = {spoken: _corrections(counts, spoken, expected) for spoken in [*prons, END]}
    weights = {}
    for word, variants in lexicon.entries.items():
        said = [counts.said[word, pron] + 1 for pron in variants]
        shares = [float(f"{count / sum(said):.6g}") for count in said]
        weights[word] = tuple(
            Weights(float(f"{share / max(shares):.6g}"), after[word, pron], *factors[word, pron])
            for share, pron in zip(shares, variants, strict=True)
        )
    return Lexicon(lexicon.entries, weights, SilenceProbabilities(overall, after[BEGIN], *factors[END]))


def _spoken(alignment: Alignment, number: int) -> Spoken:
    word = alignment.words[number]
    return word.label, tuple(phone.label for phone in alignment.phones if word.start <= phone.start < word.end)


def _silence_after(counts: PronunciationCounts, spoken: Spoken, overall: float) -> float:
    silent = counts.after[1][spoken] + _SMOOTHING * overall
    return _rounded(silent / (silent + counts.after[0][spoken] + _SMOOTHING * (1 - overall)), most=0.99)


def _expected_silences(
    counts: PronunciationCounts, after: dict[Spoken, float]
) -> tuple[dict[Spoken, float], dict[Spoken, float]]:
    """How often no silence, and a silence, would come before each pronunciation by the words before it alone."""
    expected: tuple[dict[Spoken, float], dict[Spoken, float]] = ({}, {})
    for (one, other), count in counts.pairs.items():
        for silence, probability in enumerate((1 - after[one], after[one])):
            expected[silence][other] = expected[silence].get(other, 0.0) + count * probability
    return expected


def _corrections(
    counts: PronunciationCounts, spoken: Spoken, expected: tuple[dict[Spoken, float], dict[Spoken, float]]
) -> tuple[float, float]:
    """The factors of ``spoken`` after a silence, and after a word."""
    without, with_silence = (
        _rounded((counts.before[silence][spoken] + _SMOOTHING) / (expected[silence].get(spoken, 0.0) + _SMOOTHING))
        for silence in (0, 1)
    )
    return with_silence, without


def _rounded(value: float, most: float | None = None) -> float:
    """Two decimals, at least 0.01."""
    value = max(float(f"{value:.2f}"), 0.01)
    return value if most is None else min(value, most)
