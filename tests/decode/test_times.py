"""Word times from the states of a path, wherever the graph puts its word labels."""

import numpy as np
import pytest

from asr_kd.decode.graph import search_graph
from asr_kd.decode.search import Decoder, Path, SearchOptions
from asr_kd.decode.times import WordAligner
from asr_kd.errors import UserError
from asr_kd.hmm.lexicon import Lexicon
from asr_kd.hmm.states import StateSpace
from tests.decode.conftest import LEXICON, WORDS, loop_graph

SAID = [("SIL", 3), ("NO", 2), ("ON", 1), ("SIL", 1), ("STOP", 2), ("NO", 1)]  # with the frames of each state


def truth(space: StateSpace) -> tuple[list[int], list[tuple[int, int]], list[str]]:
    states: list[int] = []
    spans, words = [], []
    for word, frames in SAID:
        phones = ("SIL",) if word == "SIL" else LEXICON.entries[word][-1]
        begin = len(states)
        states += [state for phone in phones for state in space.chain(phone) for _ in range(frames)]
        if word != "SIL":
            words.append(word)
            spans.append((begin, len(states)))
    return states, spans, words


@pytest.mark.parametrize("late", [0, 2, 100])
def test_times_do_not_depend_on_where_the_graph_emits_the_word(space: StateSpace, late: int) -> None:
    states, spans, words = truth(space)
    scores = np.full((len(states), space.num_states), -20, np.float32)
    scores[np.arange(len(states)), states] = 0
    decoder = Decoder(search_graph(loop_graph(space, LEXICON, WORDS, late)), SearchOptions(acoustic_scale=1.0, beam=30))
    path = decoder.decode(scores)
    assert [WORDS[index] for index in path.words] == words
    assert WordAligner(space, LEXICON).frames(path, words) == spans


def test_a_path_cut_within_a_word_ends_with_it(space: StateSpace) -> None:
    states, spans, words = truth(space)
    cut = spans[2][0] + 7
    scores = np.full((cut, space.num_states), -20, np.float32)
    scores[np.arange(cut), states[:cut]] = 0
    graph = search_graph(loop_graph(space, LEXICON, WORDS))
    path = Decoder(graph, SearchOptions(acoustic_scale=1.0, beam=30)).decode(scores)
    assert not path.complete
    assert WordAligner(space, LEXICON).frames(path, words[:3]) == [*spans[:2], (spans[2][0], cut)]


def test_another_lexicon_is_refused(space: StateSpace) -> None:
    states, _, words = truth(space)
    path = Path((), (), np.array(states), np.ones(len(states), bool), 0.0, True)
    with pytest.raises(UserError, match="lexicon"):
        WordAligner(space, Lexicon({"NO": (("S",),)})).frames(path, words)
