"""The decoding graph HCLG: language model, lexicon, context and HMM states in one transducer."""

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from asr_kd import __version__
from asr_kd.config import save_config
from asr_kd.errors import UserError
from asr_kd.files import sha256, write_text
from asr_kd.graph.arpa import BEGIN, END, UNKNOWN, Arpa, read_arpa
from asr_kd.graph.context import add_context
from asr_kd.graph.expand import expand
from asr_kd.graph.fst import Fst
from asr_kd.graph.grammar import make_grammar
from asr_kd.graph.loops import add_self_loops
from asr_kd.graph.pronounce import pronounce
from asr_kd.hmm.lexicon import Lexicon, write_lexicon
from asr_kd.hmm.states import StateSpace

GRAPH, WORDS, LEXICON, INFO = "HCLG.fst", "words.txt", "lexicon.txt", "graph.yaml"
SILENCE_PROBABILITY = 0.5

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class GraphInfo:
    """What ``graph.yaml`` says of a graph: sizes, words left out, seconds of each step, and where it came from.

    ``not_in_lexicon``: words of the language model that cannot be recognised; ``not_in_language_model``: how many
    words of the lexicon cannot. ``inputs``: SHA-256 of the language model, lexicon and state space.
    """

    states: int
    arcs: int
    words: int
    not_in_lexicon: tuple[str, ...]
    not_in_language_model: int
    silence_probability: float
    sizes: dict[str, int]
    seconds: dict[str, float]
    inputs: dict[str, str]
    version: str = __version__


def compile_graph(
    space: StateSpace,
    lexicon: Lexicon,
    arpa: str | Path,
    out: str | Path,
    silence_probability: float = SILENCE_PROBABILITY,
) -> GraphInfo:
    """Write the folder ``out``: ``HCLG.fst`` (input label: tied state + 1; const format), ``words.txt``,
    ``lexicon.txt`` (of the graph's words) and, last, ``graph.yaml``.

    Costs are negative natural logs of the language model's, the transitions' and the optional silences' probabilities.
    Words of the language model without a pronunciation are left out, ``<unk>`` in any case. Raises ``UserError`` if
    no word is left, a phone is not one of the space's, or the ARPA file at ``arpa`` is malformed.
    """
    if not 0 < silence_probability < 1:
        raise UserError(f"a silence probability of {silence_probability} is not between 0 and 1")
    out = Path(out)
    clock = _Clock()
    model = clock("read", lambda: read_arpa(arpa))
    words = sorted(set(model.vocabulary) & set(lexicon.entries) - {BEGIN, END, UNKNOWN})
    graph = _compose(space, {word: lexicon.entries[word] for word in words}, model, silence_probability, clock)
    graph.check(max_ilabel=space.num_states, max_olabel=len(words))
    for name in (INFO, WORDS):  # a folder whose writing was interrupted has no words.txt and is no model's graph
        (out / name).unlink(missing_ok=True)
    graph.write(out / GRAPH)
    write_lexicon(Lexicon({word: lexicon.entries[word] for word in words}), out / LEXICON)
    write_words(words, out / WORDS)
    info = GraphInfo(
        states=graph.num_states,
        arcs=graph.num_arcs,
        words=len(words),
        not_in_lexicon=tuple(sorted(set(model.vocabulary) - set(words) - {BEGIN, END, UNKNOWN})),
        not_in_language_model=len(set(lexicon.entries) - set(words) - {UNKNOWN}),
        silence_probability=silence_probability,
        sizes=clock.sizes,
        seconds=clock.seconds,
        inputs={"language_model": sha256(arpa), "lexicon": _hash(lexicon.entries), "states": _hash_space(space)},
    )
    save_config(info, out / INFO)
    return info


def write_words(words: list[str], path: str | Path) -> None:
    """Write Kaldi's ``words.txt``: ``<eps> 0``, then each word with its output label."""
    write_text(path, "".join(f"{word} {label}\n" for label, word in enumerate(["<eps>", *words])))


def _compose(
    space: StateSpace,
    pronunciations: dict[str, tuple[tuple[str, ...], ...]],
    model: Arpa,
    silence_probability: float,
    clock: "_Clock",
) -> Fst:
    number = {phone: place for place, phone in enumerate(space.phones, 1)}
    for word, variants in pronunciations.items():
        for phone in {phone for variant in variants for phone in variant} - number.keys():
            raise UserError(f"{word!r} has the phone {phone!r}, which the model lacks; its phones: {' '.join(number)}")
    labels = [[tuple(number[phone] for phone in pron) for pron in variants] for variants in pronunciations.values()]
    grammar = clock("G", lambda: make_grammar(model, list(pronunciations)))
    silence = number[space.silence[0]]
    spoken = clock("LG", lambda: pronounce(grammar, labels, silence, silence_probability))
    in_context, chains = clock("CLG", lambda: add_context(spoken, space))
    unrolled = clock("HCLGa", lambda: expand(in_context, chains))
    return clock("HCLG", lambda: add_self_loops(unrolled.connect(), space.log_loop, space.log_next).connect())


class _Clock:
    """Runs steps and keeps how long each took and how many arcs it made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.sizes: dict[str, int] = {}

    def __call__(self, step: str, work: Callable[[], Result]) -> Result:
        begin = time.monotonic()
        result = work()
        self.seconds[step] = round(time.monotonic() - begin, 2)
        fst = result[0] if isinstance(result, tuple) else result
        if isinstance(fst, Fst):
            self.sizes[step] = fst.num_arcs
        return result


def _hash(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _hash_space(space: StateSpace) -> str:
    content = hashlib.sha256(repr((space.phones, space.silence)).encode())
    for values in (space.lengths, space.table, space.log_loop):
        content.update(np.ascontiguousarray(values).tobytes())
    return content.hexdigest()
