"""Estimate n-gram language models from text, and measure them on other text."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import fields_of, read_lines
from asr_kd.graph.arpa import BEGIN, END, LOG_ZERO, UNKNOWN, Arpa, Grams

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # as in KenLM's lmplz
_NO_WORD = re.compile(r"#[0-9]*|<eps>")
_VARIANT = re.compile(r"\([0-9]+\)$")
_FEWEST_IDS = 10  # lines; the first words of fewer are easily different from each other


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """A model's score on text. ``words`` counts all words, ``oov`` those outside the vocabulary.

    ``log10_prob`` is that of the other words and of the sentence ends; ``log10_prob_oov`` that of the words outside
    as ``<unk>``, None where the model has no ``<unk>``.
    """

    sentences: int
    words: int
    oov: int
    log10_prob: float
    log10_prob_oov: float | None

    @property
    def perplexity(self) -> float:
        """Of known words and sentence ends."""
        return float(10 ** (-self.log10_prob / (self.words - self.oov + self.sentences)))

    @property
    def perplexity_with_oov(self) -> float | None:
        """Of all words and sentence ends, those outside the vocabulary as ``<unk>``."""
        if self.log10_prob_oov is None:
            return None
        return float(10 ** (-(self.log10_prob + self.log10_prob_oov) / (self.words + self.sentences)))

    @property
    def oov_rate(self) -> float:
        """The share of words outside the vocabulary."""
        return self.oov / self.words


@dataclasses.dataclass(frozen=True)
class Text:
    """``sentences``: the words of each line that has some; ``empty``: how many lines have none.

    ``may_have_ids``: every line begins with a word that no other line begins with and that occurs nowhere else, as
    utterance ids do.
    """

    sentences: list[list[str]]
    empty: int
    may_have_ids: bool


def read_sentences(path: str | Path, ids: bool = False) -> Text:
    """Sentences, one a line; ``ids``: each line begins with an utterance id (Kaldi's ``text``); a data directory too.

    Raises ``UserError`` if no line has words, and for ``<s>`` or ``</s>`` in the text.
    """
    if Path(path).is_dir():
        path, ids = Path(path) / "text", True
    sentences = []
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        words = (fields_of(line, 1)[1:] or [""])[0].split() if ids else line.split()
        if BEGIN in words or END in words:
            raise UserError(f"{path}:{number}: {BEGIN} or {END} in the text; remove them: they are added to every line")
        if words:
            sentences.append(words)
    if not sentences:
        raise UserError(f"{path}: no words in it; expected one sentence a line{' after its id' if ids else ''}")
    return Text(sentences, len(lines) - len(sentences), not ids and _look_like_ids(sentences))


def read_vocabulary(path: str | Path) -> list[str]:
    """The first word of each line of a word list, a lexicon or Kaldi's ``words.txt``.

    Comments, further pronunciations (``WORD(2)``), and the symbols ``<eps>``, ``#0``, ... are left out.
    """
    fields = (fields_of(line, 1) for line in read_lines(path) if not line.startswith(";;;"))
    words = {field[0]: None for field in fields if field and not _NO_WORD.fullmatch(field[0])}
    return [word for word in words if _VARIANT.sub("", word) not in words or not _VARIANT.search(word)]


def _look_like_ids(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether the first words of several lines are all different and are said nowhere else."""
    first = {sentence[0] for sentence in sentences}
    if len(sentences) < _FEWEST_IDS or len(first) < len(sentences):
        return False
    return not any(word in first for sentence in sentences for word in sentence[1:])


def estimate(
    sentences: Sequence[Sequence[str]], order: int = 3, vocabulary: Iterable[str] | None = None, unknown: bool = False
) -> Arpa:
    """A model with interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1998, section 3).

    The vocabulary is that of ``sentences``, or ``vocabulary``, whose unseen words share the mass that discounting
    the unigrams leaves. With ``unknown``, ``<unk>`` represents words outside it; without, such a word is an error.
    Discounts that the counts of counts do not give (small corpora) are KenLM's: 0.5, 1 and 1.5.
    """
    if order < 1:
        raise UserError(f"--order {order}: expected 1 or more")
    known = {word for sentence in sentences for word in sentence} if vocabulary is None else set(vocabulary)
    words = sorted(known - {BEGIN, END, UNKNOWN})
    if not words or not sentences:
        raise UserError("a language model needs at least one sentence and one word")
    names = [BEGIN, END, *([UNKNOWN] if unknown or (vocabulary is None and UNKNOWN in known) else []), *words]
    tokens, first = _tokens(sentences, names)
    counts = _count(tokens, first, order, len(names))
    probability = np.zeros(0)
    grams: list[Grams] = []
    for level in counts:
        probability, left = _smooth(level, probability, len(names))
        if grams:
            grams[-1] = dataclasses.replace(grams[-1], backoff=_log10(left))
        grams.append(Grams(level.words, _log10(probability), np.zeros(len(level.words))))
    return Arpa(tuple(names), tuple(grams))


def measure(arpa: Arpa, sentences: Sequence[Sequence[str]]) -> Perplexity:
    """Score every word and sentence end of ``sentences``, as KenLM does; an unknown word ends the history.

    ``<UNK>``, as SRILM may write it, represents unknown words if the model has no ``<unk>``.
    """
    index = {word: number for number, word in enumerate(arpa.vocabulary)}
    unknown = index.get(UNKNOWN, index.get(UNKNOWN.upper(), -1))
    flat = [index.get(word, unknown) for sentence in sentences for word in (BEGIN, *sentence, END)]
    tokens = np.array(flat, np.int64)
    lengths = np.array([len(sentence) + 2 for sentence in sentences])
    place = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    score, done = np.zeros(len(tokens)), place == 0
    for length in range(arpa.order, 0, -1):
        todo = np.flatnonzero(~done & (place >= length - 1))
        window = tokens[todo[:, None] + np.arange(1 - length, 1)]
        row = arpa.find(window)
        found = row >= 0
        score[todo[found]] += arpa.grams[length - 1].log_prob[row[found]]
        done[todo[found]] = True
        if length > 1:
            history = arpa.find(window[~found, :-1])
            backoff = arpa.grams[length - 2].backoff[history]
            score[todo[~found]] += np.where(history >= 0, backoff, 0.0)
    oov = (tokens == unknown) & (place > 0)
    words = int(len(tokens) - 2 * len(sentences))
    outside = float(score[oov].sum()) if unknown >= 0 else None
    return Perplexity(len(sentences), words, int(oov.sum()), float(score[~oov].sum()), outside)


@dataclasses.dataclass(frozen=True)
class _Level:
    """The n-grams of one order, sorted, with adjusted counts and the rows of history and of the last n - 1 words."""

    words: np.ndarray
    count: np.ndarray
    history: np.ndarray
    shorter: np.ndarray


def _tokens(sentences: Sequence[Sequence[str]], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all words, ``<s>`` and ``</s>`` around each sentence; and whether each token is ``<s>``."""
    index = {word: number for number, word in enumerate(names)}
    unknown = index.get(UNKNOWN, -1)
    flat = [index.get(word, unknown) for sentence in sentences for word in (BEGIN, *sentence, END)]
    tokens = np.array(flat, np.int64)
    if (tokens < 0).any():
        outside = next(word for sentence in sentences for word in sentence if word not in index)
        raise UserError(f"{outside!r} is not in the vocabulary; add it, or give --unk")
    return tokens, tokens == index[BEGIN]


def _count(tokens: np.ndarray, first: np.ndarray, order: int, vocabulary: int) -> list[_Level]:
    """Adjusted counts: of the longest n-grams how often they occur, of others how many words come before them.

    An n-gram at the beginning of a sentence has no word before it: it counts as often as it occurs.
    """
    unigrams = np.arange(vocabulary)
    row = tokens  # of the n-gram that begins at each token
    levels = [_Level(unigrams[:, None].astype(np.int32), np.bincount(tokens, minlength=vocabulary), unigrams, unigrams)]
    for length in range(2, order + 1):
        inside = ~first[length - 1 :]
        for skip in range(1, length - 1):
            inside &= ~first[length - 1 - skip : len(first) - skip]
        begin = np.flatnonzero(inside)
        keys, place, member, count = np.unique(
            row[begin] * vocabulary + tokens[begin + length - 1],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        history, shorter = row[begin[place]], row[begin[place] + 1]
        words = np.column_stack([levels[-1].words[history], keys % vocabulary]).astype(np.int32)
        varied = np.bincount(shorter, minlength=len(levels[-1].words))
        at_start = levels[-1].words[:, 0] == tokens[0]
        levels[-1] = dataclasses.replace(levels[-1], count=np.where(at_start, levels[-1].count, varied))
        levels.append(_Level(words, count, history, shorter))
        row = np.full(len(tokens), -1)
        row[begin] = member
    levels[0].count[tokens[0]] = 0  # <s> is never predicted
    return levels


def _smooth(level: _Level, lower: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated probabilities ``[n-grams]``, and the mass that each history leaves to the shorter n-grams."""
    discounts = np.array([0.0, *_discounts(level.count)])[np.minimum(level.count, 3)]
    if not len(lower):
        total = level.count.sum()
        probability = (level.count - discounts + discounts.sum() / (vocabulary - 1)) / total  # all words but <s>
        probability[0] = 0.0
        return probability, np.ones(1)
    total = np.bincount(level.history, level.count, len(lower))
    left = np.bincount(level.history, discounts, len(lower)) / np.maximum(total, 1)
    left[total == 0] = 1.0
    probability = (level.count - discounts) / total[level.history] + left[level.history] * lower[level.shorter]
    return probability, left


def _discounts(count: np.ndarray) -> tuple[float, float, float]:
    """The discounts of n-grams seen once, twice, and three times or more."""
    once, twice, thrice, four = (int((count == number).sum()) for number in (1, 2, 3, 4))
    if not (once and twice and thrice and four):
        return FALLBACK_DISCOUNTS
    ratio = once / (once + 2 * twice)
    found = (1 - 2 * ratio * twice / once, 2 - 3 * ratio * thrice / twice, 3 - 4 * ratio * four / thrice)
    if not all(0 < discount <= number for number, discount in enumerate(found, 1)):
        return FALLBACK_DISCOUNTS
    return found


def _log10(probability: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(probability, 10**LOG_ZERO))
