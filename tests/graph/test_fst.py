import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.errors import UserError
from asr_kd.graph.fst import Fst, from_kaldifst, ranges, to_kaldifst

COLUMNS = ("final", "offsets", "ilabel", "olabel", "weight", "nextstate")


def make_fst(states: int = 30, arcs: int = 90, seed: int = 0) -> Fst:
    """Random arcs, with a line through all states so that each is on a path, and state 1 without arcs of its own."""
    rng = np.random.default_rng(seed)
    line = np.delete(np.arange(states), 1)
    source = np.concatenate([line[:-1], rng.choice(line, arcs), [0]])
    target = np.concatenate([line[1:], rng.integers(states, size=arcs), [1]])
    final = np.full(states, np.inf)
    final[[1, states - 1]] = 0.5, 1.25
    labels = rng.integers(0, 9, (2, len(source)))
    return Fst.from_arcs(0, final, source, labels[0], labels[1], rng.normal(size=len(source)), target)


def assert_equal(one: Fst, other: Fst) -> None:
    assert one.start == other.start
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("kind", ["const", "vector"])
def test_a_written_graph_is_read_as_it_was_by_us_and_by_kaldifst(tmp_path: Path, kind: str) -> None:
    import kaldifst

    fst = make_fst()
    fst.write(tmp_path / "a.fst", kind)
    assert_equal(Fst.read(tmp_path / "a.fst"), fst)
    reader = {"const": kaldifst.StdConstFst, "vector": kaldifst.StdVectorFst}[kind]
    theirs = reader.read(str(tmp_path / "a.fst"))
    assert theirs.start == fst.start
    found = [
        (state, arc.ilabel, arc.olabel, np.float32(arc.weight.value), arc.nextstate)
        for state in kaldifst.StateIterator(theirs)
        for arc in kaldifst.ArcIterator(theirs, state)
    ]
    columns = (fst.source, fst.ilabel, fst.olabel, fst.weight, fst.nextstate)
    assert found == list(
        zip(*(column.tolist() for column in columns[:3]), columns[3], columns[4].tolist(), strict=True)
    )
    assert [theirs.final(state).value for state in range(fst.num_states)] == fst.final.tolist()


def test_there_and_back_through_kaldifst() -> None:
    fst = make_fst()
    assert_equal(from_kaldifst(to_kaldifst(fst)), fst)


def test_symbol_tables_are_skipped(tmp_path: Path) -> None:
    import kaldifst

    symbols = kaldifst.SymbolTable()
    for label, name in enumerate(["<eps>", "a", "bb", "ccc"]):
        symbols.add_symbol(name, label)
    text = "0 1 a bb 0.5\n1 2 ccc a 1.5\n2 0.25"
    theirs = kaldifst.compile(text, isymbols=symbols, osymbols=symbols, keep_isymbols=True, keep_osymbols=True)
    theirs.write(str(tmp_path / "a.fst"))
    fst = Fst.read(tmp_path / "a.fst")
    assert (fst.ilabel.tolist(), fst.olabel.tolist(), fst.weight.tolist()) == ([1, 3], [2, 1], [0.5, 1.5])


def test_aligned_const_files_are_read(tmp_path: Path) -> None:
    """As OpenFst writes with --fst_align: padded to 16 bytes before the states and before the arcs."""
    fst = make_fst(states=7, arcs=5)
    fst.write(tmp_path / "a.fst")
    content = (tmp_path / "a.fst").read_bytes()
    types = 4 + 9 + 12  # magic number, "const" and "standard" with their lengths
    header, states = types + 4 + 4 + 8 + 3 * 8, 20 * fst.num_states
    flags = types + 4
    body = content[:flags] + b"\4" + content[flags + 1 : header] + bytes(-header % 16)
    body += content[header : header + states]
    body += bytes(-len(body) % 16) + content[header + states :]
    (tmp_path / "b.fst").write_bytes(body)
    assert_equal(Fst.read(tmp_path / "b.fst"), fst)


@pytest.mark.parametrize("kind", ["const", "vector"])
def test_a_file_cut_anywhere_is_an_error_and_no_crash(tmp_path: Path, kind: str) -> None:
    make_fst(states=5, arcs=6).write(tmp_path / "a.fst", kind)
    content = (tmp_path / "a.fst").read_bytes()
    for length in range(len(content)):
        (tmp_path / "b.fst").write_bytes(content[:length])
        with pytest.raises(UserError, match="b.fst"):
            Fst.read(tmp_path / "b.fst")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damaged_byte_is_read_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fst"
        make_fst(states=4, arcs=4).write(path, data.draw(st.sampled_from(["const", "vector"])))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(content))
        with contextlib.suppress(UserError):
            fst = Fst.read(path)
            assert to_kaldifst(fst).num_states == fst.num_states  # what is accepted does not crash kaldifst


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final": np.zeros(0, np.float32), "offsets": np.zeros(1, np.int64)}, "empty"),
        ({"start": -1}, "start state -1"),
        ({"final": np.full(5, np.inf, np.float32)}, "no final state"),
        ({"nextstate": np.full(11, 5, np.int32)}, "state 0 goes to state 5, which is missing"),
        ({"ilabel": np.full(11, 10, np.int32)}, "input label 10 is outside 0..9"),
        ({"ilabel": np.full(11, -1, np.int32)}, "input label -1"),
        ({"olabel": np.full(11, 12, np.int32)}, "output label 12 is outside 0..11"),
        ({"weight": np.full(11, np.nan, np.float32)}, "NaN"),
        ({"weight": np.full(11, -np.inf, np.float32)}, "NaN or minus infinity"),
    ],
)
def test_what_would_crash_a_decoder_is_refused(change: dict[str, Any], message: str) -> None:
    fst = make_fst(states=5, arcs=7)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(fst, **change).check("G", max_ilabel=9, max_olabel=11)


def test_connect_keeps_paths_from_start_to_end_only() -> None:
    final = np.array([np.inf, np.inf, 0.0, np.inf, 0.0])
    fst = Fst.from_arcs(
        1, final, *np.array([[1, 1, 3, 4, 0], [7, 8, 9, 6, 5], [0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [2, 3, 3, 2, 1]])
    )
    kept = fst.connect()
    assert (kept.start, kept.ilabel.tolist(), kept.nextstate.tolist()) == (0, [7], [1])
    assert kept.final.tolist() == [np.inf, 0.0]


def test_connect_of_a_graph_without_a_path_is_empty() -> None:
    final = np.array([np.inf, 0.0])
    none = Fst.from_arcs(0, final, *np.zeros((5, 1), np.int64)).connect()
    assert (none.num_states, none.num_arcs) == (0, 0)


def test_connect_survives_many_parallel_arcs() -> None:
    arcs = 256  # a count that wraps to 0 in a byte
    zero, one = np.zeros(arcs, np.int64), np.ones(arcs, np.int64)
    fst = Fst.from_arcs(0, np.array([np.inf, 0.0]), zero, np.arange(arcs), one, zero, one)
    assert fst.connect().num_arcs == arcs


def test_ranges_run_through_each_range() -> None:
    item, number = ranges(np.array([5, 0, 9]), np.array([2, 0, 3]))
    assert (item.tolist(), number.tolist()) == ([0, 0, 2, 2, 2], [5, 6, 9, 10, 11])
