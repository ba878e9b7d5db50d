"""The utterances of a data directory and a feature store, checked before anything is computed from them."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from asr_kd.corpus.datadir import DataDir
from asr_kd.errors import UserError, counted
from asr_kd.frames import FrameStore
from asr_kd.hmm.graphs import UtteranceGraphs, build_graphs
from asr_kd.hmm.lexicon import UNKNOWN_WORD, Lexicon
from asr_kd.hmm.states import StateSpace


class StoredFeatures:
    """The features ``[frames, dim]`` of some utterances, mapped from the store when they are asked for.

    Nothing stays open between two requests but what the store itself keeps mapped, however many shards it has.
    """

    def __init__(self, store: FrameStore, ids: Sequence[str]) -> None:
        self.store, self.ids = store, ids
        self.name = next(iter(store.tensors))
        self.frame_counts = [store.frame_counts[utt] for utt in ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, utterance: int) -> np.ndarray:
        return self.store.read(self.ids[utterance])[self.name]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[utterance] for utterance in range(len(self)))

    def only(self, utterances: Sequence[int]) -> "StoredFeatures":
        """Those of some of the utterances, by number."""
        return StoredFeatures(self.store, [self.ids[utterance] for utterance in utterances])


@dataclasses.dataclass(frozen=True)
class TranscribedUtterances:
    """Utterances that can be aligned, sorted by id, and those ``skipped`` with the reason.

    ``graphs``: of their ``words``; ``fingerprint``: a hash of all of it, lexicon included; ``unused``: how many
    utterances of the feature store are not in the data directory.
    """

    ids: tuple[str, ...]
    features: StoredFeatures
    words: Sequence[Sequence[str]]
    graphs: UtteranceGraphs
    fingerprint: str
    skipped: dict[str, str]
    unused: int


def load_utterances(
    datadir: DataDir, store: FrameStore, space: StateSpace, lexicon: Lexicon, skip_bad: bool = False
) -> TranscribedUtterances:
    """Join transcripts and features by utterance id; features of utterances outside ``datadir`` are not used.

    Words outside the lexicon count as ``<unk>`` where the lexicon has that; otherwise their utterance is bad. It is
    bad too if it has no features or no transcript, is too short for its words, or has a feature that is NaN or
    infinite. The first bad one raises ``UserError``; with ``skip_bad`` they are dropped and listed in ``skipped``.
    """
    if store.kind != "features" or len(store.tensors) != 1:
        raise UserError(f"{store.path}: holds {store.kind}; expected one tensor of features (see asr-kd feats)")
    if not any(utt in store for utt in datadir.utterances):
        count = counted(len(datadir.utterances), "utterance")
        raise UserError(
            f"{store.path}: has features of none of the {count} of {datadir.path}; give the store of this set"
        )
    skipped, transcripts = _transcripts(datadir, store, lexicon)
    features = StoredFeatures(store, sorted(transcripts))
    graphs = build_graphs(space, lexicon, [transcripts[utt] for utt in features.ids])
    for utt, frames, needed in zip(features.ids, features, graphs.shortest().tolist(), strict=True):
        if len(frames) < needed:
            skipped[utt] = (
                f"{counted(len(frames), 'frame')} for {counted(len(transcripts[utt]), 'word')}, which need {needed:,}:"
                " the audio is too short for its words; check the transcript"
            )
        elif not np.isfinite(frames).all():
            skipped[utt] = f"its features in {store.path} are not all finite"
    good = [utt for utt in features.ids if utt not in skipped]
    _refuse(skipped, skip_bad, len(good))
    if not good:
        first = min(skipped)
        raise UserError(
            f"{datadir.path}: none of {counted(len(skipped), 'utterance')} can be aligned; the first, {first}:"
            f" {skipped[first]}"
        )
    words = [transcripts[utt] for utt in good]
    if len(good) < len(features):
        features, graphs = StoredFeatures(store, good), build_graphs(space, lexicon, words)
    content = (store.content_hash, good, words, *lexicon.content())
    fingerprint = hashlib.sha256(repr(content).encode()).hexdigest()
    unused = len(set(store.utterances) - set(datadir.utterances))
    return TranscribedUtterances(tuple(good), features, words, graphs, fingerprint, skipped, unused)


def known_words(words: Sequence[str], lexicon: Lexicon) -> list[str]:
    """``words``, those outside the lexicon replaced by ``<unk>`` where the lexicon has that."""
    if UNKNOWN_WORD not in lexicon:
        return list(words)
    return [word if word in lexicon else UNKNOWN_WORD for word in words]


def _transcripts(datadir: DataDir, store: FrameStore, lexicon: Lexicon) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Why utterances of ``datadir`` cannot be aligned, and the words of the others."""
    skipped, transcripts = {}, {}
    for utt in datadir.utterances:
        if utt not in store:
            skipped[utt] = f"no features in {store.path}"
        elif utt not in datadir.text:
            skipped[utt] = f"no transcript in {datadir.path}"
        else:
            words = known_words(datadir.words(utt), lexicon)
            if absent := lexicon.missing(words):
                skipped[utt] = f"not in the lexicon: {' '.join(absent)}; add such words, or map them with --unknown spn"
            else:
                transcripts[utt] = words
    return skipped, transcripts


def _refuse(skipped: dict[str, str], skip_bad: bool, good: int) -> None:
    if skipped and not skip_bad:
        first = min(skipped)
        remedy = "; --skip-bad leaves them out and lists them" if good else ""
        raise UserError(
            f"{counted(len(skipped), 'utterance')} cannot be aligned, {good:,} can; the first, {first}:"
            f" {skipped[first]}{remedy}"
        )
