import math
import re
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.config import load_config
from asr_kd.errors import UserError
from asr_kd.graph import compile as compile_module
from asr_kd.graph.arpa_reader import read_arpa
from asr_kd.graph.compile import GraphInfo, compile_graph
from asr_kd.graph.fst import Fst
from asr_kd.graph.grammar import make_grammar
from asr_kd.hmm.lexicon import (
    Lexicon,
    SilenceProbabilities,
    Weights,
    save_lexicon,
    with_silence_probability,
    write_lexicon,
)
from asr_kd.hmm.lexicon_reader import read_lexicon
from tests.graph.reference import all_paths, chain_viterbi, graph_paths, lm_cost, random_space, viterbi
from tests.killing import Killed, killed_at

TRIGRAM = """\\data\\
ngram 1=9
ngram 2=7
ngram 3=4

\\1-grams:
-1.1 </s>
-99 <s> -0.3
-0.9 A -0.2
-1.0 B -0.4
-0.8 C -0.1
-1.2 D
-1.3 E 0.1
-0.2 <unk> -0.1
-0.5 NOPRON -0.3

\\2-grams:
-0.4 <s> A -0.1
-0.7 <s> B -0.25
-0.5 A B -0.3
-0.2 A A
-0.9 B </s>
-0.6 C D -0.2
-0.1 NOPRON A -0.1

\\3-grams:
-0.3 <s> A B
-0.15 A B </s>
-0.25 A B A
-0.1 C D </s>

\\end\\
"""
UNIGRAM = "\\data\\\nngram 1=4\n\n\\1-grams:\n-0.5 </s>\n-99 <s>\n-0.4 A\n-0.7 E\n\n\\end\\\n"
# A and E are homophones, A begins B and C, D has a one-phone pronunciation that ends C; UNSEEN is not in the models.
LEXICON = Lexicon(
    {
        "A": (("a",), ("a", "b")),
        "B": (("a", "b"),),
        "C": (("a", "b", "c"), ("c",)),
        "D": (("c",), ("b", "a")),
        "E": (("a",),),
        "UNSEEN": (("b", "b"),),
        "<unk>": (("c", "c"),),
    }
)


PROBABLE = Lexicon(
    LEXICON.entries,
    {
        word: tuple(Weights(0.3 + 0.4 * (n + len(word)) % 0.7) for n in range(len(p)))
        for word, p in LEXICON.entries.items()
    },
)
SILENT = Lexicon(
    LEXICON.entries,
    {
        "A": (Weights(1.0, 0.1, 1.7, 0.6), Weights(0.4, 0.8, 0.9, 1.1)),
        "B": (Weights(0.9, 0.3, 0.5, 1.4),),
        "C": (Weights(0.2), Weights(1.0, 1.0, 1.2, 0.8)),
        "D": (Weights(0.7, 0.25, 2.0, 0.3), Weights(0.6, 0.5)),
        "E": (Weights(0.5, 0.4, 1.3, 0.7),),
        "UNSEEN": (Weights(),),
        "<unk>": (Weights(),),
    },
    SilenceProbabilities(0.35, 0.9, 1.6, 0.4),
)


def recognisable(arpa_words: tuple[str, ...], lexicon: Lexicon = LEXICON) -> Lexicon:
    return lexicon.only(word for word in lexicon.entries if word in arpa_words and word != "<unk>")


@pytest.mark.parametrize("text", [TRIGRAM, UNIGRAM], ids=["trigram", "unigram"])
@pytest.mark.parametrize("same_states", [False, True], ids=["own states", "same states"])
@pytest.mark.parametrize(
    ("positions", "states_each", "longest"),
    [((1, 1, 1, 1), 3, 4), ((2, 1, 2, 1), 2, 4), ((1, 2, 1, 3), 2, 5), ((1, 1, 2, 1), 1, 4)],
)
def test_a_graph_has_the_paths_and_costs_that_enumeration_finds(
    tmp_path: Path, text: str, same_states: bool, positions: tuple[int, ...], states_each: int, longest: int
) -> None:
    (tmp_path / "a.arpa").write_text(text)
    space = random_space("Sabc", sum(positions), positions, states_each, same_states)
    compile_graph(space, LEXICON, tmp_path / "a.arpa", tmp_path / "graph", silence_probability=0.3)
    fst = Fst.read(tmp_path / "graph" / "HCLG.fst")
    words = [line.split()[0] for line in (tmp_path / "graph" / "words.txt").read_text().splitlines()]
    arpa = read_arpa(tmp_path / "a.arpa")
    lexicon = with_silence_probability(recognisable(arpa.vocabulary), 0.3)
    expected = all_paths(space, lexicon, arpa, longest)
    found = graph_paths(fst, words, longest)
    assert len(expected) > 20
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[path] for path in expected], list(expected.values()), atol=1e-4)

    log_likelihoods = np.random.default_rng(0).normal(scale=3, size=(longest, space.num_states))
    best = min(cost + chain_viterbi(space, states, log_likelihoods) for (states, _), cost in expected.items() if states)
    assert viterbi(fst, log_likelihoods) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("lexicon", [PROBABLE, SILENT], ids=["pronunciations", "silences"])
@pytest.mark.parametrize("text", [TRIGRAM, UNIGRAM], ids=["trigram", "unigram"])
@pytest.mark.parametrize("positions", [(1, 1, 1, 1), (2, 1, 2, 1)])
def test_probabilities_of_the_lexicon_cost_what_they_cost_in_kaldis_l(
    tmp_path: Path, lexicon: Lexicon, text: str, positions: tuple[int, ...]
) -> None:
    (tmp_path / "a.arpa").write_text(text)
    space = random_space("Sabc", sum(positions), positions, 2)
    info = compile_graph(space, lexicon, tmp_path / "a.arpa", tmp_path / "graph")
    assert info.silence_probability == (0.5 if lexicon is PROBABLE else None)
    words = [line.split()[0] for line in (tmp_path / "graph" / "words.txt").read_text().splitlines()]
    arpa = read_arpa(tmp_path / "a.arpa")
    expected = all_paths(space, recognisable(arpa.vocabulary, lexicon), arpa, 4)
    found = graph_paths(Fst.read(tmp_path / "graph" / "HCLG.fst"), words, 4)
    possible = {path for path, cost in expected.items() if math.isfinite(cost)}
    assert len(possible) > 20
    assert found.keys() == possible
    np.testing.assert_allclose([found[path] for path in possible], [expected[path] for path in possible], atol=1e-4)


def test_every_state_has_a_loop_over_what_enters_it_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(TRIGRAM)
    space = random_space("Sabc", 5, (2, 2, 2, 2), 3)
    compile_graph(space, LEXICON, tmp_path / "a.arpa", tmp_path / "graph")
    fst = Fst.read(tmp_path / "graph" / "HCLG.fst")
    loops = fst.source == fst.nextstate
    entering = np.full(fst.num_states, -1)
    entering[fst.nextstate] = fst.ilabel
    assert (entering[fst.nextstate] == fst.ilabel).all()
    looping = np.zeros(fst.num_states, bool)
    looping[fst.source[loops]] = True
    assert (looping == (entering > 0)).all()
    np.testing.assert_array_equal(fst.weight[loops], -space.log_loop[fst.ilabel[loops] - 1])


def test_monophones_share_all_contexts(tmp_path: Path) -> None:
    """Without context dependency the graph is no larger than its LG with chains in place of phones."""
    (tmp_path / "a.arpa").write_text(UNIGRAM)
    mono = random_space("Sabc", 0, (1, 1, 1, 1), states_each=1)
    triphone = random_space("Sabc", 0, (1, 1, 1, 1), states_each=3)
    small = compile_graph(mono, LEXICON, tmp_path / "a.arpa", tmp_path / "mono")
    large = compile_graph(triphone, LEXICON, tmp_path / "a.arpa", tmp_path / "tri")
    assert small.states < large.states
    assert small.states <= 12


def test_graph_yaml_says_what_was_left_out_and_what_went_in(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(TRIGRAM)
    space = random_space("Sabc", 0, (1, 1, 1, 1))
    info = compile_graph(space, LEXICON, tmp_path / "a.arpa", tmp_path / "graph")
    assert load_config(GraphInfo, tmp_path / "graph" / "graph.yaml") == info
    assert info.not_in_lexicon == ("NOPRON",)
    assert info.not_in_language_model == 1
    assert info.words == 5
    assert (tmp_path / "graph" / "words.txt").read_text() == "<eps> 0\nA 1\nB 2\nC 3\nD 4\nE 5\n"
    assert set(read_lexicon(tmp_path / "graph" / "lexicon.txt").entries) == set("ABCDE")
    again = compile_graph(space, LEXICON, tmp_path / "a.arpa", tmp_path / "again")
    assert again.inputs == info.inputs
    for name in ("HCLG.fst", "graph.yaml", "words.txt", "lexicon.txt"):  # no times, no places: the same bytes
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "graph" / name).read_bytes()


def test_histories_that_only_back_off_are_not_states(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(TRIGRAM)
    arpa = read_arpa(tmp_path / "a.arpa")
    grammar = make_grammar(arpa, ["A", "B", "C", "D", "E"])
    # Histories with continuations of their own: none, <s>, A, B (only </s>), C, <s> A, A B, C D (only </s>).
    assert grammar.num_states == 8
    for sentence in [("A", "A", "A"), ("C", "D"), ("A", "B", "A", "B"), ("D", "E", "E", "C", "D"), ()]:
        assert sentence_cost(grammar, ["A", "B", "C", "D", "E"], sentence) == pytest.approx(
            lm_cost(arpa, sentence), abs=1e-4
        )


def sentence_cost(grammar: Fst, words: list[str], sentence: tuple[str, ...]) -> float:
    costs = {grammar.start: 0.0}
    for word in (*sentence, None):
        stack = list(costs)
        while stack:
            state = stack.pop()
            for arc in range(grammar.offsets[state], grammar.offsets[state + 1]):
                after, cost = int(grammar.nextstate[arc]), costs[state] + float(grammar.weight[arc])
                if grammar.ilabel[arc] == 0 and cost < costs.get(after, math.inf):
                    costs[after] = cost
                    stack.append(after)
        if word is None:
            return min(cost + float(grammar.final[state]) for state, cost in costs.items())
        label = words.index(word) + 1
        ahead: dict[int, float] = {}
        for state, cost in costs.items():
            for arc in range(grammar.offsets[state], grammar.offsets[state + 1]):
                if grammar.ilabel[arc] == label:
                    after = int(grammar.nextstate[arc])
                    ahead[after] = min(ahead.get(after, math.inf), cost + float(grammar.weight[arc]))
        costs = ahead
    raise AssertionError


def test_words_that_no_pronunciation_serves_make_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(UNIGRAM)
    space = random_space("Sabc", 0, (1, 1, 1, 1))
    with pytest.raises(UserError, match="none of the language model's words is in the lexicon"):
        compile_graph(space, Lexicon({"X": (("a",),)}), tmp_path / "a.arpa", tmp_path / "graph")
    with pytest.raises(UserError, match="none of the language model's words is in the lexicon"):
        compile_graph(space, Lexicon({}), tmp_path / "a.arpa", tmp_path / "graph")
    with pytest.raises(UserError, match="'A' has the phone 'z'"):
        compile_graph(space, Lexicon({"A": (("z",),)}), tmp_path / "a.arpa", tmp_path / "graph")
    assert not (tmp_path / "graph" / "graph.yaml").exists()


def test_a_probability_of_silence_outside_0_1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(UNIGRAM)
    with pytest.raises(UserError, match="silence"):
        compile_graph(random_space("Sabc", 0, (1, 1, 1, 1)), LEXICON, tmp_path / "a.arpa", tmp_path / "g", 1.0)


@pytest.mark.parametrize("name", ["write", "write_lexicon", "write_words"])
def test_a_graph_whose_writing_was_killed_is_not_taken_for_a_whole_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = random_space("Sabc", 0, (1, 1, 1, 1))
    for file, text in (("old.arpa", TRIGRAM), ("new.arpa", UNIGRAM)):
        (tmp_path / file).write_text(text)
    compile_graph(tied, LEXICON, tmp_path / "old.arpa", tmp_path / "graph")
    with monkeypatch.context() as patch:
        owner = Fst if name == "write" else compile_module
        patch.setattr(owner, name, killed_at(getattr(owner, name), 1))
        with pytest.raises(Killed):
            compile_graph(tied, LEXICON, tmp_path / "new.arpa", tmp_path / "graph")
    assert not (tmp_path / "graph" / "words.txt").exists()  # without which no model can be built
    compile_graph(tied, LEXICON, tmp_path / "new.arpa", tmp_path / "graph")
    assert (tmp_path / "graph" / "words.txt").read_text() == "<eps> 0\nA 1\nE 2\n"


def test_a_graph_of_the_same_inputs_is_kept_and_of_others_made_again(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_text(TRIGRAM)
    space, graph = random_space("Sabc", 0, (1, 1, 1, 1)), tmp_path / "graph"

    def made(lexicon: Lexicon = LEXICON, silence: float = 0.3) -> int:
        compile_graph(space, lexicon, tmp_path / "a.arpa", graph, silence)
        return (graph / "HCLG.fst").stat().st_ino

    first = made()
    assert made() == first
    assert made(silence=0.4) != first
    (graph / "graph.yaml").write_text("not: what it was\n")
    second = made(silence=0.4)
    (graph / "words.txt").unlink()
    assert made(silence=0.4) != second


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "text").write_text("u1 A B C\nu2 C D NOPRON\nu3 A A\n")
    random_space("Sabc", 0, (1, 1, 1, 1)).save(tmp_path)
    write_lexicon(LEXICON, tmp_path / "lexicon.txt")
    arpa = str(tmp_path / "lm.arpa.gz")
    assert main(["lm", "estimate", str(tmp_path / "train"), arpa, "--order", "2"]) == 0
    assert "from 3 sentences" in capsys.readouterr().out
    assert main(["lm", "perplexity", arpa, str(tmp_path / "train")]) == 0
    assert "0 of 8 words out of vocabulary (0.00 %)" in capsys.readouterr().out
    assert main(["graph", "compile", str(tmp_path), arpa, str(tmp_path / "graph")]) == 0
    printed = capsys.readouterr()
    assert "4 words" in printed.out
    assert "warning: no pronunciation, so never recognised: 1 word of the language model: NOPRON" in printed.err
    assert main(["lm", "estimate", str(tmp_path / "lexicon.txt"), arpa, "--order", "0"]) == 1
    assert "--order 0: expected 1 or more" in capsys.readouterr().err


def test_the_lexicon_of_a_model_folder_brings_its_probabilities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_space("Sabc", 0, (1, 1, 1, 1)).save(tmp_path)
    (tmp_path / "a.arpa").write_text(TRIGRAM)
    graphs = {}
    for name, lexicon in (("plain", LEXICON), ("silent", SILENT)):
        save_lexicon(lexicon, tmp_path)
        assert main(["graph", "compile", str(tmp_path), str(tmp_path / "a.arpa"), str(tmp_path / name)]) == 0
        assert re.search(r"^LG: [0-9,]+ states, [0-9,]+ arcs, [0-9.]+ s$", capsys.readouterr().err, re.MULTILINE)
        graphs[name] = (tmp_path / name / "HCLG.fst").read_bytes()
    assert graphs["plain"] != graphs["silent"]
    options = ["--silence-probability", "0.3"]
    assert main(["graph", "compile", str(tmp_path), str(tmp_path / "a.arpa"), str(tmp_path / "given"), *options]) == 0
    assert load_config(GraphInfo, tmp_path / "given" / "graph.yaml").silence_probability == 0.3
