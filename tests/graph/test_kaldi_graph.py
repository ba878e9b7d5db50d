from pathlib import Path

import pytest

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.graph.fst import Fst
from asr_kd.graph.kaldi_graph import import_graph
from asr_kd.hmm.kaldi_transitions import read_transitions
from tests.hmm.kaldi_model import PDFS, write_model

GRAPH = "0 1 1 2 0.5\n1 1 2 0 0.25\n1 2 9 1 1\n2 0 0 0 0.1\n2 2 16 0\n2 0.75\n"
WORDS = "<eps> 0\nA 1\nB 2\n#0 3\n"


def write_kaldi(folder: Path, kind: str = "vector", graph: str = GRAPH) -> None:
    """``HCLG.fst`` by kaldifst, ``words.txt`` and ``final.mdl``."""
    import kaldifst

    kaldifst.compile(graph, fst_type=kind).write(str(folder / "HCLG.fst"))
    (folder / "words.txt").write_text(WORDS)
    write_model(folder / "final.mdl", binary=True)


@pytest.mark.parametrize("kind", ["vector", "const"])
def test_transition_ids_become_states_and_all_else_stays(tmp_path: Path, kind: str) -> None:
    write_kaldi(tmp_path, kind)
    transitions = read_transitions(tmp_path / "final.mdl")
    import_graph(tmp_path / "HCLG.fst", tmp_path / "words.txt", tmp_path / "out", transitions)
    before, after = Fst.read(tmp_path / "HCLG.fst"), Fst.read(tmp_path / "out" / "HCLG.fst")
    arcs = {
        (int(s), (PDFS[i] + 1) if i else 0, int(o), float(w), int(n))
        for s, i, o, w, n in zip(
            before.source, before.ilabel, before.olabel, before.weight, before.nextstate, strict=True
        )
    }
    found = zip(after.source, after.ilabel, after.olabel, after.weight, after.nextstate, strict=True)
    assert {(int(s), int(i), int(o), float(w), int(n)) for s, i, o, w, n in found} == arcs
    assert after.final.tolist() == before.final.tolist()
    assert (tmp_path / "out" / "words.txt").read_text() == WORDS


def test_without_a_model_the_labels_stay(tmp_path: Path) -> None:
    write_kaldi(tmp_path)
    fst = import_graph(tmp_path / "HCLG.fst", tmp_path / "words.txt", tmp_path / "out")
    assert sorted(fst.ilabel.tolist()) == [0, 1, 2, 9, 16]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 2 16 0", "2 2 17 0", "input label 17 is outside 0..16"),
        ("0 1 1 2", "0 1 1 4", "output label 4 is outside 0..3"),
        ("2 0.75\n", "", "no final state"),
        (GRAPH, "0 0", "empty"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_kaldi(tmp_path, graph=GRAPH.replace(old, new))
    transitions = read_transitions(tmp_path / "final.mdl")
    with pytest.raises(UserError, match=message):
        import_graph(tmp_path / "HCLG.fst", tmp_path / "words.txt", tmp_path / "out", transitions)
    assert not (tmp_path / "out" / "HCLG.fst").exists()


@pytest.mark.parametrize(
    "words", ["", "A\n", "A 1\nB 1\n", "A one\n", "A \u00b2\n", "A -1\n", "A 99999999999\n", f"A {'9' * 5000}\n"]
)
def test_word_lists_of_another_form_are_refused(tmp_path: Path, words: str) -> None:
    write_kaldi(tmp_path)
    (tmp_path / "words.txt").write_text(words)
    with pytest.raises(UserError, match="words.txt"):
        import_graph(tmp_path / "HCLG.fst", tmp_path / "words.txt", tmp_path / "out")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kaldi(tmp_path)
    sources = [str(tmp_path / name) for name in ("HCLG.fst", "words.txt", "out")]
    assert main(["graph", "import", *sources, "--model", str(tmp_path / "final.mdl")]) == 0
    assert "3 states, 5 arcs" in capsys.readouterr().out
    (tmp_path / "HCLG.fst").write_bytes(b"")
    assert main(["graph", "import", *sources]) == 1
    assert "not an OpenFst binary file" in capsys.readouterr().err
