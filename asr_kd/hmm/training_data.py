"""The utterances of a data directory and a feature store, checked before anything is computed from them."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from asr_kd.corpus.datadir import DataDir
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.hmm.graphs import UtteranceGraphs, build_graphs
from asr_kd.hmm.lexicon import UNKNOWN_WORD, Lexicon
from asr_kd.hmm.states import StateSpace


@dataclasses.dataclass(frozen=True)
class Utterances:
    """Utterances that can be aligned, sorted by id, and those ``skipped`` with the reason.

    ``features``: ``[frames, dim]`` of each, mapped from the store; ``graphs`` of their ``words``; ``fingerprint``: a
    hash of all of it, lexicon included.
    """

    ids: tuple[str, ...]
    features: Sequence[np.ndarray]
    words: Sequence[Sequence[str]]
    graphs: UtteranceGraphs
    fingerprint: str
    skipped: dict[str, str]


def load_utterances(
    datadir: DataDir, store: FrameStore, space: StateSpace, lexicon: Lexicon, skip_bad: bool = False
) -> Utterances:
    """Join transcripts and features by utterance id.

    Words outside the lexicon count as ``<unk>`` where the lexicon has that, else they are bad. An utterance is bad
    also if the other side lacks it, if it is too short for its words or if a feature is NaN or infinite. The first bad
    one raises ``UserError``; with ``skip_bad`` they are dropped and listed in ``skipped``.
    """
    if store.kind != "features" or len(store.tensors) != 1:
        raise UserError(f"{store.path}: a store of {store.kind}; expected one tensor of features (see asr-kd feats)")
    name = next(iter(store.tensors))
    skipped = {utt: f"no features in {store.path}" for utt in datadir.utterances if utt not in store}
    skipped |= {utt: f"no transcript in {datadir.path}" for utt in store.utterances if utt not in datadir.text}
    transcripts = {}
    for utt in set(datadir.utterances) - set(skipped):
        transcripts[utt] = _known(datadir.words(utt), lexicon)
        if absent := lexicon.missing(transcripts[utt]):
            skipped[utt] = f"{' '.join(absent)!r} not in the lexicon; add it, or map such words with --unknown spn"
    features = {utt: store.read(utt)[name] for utt in transcripts if utt not in skipped}
    ids = sorted(features)
    shortest = build_graphs(space, lexicon, [transcripts[utt] for utt in ids]).shortest()
    for utt, needed in zip(ids, shortest.tolist(), strict=True):
        if len(features[utt]) < needed:
            skipped[utt] = f"{len(features[utt])} frames are too few for its {len(transcripts[utt])} words ({needed})"
        elif not np.isfinite(features[utt]).all():
            skipped[utt] = f"its features in {store.path} are not all finite"
    ids = [utt for utt in ids if utt not in skipped]
    _refuse(skipped, skip_bad, len(ids))
    if not ids:
        raise UserError(f"{datadir.path}: no utterance is left; the features are in {store.path}")
    words = [transcripts[utt] for utt in ids]
    content = (store.content_hash, ids, words, sorted(lexicon.entries.items()))
    fingerprint = hashlib.sha256(repr(content).encode()).hexdigest()
    graphs = build_graphs(space, lexicon, words)
    return Utterances(tuple(ids), [features[utt] for utt in ids], words, graphs, fingerprint, skipped)


def _known(words: Sequence[str], lexicon: Lexicon) -> list[str]:
    if UNKNOWN_WORD not in lexicon:
        return list(words)
    return [word if word in lexicon else UNKNOWN_WORD for word in words]


def _refuse(skipped: dict[str, str], skip_bad: bool, good: int) -> None:
    if skipped and not skip_bad:
        first = min(skipped)
        raise UserError(
            f"{len(skipped)} utterances cannot be aligned, {good} can; the first, {first}: {skipped[first]};"
            " --skip-bad leaves them out and lists them"
        )
