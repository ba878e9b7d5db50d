"""When each word of the best path begins and ends."""

from collections.abc import Sequence

import numpy as np

from asr_kd.decode.search import Path
from asr_kd.errors import UserError
from asr_kd.hmm.lexicon import UNKNOWN_PHONE, UNKNOWN_WORD, Lexicon
from asr_kd.hmm.states import StateSpace


class WordAligner:
    """Finds the frames of each word in the states of a path.

    The graph's word labels do not give them: determinisation moves labels along the arcs. The states are those of the
    words' pronunciations in sequence, with silences between them. So the times are exactly the path's, and no
    likelihoods are needed. If two divisions fit, the earlier word is the shorter one.
    """

    def __init__(self, space: StateSpace, lexicon: Lexicon) -> None:
        self._entries = lexicon.entries
        self._fits: dict[str, list[frozenset[int]]] = {}
        for number, phone in enumerate(space.phones):
            chains = space.table[:, number, :, : space.lengths[number]].reshape(-1, space.lengths[number])
            self._fits[phone] = [frozenset(np.unique(column).tolist()) for column in chains.T]
        self._silences = [(phone,) for phone in space.silence]

    def frames(self, path: Path, words: Sequence[str]) -> list[tuple[int, int]]:
        """First frame and end of each of the path's ``words``.

        Raises ``UserError`` if the path does not follow the words' pronunciations, as with another lexicon.
        """
        entries = np.append(np.flatnonzero(path.enters), len(path.states))
        states = path.states[entries[:-1]].tolist()
        cut = not path.complete  # an unfinished path may end within a word
        reached = [dict.fromkeys(self._after_silence(states, {0}, cut), (0, 0))]  # end -> (begin, end of the last word)
        for word in words:
            ends: dict[int, tuple[int, int]] = {}
            for begin in sorted(reached[-1]):
                for end in self._after_word(states, begin, word, cut):
                    for further in self._after_silence(states, {end}, cut):
                        ends.setdefault(further, (begin, end))
            reached.append(ends)
        at = len(states) if len(states) in reached[-1] else max(reached[-1], default=-1)
        if at < 0 or (at < len(states) and not cut):
            raise UserError(
                f"the path does not fit the pronunciations of {' '.join(words)!r}; use the lexicon from which the"
                " graph was made"
            )
        spans = []
        for ends in reversed(reached[1:]):
            begin, end = ends[at]
            spans.append((int(entries[begin]), int(entries[end])))
            at = begin
        return spans[::-1]

    def _after_word(self, states: list[int], begin: int, word: str, cut: bool) -> list[int]:
        unknown = ((UNKNOWN_PHONE,),) if word == UNKNOWN_WORD else ()
        prons = self._entries.get(word, unknown)
        return sorted({end for pron in prons if (end := self._match(states, begin, pron, cut)) >= 0})

    def _after_silence(self, states: list[int], places: set[int], cut: bool) -> list[int]:
        """``places``, and the places after any number of silences that begin there, nearest first."""
        found, new = set(places), set(places)
        while new:
            ends = {self._match(states, place, silence, cut) for place in new for silence in self._silences}
            new = {end for end in ends if end >= 0} - found
            found |= new
        return sorted(found)

    def _match(self, states: list[int], at: int, phones: Sequence[str], cut: bool) -> int:
        """Where ``phones``, which begin at ``at``, end in ``states``; -1 if they do not fit."""
        for phone in phones:
            for allowed in self._fits.get(phone, ()):
                if at == len(states):
                    return at if cut else -1
                if states[at] not in allowed:
                    return -1
                at += 1
        return at
