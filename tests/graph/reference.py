"""Slow and plain: what a decoding graph must say, by enumeration."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from asr_kd.graph.arpa import Arpa
from asr_kd.graph.fst import Fst
from asr_kd.hmm.lexicon import Lexicon, SilenceProbabilities
from asr_kd.hmm.states import StateSpace

Paths = dict[tuple[tuple[int, ...], tuple[str, ...]], float]


def random_space(
    phones: str, seed: int, positions: tuple[int, ...], states_each: int = 3, same_states: bool = False
) -> StateSpace:
    """A state space with context-dependent chains at random; ``phones[0]`` is silence, which has no context.

    ``same_states``: the positions of a phone share their tied states.
    """
    rng = np.random.default_rng(seed)
    count, longest = len(phones), max(positions)
    table = np.full((count, count, count, longest), -1, np.int32)
    for phone, length in enumerate(positions):
        for position in range(length):
            first = (phone * longest + (0 if same_states else position)) * states_each
            table[:, phone, :, position] = (
                first if phone == 0 else first + rng.integers(states_each, size=(count, count))
            )
    used, table_index = np.unique(table, return_inverse=True)
    table = (table_index.reshape(table.shape) - int(used[0] == -1)).astype(np.int32)
    log_loop = np.log(rng.uniform(0.2, 0.8, table.max() + 1)).astype(np.float32)
    return StateSpace(tuple(phones), (phones[0],), np.array(positions), table, log_loop)


def lm_cost(arpa: Arpa, words: tuple[str, ...]) -> float:
    """The cheapest way through the back-off model, where any n-gram may also be backed off from; natural log."""
    grams = {
        tuple(arpa.vocabulary[w] for w in row): (log_prob, backoff)
        for level in arpa.grams
        for row, log_prob, backoff in zip(level.words.tolist(), level.log_prob, level.backoff, strict=True)
    }

    def best(history: tuple[str, ...], rest: tuple[str, ...]) -> float:
        if not rest:
            return 0.0
        cost, paid = math.inf, 0.0
        while True:
            if (*history, rest[0]) in grams:
                after = (*history, rest[0])[-(arpa.order - 1) :] if arpa.order > 1 else ()
                while after and after not in grams:
                    after = after[1:]
                cost = min(cost, paid - grams[(*history, rest[0])][0] * math.log(10) + best(after, rest[1:]))
            if not history:
                return cost
            paid -= grams.get(history, (0, 0.0))[1] * math.log(10)
            history = history[1:]

    return best(("<s>",) if arpa.order > 1 else (), (*words, "</s>"))


def spoken_cost(
    words: tuple[str, ...], variants: tuple[int, ...], silences: tuple[bool, ...], lexicon: Lexicon
) -> float:
    """The cost of a way to say ``words`` in Kaldi's L with silence probabilities; negative natural log.

    ``variants``: which pronunciation of each word; ``silences``: before the first word, and after each word.
    """
    rules = lexicon.silences or SilenceProbabilities()
    chance, before = rules.begin, silences[0]
    total = math.log(chance if before else 1 - chance)
    for word, variant, after in zip(words, variants, silences[1:], strict=True):
        weights = lexicon.weights_of(word)[variant]
        total += math.log(weights.probability) + math.log(weights.after_silence if before else weights.after_word)
        chance = rules.overall if weights.silence_after is None else weights.silence_after
        total += _log(chance if after else 1 - chance)
        before = after
    return -total - math.log(rules.end_after_silence if before else rules.end_after_word)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def all_paths(space: StateSpace, lexicon: Lexicon, arpa: Arpa, longest: int) -> Paths:
    """The cheapest cost of each (tied states without repetitions by self-loops, words), of up to ``longest`` states.

    Without the costs of self-loops, with those of leaving each state.
    """
    paths: Paths = {}
    for words in _sentences(lexicon, space, longest):
        language = lm_cost(arpa, words)
        for numbers in itertools.product(*(range(len(lexicon.entries[word])) for word in words)):
            variant = [lexicon.entries[word][number] for word, number in zip(words, numbers, strict=True)]
            if sum(int(space.lengths[space.index(phone)]) for pron in variant for phone in pron) > longest:
                continue
            for silences in itertools.product((False, True), repeat=len(words) + 1):
                phones: list[str] = [space.silence[0]] * silences[0]
                for pron, quiet in zip(variant, silences[1:], strict=True):
                    phones += [*pron, *[space.silence[0]] * quiet]
                around = [None, *phones, None]
                states = [s for i, p in enumerate(phones) for s in space.chain(p, around[i], around[i + 2])]
                if len(states) <= longest:
                    spoken = spoken_cost(words, numbers, silences, lexicon)
                    cost = language + spoken - float(space.log_next[states].sum())
                    key = tuple(states), words
                    paths[key] = min(cost, paths.get(key, math.inf))
    return paths


def graph_paths(fst: Fst, words: list[str], longest: int) -> Paths:
    """The same from a graph: self-loops left out."""
    paths: Paths = {}
    stack: list[tuple[int, tuple[int, ...], tuple[str, ...], float]] = [(fst.start, (), (), 0.0)]
    while stack:
        state, states, said, cost = stack.pop()
        if np.isfinite(fst.final[state]):
            total = cost + float(fst.final[state])
            paths[states, said] = min(total, paths.get((states, said), math.inf))
        for arc in range(fst.offsets[state], fst.offsets[state + 1]):
            label, word, after = int(fst.ilabel[arc]), int(fst.olabel[arc]), int(fst.nextstate[arc])
            if after != state and len(states) + (label > 0) <= longest:
                more = (*states, label - 1) if label else states
                stack.append((after, more, (*said, words[word]) if word else said, cost + float(fst.weight[arc])))
    return paths


def viterbi(fst: Fst, log_likelihoods: np.ndarray) -> float:
    """The cost of the cheapest path through a graph, over all frames of ``[frames, states]``."""
    source = fst.source
    cost = _pass_epsilons(fst, source, np.where(np.arange(fst.num_states) == fst.start, 0.0, np.inf))
    for frame in log_likelihoods:
        emitting = fst.ilabel > 0
        arcs = cost[source[emitting]] + fst.weight[emitting] - frame[fst.ilabel[emitting] - 1]
        cost = np.full(fst.num_states, np.inf)
        np.minimum.at(cost, fst.nextstate[emitting], arcs)
        cost = _pass_epsilons(fst, source, cost)
    return float((cost + fst.final).min())


def chain_viterbi(space: StateSpace, states: tuple[int, ...], log_likelihoods: np.ndarray) -> float:
    """The cost of passing through ``states`` in order over all frames, without that of leaving states."""
    cost = np.full(len(states), np.inf)
    for time, frame in enumerate(log_likelihoods):
        stay = cost - space.log_loop[list(states)]
        enter = np.concatenate([[0.0 if time == 0 else np.inf], cost[:-1]])
        cost = np.minimum(stay, enter) - frame[list(states)]
    return float(cost[-1])


def _pass_epsilons(fst: Fst, source: np.ndarray, cost: np.ndarray) -> np.ndarray:
    silent = fst.ilabel == 0
    while True:
        before = cost.copy()
        np.minimum.at(cost, fst.nextstate[silent], before[source[silent]] + fst.weight[silent])
        if np.array_equal(before, cost):
            return cost


def _sentences(lexicon: Lexicon, space: StateSpace, longest: int) -> Iterator[tuple[str, ...]]:
    shortest = {
        word: min(sum(int(space.lengths[space.index(phone)]) for phone in pron) for pron in prons)
        for word, prons in lexicon.entries.items()
    }
    stack: list[tuple[tuple[str, ...], int]] = [((), 0)]
    while stack:
        words, length = stack.pop()
        yield words
        stack += [((*words, word), length + n) for word, n in shortest.items() if length + n <= longest]
