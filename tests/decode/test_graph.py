"""What is checked of a decoding graph when it is opened."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.decode.graph import map_graph, search_graph, write_graph
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.decode.search_kernels import Graph
from asr_kd.errors import UserError
from asr_kd.graph.fst import Fst
from tests.decode.test_search import random_graph, random_scores

BIG = 2**31 - 1


def edited(path: Path, table: str, place: int, field: str, value: float) -> Path:
    """A graph of which one number of one state or arc is another."""
    graph = search_graph(random_graph(1))
    tables = {"states": graph.states.copy(), "arcs": graph.arcs.copy()}
    tables[table][field][place] = value
    write_graph(Graph(graph.start, tables["states"], tables["arcs"], graph.columns), path)
    return path


@pytest.mark.parametrize("place", [0, 7, -1])
@pytest.mark.parametrize(
    ("table", "field", "values"),
    [
        ("states", "final", (np.nan, -np.inf)),
        ("states", "first", (-1, 10**6, BIG, -BIG)),
        ("states", "arcs", (-1, 10**6, BIG)),
        ("states", "silent", (-1, 10**6, BIG)),
        ("states", "wordless", (-1, 10**6)),
        ("arcs", "label", (-1, -BIG)),
        ("arcs", "word", (-1, 6, BIG)),
        ("arcs", "cost", (np.nan, -np.inf)),
        ("arcs", "next", (-1, 10**6, BIG)),
    ],
)
def test_a_number_out_of_range_is_named(
    tmp_path: Path, table: str, field: str, values: tuple[float, ...], place: int
) -> None:
    for value in values:
        with pytest.raises(UserError, match=r"HCLG\.fst: state \d+: .*; build the graph again"):
            map_graph(edited(tmp_path / "HCLG.fst", table, place, field, value), num_words=6)


def test_arcs_without_input_among_the_others_are_refused(tmp_path: Path) -> None:
    graph = search_graph(random_graph(1))
    state = int(np.flatnonzero(graph.states["silent"] < graph.states["arcs"])[0])
    arc = int(graph.states["first"][state] + graph.states["arcs"][state]) - 1
    with pytest.raises(UserError, match=f"state {state}: arc .*should have label 0, the others a label above 0"):
        map_graph(edited(tmp_path / "HCLG.fst", "arcs", arc, "label", 0), num_words=6)


def test_a_graph_without_a_final_state_is_refused(tmp_path: Path) -> None:
    graph = search_graph(random_graph(1))
    states = graph.states.copy()
    states["final"] = np.inf
    write_graph(Graph(graph.start, states, graph.arcs, graph.columns), tmp_path / "HCLG.fst")
    with pytest.raises(UserError, match="no state is final"):
        map_graph(tmp_path / "HCLG.fst")


def silent(*pairs: tuple[int, int]) -> Fst:
    """Arcs without input between these pairs of states; each state also consumes a frame and stays."""
    count = max(max(pair) for pair in pairs) + 1
    loops = [(state, 1, 0, 0.5, state) for state in range(count)]
    arcs = [*loops, *((source, 0, 1, -0.5, target) for source, target in pairs)]
    return Fst.from_arcs(0, np.zeros(count, np.float32), *(np.array(column) for column in zip(*arcs, strict=True)))


@pytest.mark.parametrize(
    "pairs", [[(0, 0)], [(0, 1), (1, 0)], [(3, 0), (0, 2), (2, 1), (1, 3)], [(0, 9), (9, 8), (8, 7), (7, 9)]]
)
def test_a_cycle_of_arcs_without_input_is_refused(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(UserError, match="a cycle of input-epsilon arcs|an input-epsilon self-loop"):
        search_graph(silent(*pairs))


@pytest.mark.parametrize("seed", range(30))
def test_a_cycle_is_found_exactly_where_there_is_no_topological_order(seed: int) -> None:
    import graphlib

    pairs = np.random.default_rng(seed).integers(0, 12, (14, 2)).tolist()
    sorter = graphlib.TopologicalSorter({12: ()})
    for source, target in pairs:
        sorter.add(target, source)
    try:
        sorter.prepare()
    except graphlib.CycleError:
        with pytest.raises(UserError, match="input-epsilon"):
            search_graph(silent(*map(tuple, pairs)))
    else:
        search_graph(silent(*map(tuple, pairs)))


def test_a_graph_made_to_block_the_search_is_given_up() -> None:
    """Diamonds in a row, whose costs make a depth-first search revise the last one 2 ** 40 times."""
    arcs = [(0, 1, 0, 0.0, 0)]
    for number in range(40):
        first, second, third = 2 * number, 2 * number + 1, 2 * number + 2
        arcs += [
            (first, 0, 0, -float(2 ** (40 - number)), second),
            (first, 0, 0, 0.0, third),
            (second, 0, 0, 0.0, third),
        ]
    columns = [np.array(column) for column in zip(*arcs, strict=True)]
    graph = search_graph(Fst.from_arcs(0, np.zeros(81, np.float32), *columns))
    decoder = Decoder(graph, SearchOptions(beam=1e30))
    with pytest.raises(UserError, match="too many input-epsilon paths"):
        decoder.decode(np.zeros((3, 1), np.float32))


def test_what_is_checked_decodes_as_before(tmp_path: Path) -> None:
    fst, options = random_graph(5), SearchOptions(acoustic_scale=1.0, beam=30.0)
    write_graph(search_graph(fst), tmp_path / "HCLG.fst")
    mapped, emitted = map_graph(tmp_path / "HCLG.fst", num_words=6)
    assert mapped.columns == fst.ilabel.max()
    assert np.flatnonzero(emitted).tolist() == np.unique(fst.olabel).tolist()
    scores = random_scores(5)
    assert Decoder(mapped, options).decode(scores).words == Decoder(search_graph(fst), options).decode(scores).words
