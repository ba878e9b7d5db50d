"""Word error rate of one system on one set, keyed by utterance id."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Literal, TypeVar

import numpy as np

from asr_kd.errors import UserError, counted
from asr_kd.score.bootstrap import Interval, rate_interval
from asr_kd.score.normalise_text import normalise, same_but_for_unicode_form

_TOGETHER = 1000  # utterances whose alignments are in memory: they take far more than the words

WORDS, SUBSTITUTIONS, DELETIONS, INSERTIONS = range(4)  # the columns of the counts

Key = TypeVar("Key", str, tuple[str, str])
Transcripts = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Tally:
    """Reference words and errors, summed over several utterances."""

    utterances: int
    wrong_utterances: int
    words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors per reference word, a fraction; without reference words, the number of insertions (as in jiwer)."""
        return self.errors / max(self.words, 1)

    @property
    def sentence_error_rate(self) -> float:
        """The fraction of utterances with an error."""
        return self.wrong_utterances / max(self.utterances, 1)


@dataclasses.dataclass(frozen=True)
class Score:
    """What ``score`` counted.

    - ``utterances``, ``speakers``: sorted ids, and the speaker of each; ``speakers`` is None where they are unknown.
    - ``counts`` ``[utterances, 4]`` int64: reference words, substitutions, deletions, insertions.
    - ``missing``: utterances without a hypothesis; all their words count as deletions.
    - ``confused``, ``deleted``, ``inserted``: how often each (reference, hypothesis) pair or word was, commonest first.
    - ``normaliser``, ``jiwer``: its name and the library's version; rates compare only where both agree.
    - ``unit``: what is counted: ``words``, or ``frames``, whose states take the place of words (``score.frames``).
    """

    utterances: tuple[str, ...]
    speakers: tuple[str, ...] | None
    counts: np.ndarray
    missing: tuple[str, ...]
    confused: tuple[tuple[tuple[str, str], int], ...]
    deleted: tuple[tuple[str, int], ...]
    inserted: tuple[tuple[str, int], ...]
    normaliser: str
    jiwer: str
    unit: Literal["words", "frames"] = "words"

    @property
    def total(self) -> Tally:
        """All utterances together."""
        return tally(self.counts)

    @property
    def by_speaker(self) -> dict[str, Tally]:
        """The total of each speaker, by name; empty where the speakers are unknown."""
        rows: dict[str, list[int]] = {}
        for row, speaker in enumerate(self.speakers or ()):
            rows.setdefault(speaker, []).append(row)
        return {speaker: tally(self.counts[chosen]) for speaker, chosen in sorted(rows.items())}

    @property
    def errors(self) -> np.ndarray:
        """Errors of each utterance, ``[utterances]``."""
        return np.asarray(self.counts[:, SUBSTITUTIONS:].sum(axis=1))

    @property
    def unicode_form_only(self) -> int:
        """Substitutions of a word by itself in another Unicode form (NFC, NFD)."""
        return sum(count for pair, count in self.confused if same_but_for_unicode_form(*pair))

    @property
    def cluster_unit(self) -> str:
        """The unit of resampling: ``speaker``, or ``utterance`` where fewer than two speakers are known."""
        return "speaker" if self.speakers and len(set(self.speakers)) > 1 else "utterance"

    @property
    def clusters(self) -> tuple[str, ...]:
        """The ``cluster_unit`` of each utterance."""
        return self.speakers if self.speakers and self.cluster_unit == "speaker" else self.utterances

    @functools.cached_property
    def interval(self) -> Interval:
        """The word error rate's 95 % confidence interval."""
        return rate_interval(self.errors, self.counts[:, WORDS], self.clusters)


def score(
    references: Transcripts,
    hypotheses: Transcripts,
    speakers: Mapping[str, str] | None = None,
    normaliser: str = "none",
) -> Score:
    """Align each hypothesis with its reference (fewest errors) and count.

    All words of an utterance without a hypothesis count as deleted. Raises ``UserError`` for a hypothesis without a
    reference, for an utterance without a speaker, and where no reference has a word.
    """
    utterances = tuple(sorted(references))
    _check_ids(references, hypotheses, speakers)
    pairs = (
        (normalise(references[utt], normaliser), normalise(hypotheses.get(utt, ()), normaliser)) for utt in utterances
    )
    counts, confused, deleted, inserted = _count(pairs, len(utterances))
    if not counts[:, WORDS].any():
        raise UserError(f"the {len(utterances)} reference transcripts contain no words (normaliser {normaliser!r})")
    return Score(
        utterances=utterances,
        speakers=None if speakers is None else tuple(speakers[utt] for utt in utterances),
        counts=counts,
        missing=tuple(utt for utt in utterances if utt not in hypotheses),
        confused=_commonest(confused),
        deleted=_commonest(deleted),
        inserted=_commonest(inserted),
        normaliser=normaliser,
        jiwer=version("jiwer"),
    )


def tally(counts: np.ndarray) -> Tally:
    """The sum of the counts ``[utterances, 4]``."""
    words, substitutions, deletions, insertions = (int(column) for column in counts.sum(axis=0))
    wrong = int(counts[:, SUBSTITUTIONS:].any(axis=1).sum())
    return Tally(len(counts), wrong, words, substitutions, deletions, insertions)


def _check_ids(references: Transcripts, hypotheses: Transcripts, speakers: Mapping[str, str] | None) -> None:
    if extra := sorted(set(hypotheses) - set(references)):
        raise UserError(
            f"no reference for {len(extra):,} of {counted(len(hypotheses), 'hypothesis', 'hypotheses')}, first"
            f" {extra[0]!r}; score against the set that was decoded"
        )
    if speakers is not None and (unknown := sorted(set(references) - set(speakers))):
        raise UserError(
            f"no speaker in utt2spk for {counted(len(unknown), 'reference utterance')}, first {unknown[0]!r}; give the"
            " utt2spk of the references"
        )


def _count(
    pairs: Iterable[tuple[list[str], list[str]]], number: int
) -> tuple[np.ndarray, Counter[tuple[str, str]], Counter[str], Counter[str]]:
    """The counts ``[number, 4]`` of all pairs, and how often each error was, some pairs at a time."""
    import jiwer

    counts = np.zeros((number, 4), np.int64)
    confused: Counter[tuple[str, str]] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    rows, left = iter(counts), iter(pairs)
    while part := list(itertools.islice(left, _TOGETHER)):
        output = jiwer.process_words([" ".join(ref) for ref, _ in part], [" ".join(hyp) for _, hyp in part])
        for (reference, hypothesis), chunks, row in zip(part, output.alignments, rows, strict=False):
            row[WORDS] = len(reference)
            for chunk in chunks:
                spoken = reference[chunk.ref_start_idx : chunk.ref_end_idx]
                decoded = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
                if chunk.type == "substitute":
                    row[SUBSTITUTIONS] += len(spoken)
                    confused.update(zip(spoken, decoded, strict=True))
                elif chunk.type == "delete":
                    row[DELETIONS] += len(spoken)
                    deleted.update(spoken)
                elif chunk.type == "insert":
                    row[INSERTIONS] += len(decoded)
                    inserted.update(decoded)
    return counts, confused, deleted, inserted


def _commonest(counter: "Counter[Key]") -> tuple[tuple[Key, int], ...]:
    return tuple(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
