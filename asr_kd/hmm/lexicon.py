"""The pronunciation lexicon: words as phone sequences, with the probabilities of pronunciations and of silences."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from asr_kd.files import write_text

SILENCE = "SIL"
UNKNOWN_WORD = "<unk>"
UNKNOWN_PHONE = "SPN"  # spoken noise: what a word outside the lexicon is aligned to
SILENCE_PROBABILITY = 0.5

PLAIN, WITH_PROBABILITIES, WITH_SILENCES = "lexicon.txt", "lexiconp.txt", "lexiconp_silprob.txt"  # Kaldi's names
SILENCES = "silprob.txt"


@dataclasses.dataclass(frozen=True)
class Weights:
    """What the lexicon knows of one pronunciation (Chen et al., "Pronunciation and silence probability modeling for
    ASR", 2015), as the columns of Kaldi's ``lexiconp_silprob.txt``.

    - ``probability`` of this pronunciation of its word; Kaldi scales the likeliest one of a word to 1.
    - ``silence_after``: probability that a silence follows; None: ``SilenceProbabilities.overall``.
    - ``after_silence``, ``after_word``: factors where a silence, or none, comes before.
    """

    probability: float = 1.0
    silence_after: float | None = None
    after_silence: float = 1.0
    after_word: float = 1.0


@dataclasses.dataclass(frozen=True)
class SilenceProbabilities:
    """Where silence is likely, as in Kaldi's ``silprob.txt``.

    ``overall``: the probability of a silence between two words; ``begin``: before the first word;
    ``end_after_silence`` and ``end_after_word``: factors where the utterance ends after a silence, or after a word.
    """

    overall: float = SILENCE_PROBABILITY
    begin: float = SILENCE_PROBABILITY
    end_after_silence: float = 1.0
    end_after_word: float = 1.0

    @classmethod
    def constant(cls, probability: float) -> "SilenceProbabilities":
        """The same probability before, between and after all words."""
        return cls(probability, probability)


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """``entries``: word -> its distinct pronunciations, each a tuple of phones. Silence is not an entry.

    ``weights``: word -> the ``Weights`` of each of its pronunciations, for every word; empty where all pronunciations
    are equally likely. ``silences`` is None where nothing is known of silence: then each is as likely as none.
    """

    entries: dict[str, tuple[tuple[str, ...], ...]]
    weights: dict[str, tuple[Weights, ...]] = dataclasses.field(default_factory=dict)
    silences: SilenceProbabilities | None = None

    @property
    def phones(self) -> tuple[str, ...]:
        """Every phone in use, sorted."""
        return tuple(sorted({phone for prons in self.entries.values() for pron in prons for phone in pron}))

    @property
    def has_word_silences(self) -> bool:
        """Whether the probability of a silence depends on the words around it."""
        ends = self.silences or SilenceProbabilities()
        return (ends.begin, ends.end_after_silence, ends.end_after_word) != (ends.overall, 1.0, 1.0) or any(
            (weights.silence_after, weights.after_silence, weights.after_word) != (None, 1.0, 1.0)
            for variants in self.weights.values()
            for weights in variants
        )

    def __contains__(self, word: str) -> bool:
        return word in self.entries

    def missing(self, words: list[str]) -> list[str]:
        """The distinct words that have no pronunciation, sorted."""
        return sorted({word for word in words if word not in self.entries})

    def weights_of(self, word: str) -> tuple[Weights, ...]:
        """The weights of each pronunciation of ``word``; those without effect where the lexicon has none."""
        return self.weights[word] if self.weights else (Weights(),) * len(self.entries[word])

    def only(self, words: Iterable[str]) -> "Lexicon":
        """The lexicon of some of its words, in the given order."""
        words = list(words)
        entries = {word: self.entries[word] for word in words}
        weights = {word: self.weights[word] for word in words} if self.weights else {}
        return Lexicon(entries, weights, self.silences)

    def content(self) -> tuple[object, ...]:
        """All of it, for a hash: one more item for each kind of probability that it has."""
        parts: list[object] = [sorted(self.entries.items())]
        if self.weights:
            parts.append(sorted((word, list(map(dataclasses.astuple, w))) for word, w in self.weights.items()))
        if self.silences:
            parts.append(dataclasses.astuple(self.silences))
        return tuple(parts)


def with_unknown(lexicon: Lexicon) -> Lexicon:
    """The lexicon with ``<unk>``, spoken noise, as the pronunciation of every word that it lacks."""
    entries = {UNKNOWN_WORD: ((UNKNOWN_PHONE,),), **lexicon.entries}
    weights = {UNKNOWN_WORD: (Weights(),), **lexicon.weights} if lexicon.weights else {}
    return Lexicon(entries, weights, lexicon.silences)


def with_silence_probability(lexicon: Lexicon, probability: float) -> Lexicon:
    """The lexicon with one ``probability`` of silence between any two words, instead of its own."""
    weights = {word: tuple(Weights(w.probability) for w in variants) for word, variants in lexicon.weights.items()}
    return Lexicon(lexicon.entries, weights, SilenceProbabilities.constant(probability))


def write_lexicon(lexicon: Lexicon, path: str | Path) -> None:
    """Write ``WORD PHONE PHONE ...``, one line for each pronunciation, repeating the word; no probabilities."""
    lines = [f"{word} {' '.join(pron)}\n" for word, prons in lexicon.entries.items() for pron in prons]
    write_text(path, "".join(lines))


def save_lexicon(lexicon: Lexicon, folder: str | Path) -> Path:
    """Write the lexicon into a model folder, with its probabilities; returns the file's path.

    That is ``lexicon.txt`` where it has none, else Kaldi's ``lexiconp.txt`` or ``lexiconp_silprob.txt``, and
    ``silprob.txt`` where it knows about silence. Any other of these files is deleted.
    """
    folder = Path(folder)
    with_silences = any(w.silence_after is not None for variants in lexicon.weights.values() for w in variants)
    name = WITH_SILENCES if with_silences else WITH_PROBABILITIES if lexicon.weights else PLAIN
    for other in {PLAIN, WITH_PROBABILITIES, WITH_SILENCES} - {name}:
        (folder / other).unlink(missing_ok=True)
    if name == PLAIN:
        write_lexicon(lexicon, folder / name)
    else:
        write_weighted_lexicon(lexicon, folder / name, with_silences)
    if lexicon.silences is None:
        (folder / SILENCES).unlink(missing_ok=True)
    else:
        write_silences(lexicon.silences, folder / SILENCES)
    return folder / name


def write_weighted_lexicon(lexicon: Lexicon, path: str | Path, with_silences: bool) -> None:
    """Write Kaldi's ``lexiconp.txt``, or ``lexiconp_silprob.txt``: lines of WORD, probabilities, phones."""
    overall = (lexicon.silences or SilenceProbabilities()).overall
    lines = []
    for word, prons in lexicon.entries.items():
        for pron, weights in zip(prons, lexicon.weights_of(word), strict=True):
            columns: tuple[float, ...] = (weights.probability,)
            if with_silences:
                after = overall if weights.silence_after is None else weights.silence_after
                columns = (*columns, after, weights.after_silence, weights.after_word)
            lines.append(f"{word} {' '.join(map(_decimal, columns))} {' '.join(pron)}\n")
    write_text(path, "".join(lines))


def write_silences(silences: SilenceProbabilities, path: str | Path) -> None:
    """Write Kaldi's ``silprob.txt``."""
    rows = {
        "<s>": silences.begin,
        "</s>_s": silences.end_after_silence,
        "</s>_n": silences.end_after_word,
        "overall": silences.overall,
    }
    write_text(path, "".join(f"{name} {_decimal(value)}\n" for name, value in rows.items()))


def _decimal(value: float) -> str:
    """The shortest text that is read as ``value`` again, always with a decimal point or exponent: 1.0, not 1."""
    return repr(float(value))
