"""LG: a grammar's words replaced by their pronunciations, with optional silence between them."""

import math
from collections.abc import Sequence

import numpy as np

from asr_kd.graph.expand import Chains, expand
from asr_kd.graph.fst import EPSILON, Fst, ranges


def pronounce(
    grammar: Fst, pronunciations: Sequence[Sequence[tuple[int, ...]]], silence: int, silence_probability: float
) -> Fst:
    """Phones in, words out; ``pronunciations[label - 1]`` are those of a word, each a tuple of phone labels.

    ``silence`` is the label of the silence phone, which may come before and after each word. The pronunciations of a
    word cost nothing, as in Kaldi's lexicon without pronunciation probabilities.
    """
    chains: list[tuple[int, ...]] = [(EPSILON,)]  # of the back-off arcs
    offsets = [0, 1]
    for variants in pronunciations:
        chains += variants
        offsets.append(len(chains))
    first = np.array(offsets)
    arc, row = ranges(first[grammar.ilabel], np.diff(first)[grammar.ilabel])
    columns = (column[arc] for column in (grammar.olabel, grammar.weight, grammar.nextstate))
    by_variant = Fst.from_arcs(grammar.start, grammar.final, grammar.source[arc], row, *columns)
    pronounced = expand(by_variant, Chains.from_lists(chains))
    return _add_silence(pronounced, grammar.num_states, silence, silence_probability).connect()


def _add_silence(fst: Fst, histories: int, silence: int, probability: float) -> Fst:
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
