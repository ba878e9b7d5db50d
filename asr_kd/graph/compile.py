"""The decoding graph HCLG: language model, lexicon, context and HMM states in one transducer."""

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from asr_kd import __version__
from asr_kd.config import load_config, save_config
from asr_kd.errors import UserError, counted
from asr_kd.files import sha256, write_text
from asr_kd.graph.arpa import BEGIN, END, UNKNOWN, Arpa
from asr_kd.graph.arpa_reader import read_arpa
from asr_kd.graph.context import add_context
from asr_kd.graph.expand import expand
from asr_kd.graph.fst import Fst
from asr_kd.graph.grammar import make_grammar
from asr_kd.graph.loops import add_self_loops
from asr_kd.graph.pronounce import Pronunciations, pronounce
from asr_kd.hmm.lexicon import Lexicon, SilenceProbabilities, with_silence_probability, write_lexicon
from asr_kd.hmm.states import StateSpace

GRAPH, WORDS, LEXICON, INFO = "HCLG.fst", "words.txt", "lexicon.txt", "graph.yaml"

Result = TypeVar("Result")
Report = Callable[[str], None]  # takes a line about what was done


@dataclasses.dataclass(frozen=True)
class GraphInfo:
    """The content of ``graph.yaml``: sizes, words left out, and what the graph was made from.

    ``not_in_lexicon``: words of the language model that cannot be recognised; ``not_in_language_model``: how many
    words of the lexicon cannot. ``silence_probability``: of a silence between words, where it does not depend on the
    words. ``sizes``: arcs after each step. ``inputs``: SHA-256 of the language model, lexicon and state space.
    """

    states: int
    arcs: int
    words: int
    not_in_lexicon: tuple[str, ...]
    not_in_language_model: int
    silence_probability: float | None
    sizes: dict[str, int]
    inputs: dict[str, str]
    version: str = __version__


def compile_graph(
    space: StateSpace,
    lexicon: Lexicon,
    arpa: str | Path,
    out: str | Path,
    silence_probability: float | None = None,
    report: Report | None = None,
) -> GraphInfo:
    """Write the folder ``out``: ``HCLG.fst`` (input label: tied state + 1; const format), ``words.txt``,
    ``lexicon.txt`` (pronunciations of the graph's words) and, last, ``graph.yaml``.

    Costs are negative natural logs of the probabilities of the language model, the pronunciations, the optional
    silences and the transitions. ``silence_probability`` replaces what the lexicon knows of silences; without either
    it is 0.5. Words of the language model without a pronunciation are left out, and ``<unk>`` always is. ``report``
    is called with the size and time of each step. A graph in ``out`` that was made from the same inputs is kept.
    Raises ``UserError`` if no word is left, a phone is not one of the space's, or the ARPA file at ``arpa`` is
    malformed.
    """
    if silence_probability is not None:
        if not 0 < silence_probability < 1:
            raise UserError(f"the silence probability is {silence_probability}; expected a number between 0 and 1")
        lexicon = with_silence_probability(lexicon, silence_probability)
    out = Path(out)
    inputs = {"language_model": sha256(arpa), "lexicon": _hash_lexicon(lexicon), "states": _hash_space(space)}
    if made := _made_before(out, inputs):
        return made
    clock = _Clock(report or (lambda _: None))
    model = clock("read", lambda: read_arpa(arpa))
    words = sorted(set(model.vocabulary) & set(lexicon.entries) - {BEGIN, END, UNKNOWN})
    if not words:
        raise UserError(
            f"{arpa}: none of the language model's words is in the lexicon, so nothing could be recognised; do both use"
            " the same case (upper or lower)?"
        )
    spoken = lexicon.only(words)
    graph = _compose(space, spoken, model, clock)
    graph.check(max_ilabel=space.num_states, max_olabel=len(words))
    for name in (INFO, WORDS):  # a folder whose writing was interrupted has no words.txt and is no model's graph
        (out / name).unlink(missing_ok=True)
    graph.write(out / GRAPH)
    write_lexicon(spoken, out / LEXICON)
    write_words(words, out / WORDS)
    info = GraphInfo(
        states=graph.num_states,
        arcs=graph.num_arcs,
        words=len(words),
        not_in_lexicon=tuple(sorted(set(model.vocabulary) - set(words) - {BEGIN, END, UNKNOWN})),
        not_in_language_model=len(set(lexicon.entries) - set(words) - {UNKNOWN}),
        silence_probability=None if spoken.has_word_silences else (spoken.silences or SilenceProbabilities()).overall,
        sizes=clock.sizes,
        inputs=inputs,
    )
    save_config(info, out / INFO)
    return info


def _made_before(out: Path, inputs: dict[str, str]) -> GraphInfo | None:
    """What ``graph.yaml`` says of the graph in ``out``, if it is complete and this version made it from them."""
    if not all((out / name).exists() for name in (INFO, GRAPH, WORDS, LEXICON)):
        return None
    try:
        info = load_config(GraphInfo, out / INFO)
    except UserError:  # of another version, or damaged: it is replaced
        return None
    return info if info.inputs == inputs and info.version == __version__ else None


def write_words(words: list[str], path: str | Path) -> None:
    """Write Kaldi's ``words.txt``: ``<eps> 0``, then each word with its output label."""
    write_text(path, "".join(f"{word} {label}\n" for label, word in enumerate(["<eps>", *words])))


def _compose(space: StateSpace, lexicon: Lexicon, model: Arpa, clock: "_Clock") -> Fst:
    """HCLG over the words of ``lexicon``, in their order."""
    number = {phone: place for place, phone in enumerate(space.phones, 1)}
    for word, variants in lexicon.entries.items():
        for phone in {phone for variant in variants for phone in variant} - number.keys():
            raise UserError(f"{word!r} has the phone {phone!r}, which the model lacks; its phones: {' '.join(number)}")
    pronunciations = Pronunciations(
        [[tuple(number[phone] for phone in pron) for pron in variants] for variants in lexicon.entries.values()],
        [lexicon.weights_of(word) for word in lexicon.entries],
        number[space.silence[0]],
        lexicon.silences or SilenceProbabilities(),
        lexicon.has_word_silences,
    )
    grammar = clock("G", lambda: make_grammar(model, list(lexicon.entries)))
    spoken = clock("LG", lambda: pronounce(grammar, pronunciations))
    in_context, chains = clock("CLG", lambda: add_context(spoken, space))
    unrolled = clock("HCLGa", lambda: expand(in_context, chains))
    return clock("HCLG", lambda: add_self_loops(unrolled.connect(), space.log_loop, space.log_next).connect())


class _Clock:
    """Runs steps, keeps how many arcs each made, and reports how long it took."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.sizes: dict[str, int] = {}

    def __call__(self, step: str, work: Callable[[], Result]) -> Result:
        begin = time.monotonic()
        result = work()
        fst = result[0] if isinstance(result, tuple) else result
        size = ""
        if isinstance(fst, Fst):
            self.sizes[step] = fst.num_arcs
            size = f"{counted(fst.num_states, 'state')}, {counted(fst.num_arcs, 'arc')}, "
        self.report(f"{step}: {size}{time.monotonic() - begin:.1f} s")
        return result


def _hash_lexicon(lexicon: Lexicon) -> str:
    content = lexicon.content()
    return _hash(lexicon.entries if len(content) == 1 else content)


def _hash(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _hash_space(space: StateSpace) -> str:
    content = hashlib.sha256(repr((space.phones, space.silence)).encode())
    for values in (space.lengths, space.table, space.log_loop):
        content.update(np.ascontiguousarray(values).tobytes())
    return content.hexdigest()
