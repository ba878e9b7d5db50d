"""LG: a grammar's words replaced by their pronunciations, with optional silence between them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from asr_kd.graph.expand import Chains, expand
from asr_kd.graph.fst import EPSILON, Fst, ranges
from asr_kd.hmm.lexicon import SilenceProbabilities, Weights


@dataclasses.dataclass(frozen=True)
class Pronunciations:
    """What ``pronounce`` needs of a lexicon.

    - ``phones[label - 1]``: the pronunciations of a word, each a tuple of phone labels; ``weights`` in the same order.
    - ``silence``: the label of the optional silence between words, and ``silences`` its probabilities; they depend
      on the neighbouring words if ``by_word``.
    """

    phones: Sequence[Sequence[tuple[int, ...]]]
    weights: Sequence[Sequence[Weights]]
    silence: int
    silences: SilenceProbabilities
    by_word: bool


def pronounce(grammar: Fst, lexicon: Pronunciations) -> Fst:
    """Phones in, words out; costs as those of Kaldi's lexicon transducers (make_lexicon_fst.py, ..._silprob.py)."""
    chains: list[tuple[int, ...]] = [(EPSILON,)]  # of the back-off arcs
    offsets = [0, 1]
    for variants in lexicon.phones:
        chains += variants
        offsets.append(len(chains))
    weights = [Weights(), *(weights for variants in lexicon.weights for weights in variants)]
    first = np.array(offsets)
    arc, row = ranges(first[grammar.ilabel], np.diff(first)[grammar.ilabel])
    spoken = -np.log(np.array([item.probability for item in weights]))
    columns = (grammar.olabel[arc], grammar.weight[arc] + spoken[row], grammar.nextstate[arc])
    by_variant = Fst.from_arcs(grammar.start, grammar.final, grammar.source[arc], row, *columns)
    if lexicon.by_word:
        return _with_word_silences(by_variant, chains, weights, lexicon).connect()
    pronounced = expand(by_variant, Chains.from_lists(chains))
    return _with_silences(pronounced, grammar.num_states, lexicon.silence, lexicon.silences.overall).connect()


def _with_silences(fst: Fst, histories: int, silence: int, probability: float) -> Fst:
    """Let a silence come before each of the first ``histories`` states that a word ends in, and before the start.

    Such a state gets a twin that words lead to. The twin has the arcs of the state (no silence) and an arc over the
    silence to the state: so a silence comes at most once in a row, and no epsilon is added.
    """
    with_silence, without = -math.log(probability), -math.log1p(-probability)
    source, first = fst.source, fst.num_states
    twin = np.where((fst.nextstate < histories) & (fst.ilabel != EPSILON), first + fst.nextstate, fst.nextstate)
    copied = source < histories
    states = np.arange(histories)
    none = np.zeros(histories, np.int64)
    return Fst.from_arcs(
        first + fst.start,
        np.concatenate([fst.final, fst.final[:histories] + np.float32(without)]),
        np.concatenate([source, source[copied] + first, first + states]),
        np.concatenate([fst.ilabel, fst.ilabel[copied], none + silence]),
        np.concatenate([fst.olabel, fst.olabel[copied], none]),
        np.concatenate([fst.weight, fst.weight[copied] + without, none + with_silence]),
        np.concatenate([twin, twin[copied], states]),
    )


def _with_word_silences(
    fst: Fst, chains: list[tuple[int, ...]], weights: list[Weights], lexicon: Pronunciations
) -> Fst:
    """Expand ``fst``, whose input labels are rows of ``chains``, with silences that depend on the words around them.

    Each state of ``fst`` comes twice: as reached by a word, and as reached by a silence (plus the number of states).
    A pronunciation leads to the first, or with the silence phone at its end to the second.
    """
    count, silences = fst.num_states, lexicon.silences
    cost = -np.log(np.array([(item.after_word, item.after_silence) for item in weights]))
    probability = np.array([silences.overall if w.silence_after is None else w.silence_after for w in weights])
    with np.errstate(divide="ignore"):
        leave = -np.log(np.stack([1 - probability, probability]))
    begin, end = (1 - silences.begin, silences.begin), (silences.end_after_word, silences.end_after_silence)
    every = [*chains, *((*chain, lexicon.silence) for chain in chains[1:]), (lexicon.silence,)]
    word = fst.ilabel > 0
    columns = (fst.source, fst.ilabel, fst.olabel, fst.weight, fst.nextstate)
    source, row, label, weight, target = (column[word] for column in columns)
    arcs = []
    for before in (0, 1):
        shift = before * count
        arcs.append([column[~word] + more for column, more in zip(columns, (shift, 0, 0, 0, shift), strict=True)])
        for after in (0, 1):
            costs = weight + cost[row, before] + leave[after][row]
            rows = row + after * (len(chains) - 1)
            arcs.append([source + shift, rows, label, costs, target + after * count])
        opening = len(every) - 1 if before else 0  # the chain of a silence alone, or epsilon
        arcs.append([np.array([item]) for item in (2 * count, opening, 0, _cost(begin[before]), fst.start + shift)])
    joined = [np.concatenate(column) for column in zip(*arcs, strict=True)]
    possible = np.isfinite(joined[3])
    final = np.concatenate([fst.final + _cost(end[0]), fst.final + _cost(end[1]), [np.inf]])
    doubled = Fst.from_arcs(2 * count, final, *(column[possible] for column in joined))
    return expand(doubled, Chains.from_lists(every))


def _cost(probability: float) -> float:
    return -math.log(probability) if probability > 0 else math.inf
