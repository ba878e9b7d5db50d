"""Kaldi archives: the same numbers after a round trip, and no shell command run."""

import gzip
import os
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays
from asr_kd.frames.kaldi_archives import export_kaldi, import_kaldi, read_kaldi
from asr_kd.frames.kaldi_objects import write_array
from tests.frames.conftest import STATES, Arrays, make_states


@pytest.fixture
def kaldi_io(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Another program's reader, which warns and changes ``PATH`` where this variable is not set."""
    monkeypatch.setenv("KALDI_ROOT", os.sep)
    return pytest.importorskip("kaldi_io")


def write_ark(path: Path, **arrays: Any) -> Path:
    """A binary archive."""
    with path.open("wb") as stream:
        for utterance, values in arrays.items():
            stream.write(f"{utterance} ".encode())
            write_array(stream, np.asarray(values))
    return path


def test_features_go_to_kaldi_and_back(store: FrameStore, tmp_path: Path, kaldi_io: ModuleType) -> None:
    scp = export_kaldi(store, tmp_path / "out.ark")
    for source in (tmp_path / "out.ark", scp, f"ark:{tmp_path}/out.ark", f"scp,p:{scp}"):
        found = dict(read_kaldi(source))
        assert list(found) == list(store.utterances)
        for utterance in found:
            np.testing.assert_array_equal(found[utterance], store.read(utterance)["fbank"].astype(np.float32))
    with scp.open("rb") as stream:
        assert dict(kaldi_io.read_mat_scp(stream)).keys() == found.keys()  # another program finds them too
    back = import_kaldi(scp, tmp_path / "back", "features", options=WriteOptions(shard_frames=50))
    assert (back.kind, back.tensors["fbank"].dtype, len(back.headers) > 2) == ("features", "float32", True)
    for utterance in store.utterances:
        np.testing.assert_array_equal(back.read(utterance)["fbank"], store.read(utterance)["fbank"])


def test_states_go_to_kaldi_and_back(arrays: Arrays, tmp_path: Path, kaldi_io: ModuleType) -> None:
    labels = make_states(arrays)
    store = write_arrays(tmp_path / "s", StoreContent("states", STATES), labels)
    export_kaldi(store, tmp_path / "ali.ark")
    with (tmp_path / "ali.ark").open("rb") as stream:
        found = dict(kaldi_io.read_ali_ark(stream))
    assert all((found[u] == labels[u]["state"]).all() for u in labels)
    back = import_kaldi(tmp_path / "ali.ark", tmp_path / "back", "states")
    assert back.tensors["state"].dtype == "uint16"
    assert all((back.read(u)["state"] == labels[u]["state"]).all() for u in labels)


def test_many_states_need_int32_and_unicode_ids_survive(tmp_path: Path, kaldi_io: ModuleType) -> None:
    with (tmp_path / "a.ark").open("wb") as stream:
        stream.write("Grüße-1 ".encode())
        kaldi_io.write_vec_int(stream, np.array([1, 70_000], np.int32))
    store = import_kaldi(tmp_path / "a.ark", tmp_path / "s", "states")
    assert store.tensors["state"].dtype == "int32"
    assert store.read("Grüße-1")["state"].tolist() == [1, 70_000]
    export_kaldi(store, tmp_path / "b.ark")
    assert (tmp_path / "b.ark").read_bytes() == (tmp_path / "a.ark").read_bytes()


def test_text_archives_doubles_and_float_vectors_are_read(tmp_path: Path, kaldi_io: ModuleType) -> None:
    (tmp_path / "t.ark").write_text("u1  [\n  1 2\n  3 4.5 ]\nu2  [\n  5 6 ]\n")
    assert {u: a.tolist() for u, a in read_kaldi(tmp_path / "t.ark")} == {"u1": [[1, 2], [3, 4.5]], "u2": [[5, 6]]}
    (tmp_path / "i.ark").write_text("u1 1 2 3\nu2 4\n")
    assert {u: a.tolist() for u, a in read_kaldi(tmp_path / "i.ark", integers=True)} == {"u1": [1, 2, 3], "u2": [4]}
    with (tmp_path / "d.ark").open("wb") as stream:
        kaldi_io.write_mat(stream, np.eye(2), key="m")
        kaldi_io.write_vec_flt(stream, np.arange(3.0, dtype=np.float32), key="v")
    found = dict(read_kaldi(tmp_path / "d.ark"))
    assert (found["m"].tolist(), found["v"].tolist()) == ([[1, 0], [0, 1]], [0, 1, 2])


def _compressed(form: str, matrix: np.ndarray) -> bytes:
    """The compression of Kaldi's compressed-matrix.cc, from its description, in plain loops."""
    low, width = float(matrix.min()), float(np.ptp(matrix))
    head = f"{form} ".encode() + struct.pack("<ffii", low, width, *matrix.shape)
    if form != "CM":
        top = 65535 if form == "CM2" else 255
        levels = np.round((matrix - low) / width * top)
        return head + levels.astype("<u2" if form == "CM2" else "u1").tobytes()
    columns, body = b"", b""
    for column in matrix.T:
        knots = [round((float(np.quantile(column, q)) - low) / width * 65535) for q in (0, 0.25, 0.75, 1)]
        columns += struct.pack("<4H", *knots)
        p0, p25, p75, p100 = (low + width * k / 65535 for k in knots)
        for value in column:
            if value < p25:
                level = round((value - p0) / (p25 - p0) * 64)
            elif value < p75:
                level = 64 + round((value - p25) / (p75 - p25) * 128)
            else:
                level = 192 + round((value - p75) / (p100 - p75) * 63)
            body += bytes([min(max(level, 0), 255)])
    return head + columns + body


@pytest.mark.parametrize(("form", "tolerance"), [("CM", 0.04), ("CM2", 1e-4), ("CM3", 0.02)])
def test_compressed_matrices_are_read(tmp_path: Path, form: str, tolerance: float) -> None:
    matrix = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    (tmp_path / "c.ark").write_bytes(2 * (b"utt \0B" + _compressed(form, matrix)))
    for _, found in read_kaldi(tmp_path / "c.ark"):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, matrix, atol=tolerance)


@pytest.mark.parametrize("name", ["touch {} |", "| touch {}", "scp:touch {} |", "touch {} |  "])
def test_a_pipe_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    command = name.format(victim)
    with pytest.raises(UserError, match="pipe"):
        list(read_kaldi(command))
    (tmp_path / "x.scp").write_text(f"utt {command.removeprefix('scp:')}\n")
    with pytest.raises(UserError, match=r"x\.scp:1: .*pipe"):
        import_kaldi(tmp_path / "x.scp", tmp_path / "s", "features")
    assert not victim.exists()


@pytest.mark.parametrize("cut", [7, 20, -1])
def test_cut_archive_names_the_utterance(tmp_path: Path, store: FrameStore, cut: int) -> None:
    export_kaldi(store, tmp_path / "a.ark")
    (tmp_path / "a.ark").write_bytes((tmp_path / "a.ark").read_bytes()[:cut])
    with pytest.raises(UserError, match=r"a\.ark: utterance utt\d\d: not a complete Kaldi matrix"):
        list(read_kaldi(tmp_path / "a.ark"))


def test_other_faults_are_named(tmp_path: Path, store: FrameStore) -> None:
    (tmp_path / "png.ark").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match="not a Kaldi archive"):
        list(read_kaldi(tmp_path / "png.ark"))
    (tmp_path / "range.scp").write_text("utt a.ark:5[0:9]\n")
    with pytest.raises(UserError, match=r"range\.scp:1: .*range"):
        list(read_kaldi(tmp_path / "range.scp"))
    (tmp_path / "gone.scp").write_text("utt gone.ark:5\n")
    with pytest.raises(UserError, match=r"gone\.ark: no such file"):
        list(read_kaldi(tmp_path / "gone.scp"))
    (tmp_path / "short.scp").write_text("utt\n")
    with pytest.raises(UserError, match=r"short\.scp:1: expected UTTERANCE FILE"):
        list(read_kaldi(tmp_path / "short.scp"))
    export_kaldi(store, tmp_path / "a.ark")
    (tmp_path / "twice.ark").write_bytes(2 * (tmp_path / "a.ark").read_bytes())
    with pytest.raises(UserError, match="utt00 occurs twice"):
        import_kaldi(tmp_path / "twice.ark", tmp_path / "s", "features")
    with pytest.raises(UserError, match="integer vector"):
        import_kaldi(tmp_path / "a.ark", tmp_path / "s", "states")


def test_nan_in_an_archive_is_named(tmp_path: Path) -> None:
    write_ark(tmp_path / "n.ark", good=np.zeros((2, 3), np.float32), poor=np.full((2, 3), np.nan, np.float32))
    with pytest.raises(UserError, match="utterance poor: fbank of frame 0"):
        import_kaldi(tmp_path / "n.ark", tmp_path / "s", "features")
    assert list(
        import_kaldi(tmp_path / "n.ark", tmp_path / "s", "features", options=WriteOptions(skip_bad=True)).skipped
    ) == ["poor"]


def test_what_kaldi_has_no_form_for_is_refused(tmp_path: Path) -> None:
    specs = {"top": TensorSpec("uint16", (2,)), "p": TensorSpec("float16")}
    arrays = {"u": {"top": np.zeros((3, 2), int), "p": np.zeros(3, np.float32)}}
    store = write_arrays(tmp_path / "s", StoreContent("targets", specs), arrays)
    with pytest.raises(UserError, match="top, p; choose one"):
        export_kaldi(store, tmp_path / "o.ark")
    with pytest.raises(UserError, match="no Kaldi equivalent; export another tensor"):
        export_kaldi(store, tmp_path / "o.ark", "top")
    assert export_kaldi(store, tmp_path / "o.ark", "p").exists()


def test_other_programs_read_what_is_written_byte_for_byte(tmp_path: Path, kaldi_io: ModuleType) -> None:
    random = np.random.default_rng(0)
    matrix, vector = random.normal(size=(3, 2)).astype(np.float32), random.normal(size=5).astype(np.float32)
    with (tmp_path / "ours").open("wb") as ours, (tmp_path / "theirs").open("wb") as theirs:
        write_array(ours, matrix)
        kaldi_io.write_mat(theirs, matrix)
        write_array(ours, matrix.astype(np.float64))
        kaldi_io.write_mat(theirs, matrix.astype(np.float64))
        write_array(ours, vector)
        kaldi_io.write_vec_flt(theirs, vector)
        write_array(ours, np.arange(4))
        kaldi_io.write_vec_int(theirs, np.arange(4, dtype=np.int32))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 1 2 3 \nb \n1001 5 5 \nd 7 8 \n", {"a": [1, 2, 3], "b": [], "1001": [5, 5], "d": [7, 8]}),
        ("a\n1001 5\n", {"a": [], "1001": [5]}),
        ("a 7\nb 8\n", {"a": [7], "b": [8]}),
        ("a 7", {"a": [7]}),
        ("a\t1 2 3\nb\t4\n", {"a": [1, 2, 3], "b": [4]}),
        ("a 1 2\r\nb \r\nc 4\r\n", {"a": [1, 2], "b": [], "c": [4]}),
        ("a -1 +2 2147483647\n", {"a": [-1, 2, 2147483647]}),
    ],
)
def test_text_integer_vectors_end_with_their_line(tmp_path: Path, text: str, expected: dict[str, list[int]]) -> None:
    (tmp_path / "i.ark").write_bytes(text.encode())
    assert {u: a.tolist() for u, a in read_kaldi(tmp_path / "i.ark", integers=True)} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u  [ 1 2 3 ]\nv  [ 4 ]\n", {"u": [1, 2, 3], "v": [4]}),
        ("u [ 1 2 3 ]\n", {"u": [1, 2, 3]}),
        ("u\t[\n 1 2\n 3 4 ]\n", {"u": [[1, 2], [3, 4]]}),
        ("u [\n  1 2 3 ]\n", {"u": [[1, 2, 3]]}),
        ("u [ 1 2 ; 3 4 ]\n", {"u": [[1, 2], [3, 4]]}),
        ("u  [\r\n  1 2\r\n  3 4 ]\r\nv  [\r\n  5 6 ]\r\n", {"u": [[1, 2], [3, 4]], "v": [[5, 6]]}),
        ("u  [ ]\nv  [\n  5 6 ]\n", {"u": [], "v": [[5, 6]]}),
        ("u [1 2]\n", {"u": [1, 2]}),
    ],
)
def test_text_floats_are_vectors_on_one_line_and_matrices_on_several(
    tmp_path: Path, text: str, expected: dict[str, Any]
) -> None:
    (tmp_path / "f.ark").write_bytes(text.encode())
    assert {u: a.tolist() for u, a in read_kaldi(tmp_path / "f.ark")} == expected


@pytest.mark.parametrize(
    ("content", "integers", "message"),
    [
        (b"u [ 1 2\n 3 ]\n", False, "rows of 2 and 1 columns"),
        (b"u [ 1 x ]\n", False, "could not convert"),
        (b"u [ 1_0 ]\n", False, "something that is not a number"),
        (b"u [ 1 2\n", False, "before the closing bracket"),
        (b"u 1 2\n", False, "where an opening bracket"),
        (b"u [ 1 ] [ 2 ]\n", False, "after the closing bracket"),
        (b"u 1 2.5\n", True, "is not a 32-bit integer"),
        (b"u 2147483648\n", True, "does not fit in 32 bits"),
        ("u ²\n".encode(), True, "is not a 32-bit integer"),
        (b"u " + b"9" * 5000 + b"\n", True, "is not a 32-bit integer"),
        (b"u \0BFM \4\xff\xff\xff\xff\4\1\0\0\0", False, "a size of -1"),
        (b"u \0BFM \4\xff\xff\xff\x7f\4\xff\xff\xff\x7f", False, "expected at most"),
        (b"u \0BFM \4\0\1\0\0\4\1\0\0\0", False, "the file ends after 0"),
        (b"u \0BFM \x08\0\1\0\0\4\1\0\0\0", False, "where a size was expected"),
        (b"u \0BSM \4", False, "an object of kind .SM."),
        (b"u \0BCM " + struct.pack("<ffii", 0, 1, -1, 5), False, "a matrix of -1 x 5"),
        (b"u \0BCM3 " + struct.pack("<ffii", 0, 1, 2**31 - 1, 2**31 - 1), False, "expected at most"),
        (b"u \0B\4\xff\xff\xff\x7f", True, "the file ends after"),
        (b"u \0B\4\1\0\0\0\x08\0\0\0\0", True, "not a 32-bit integer"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, content: bytes, integers: bool, message: str) -> None:
    (tmp_path / "a.ark").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.ark: utterance u: not a complete Kaldi .*: .*{message}"):
        list(read_kaldi(tmp_path / "a.ark", integers))


def test_random_bytes_are_read_or_refused(tmp_path: Path, store: FrameStore) -> None:
    whole = export_kaldi(store, tmp_path / "a.ark").with_suffix(".ark").read_bytes()
    random, refused = np.random.default_rng(0), 0
    for _ in range(300):
        content = bytearray(whole)
        for place in random.integers(len(content), size=3):
            content[place] = random.integers(256)
        (tmp_path / "b.ark").write_bytes(content[: random.integers(len(content))])
        for integers in (False, True):
            try:
                list(read_kaldi(tmp_path / "b.ark", integers))
            except UserError:
                refused += 1
    assert refused > 300  # of 600: most are cut, and floats are no integers


def test_utterances_without_frames_are_named_or_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = np.zeros((0, 0), np.float32)
    write_ark(tmp_path / "f.ark", a=np.ones((2, 3), np.float32), b=empty, c=np.zeros((1, 3), np.float32))
    write_ark(tmp_path / "i.ark", a=np.arange(3), b=np.arange(0), c=np.arange(1))
    (tmp_path / "t.ark").write_text("a  [\n 1 2 3 ]\nb  [ ]\nc  [\n 4 5 6 ]\n")
    for name, kind in (("f", "features"), ("i", "states"), ("t", "features")):
        command = ["frames", "import", str(tmp_path / f"{name}.ark"), str(tmp_path / name), "--kind", kind]
        assert main(command) == 1
        assert "utterance b: it has no frames (--skip-bad leaves it out)" in capsys.readouterr().err
        assert main([*command, "--skip-bad"]) == 0
        assert "2 utterances, 1 skipped" in capsys.readouterr().out
        assert FrameStore(tmp_path / name).skipped == {"b": "it has no frames"}
    write_ark(tmp_path / "none.ark", b=empty)
    with pytest.raises(UserError, match="holds no utterance that can be read; the first, b: it has no frames"):
        import_kaldi(tmp_path / "none.ark", tmp_path / "none", "features", options=WriteOptions(skip_bad=True))


def test_scp_files_with_tabs_spaces_and_crlf_are_read_and_bad_entries_left_out(tmp_path: Path) -> None:
    ark = write_ark(tmp_path / "a b.ark", u1=np.ones((2, 3), np.float32), u2=np.zeros((1, 3), np.float32))
    second = ark.read_bytes().index(b"u2 ") + 3
    lines = [
        f"u1\t{ark}:3", f"u2  {ark}:{second} ", f"gone {tmp_path}/gone.ark:5", f"far {ark}:99999999999999999999999",
        f"off {ark}:4", f"folder {tmp_path}:3",
    ]  # fmt: skip
    (tmp_path / "a.scp").write_bytes("\r\n".join(lines).encode())
    store = import_kaldi(tmp_path / "a.scp", tmp_path / "s", "features", options=WriteOptions(skip_bad=True))
    assert store.frame_counts == {"u1": 2, "u2": 1}
    assert list(store.skipped) == ["gone", "far", "off", "folder"]
    assert "ends before byte 9" in store.skipped["far"]
    with pytest.raises(UserError, match="utterance gone: .*no such file"):
        import_kaldi(tmp_path / "a.scp", tmp_path / "t", "features")


@pytest.mark.parametrize("form", ["binary", "text"])
def test_compressed_archives_are_imported_as_their_content(tmp_path: Path, form: str) -> None:
    ark = write_ark(tmp_path / "a.ark", v=np.ones((2, 3), np.float32), u=np.zeros((1, 3), np.float32))
    if form == "text":
        ark.write_text("v  [\n 1 1 1\n 1 1 1 ]\nu  [\n 0 0 0 ]\n")
    (tmp_path / "a.ark.gz").write_bytes(gzip.compress(ark.read_bytes()))
    plain = import_kaldi(ark, tmp_path / "plain", "features")
    before = sorted(path.name for path in tmp_path.iterdir())
    packed = import_kaldi(tmp_path / "a.ark.gz", tmp_path / "packed", "features")
    assert packed.inputs == plain.inputs
    assert all((packed.read(u)["fbank"] == plain.read(u)["fbank"]).all() for u in plain.utterances)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "packed"])
    (tmp_path / "cut.ark.gz").write_bytes((tmp_path / "a.ark.gz").read_bytes()[:-9])
    with pytest.raises(UserError, match="cut.ark.gz: the compressed data is damaged or truncated"):
        import_kaldi(tmp_path / "cut.ark.gz", tmp_path / "cut", "features")
    (tmp_path / "bad.ark.gz").write_bytes(gzip.compress(ark.read_bytes()[:-3]))
    with pytest.raises(UserError, match="/bad.ark.gz: utterance u: not a complete"):
        import_kaldi(tmp_path / "bad.ark.gz", tmp_path / "cut", "features")


@pytest.mark.parametrize("identifier", ["a|b", "|a", "a\x1bb", "a\u2028b", "a\x00b", "a\u3000b", "a\x7f"])
def test_an_id_that_an_scp_cannot_hold_is_not_exported(tmp_path: Path, identifier: str) -> None:
    content = StoreContent("states", STATES)
    store = write_arrays(tmp_path / "s", content, {identifier: {"state": np.arange(3)}})
    with pytest.raises(UserError, match="white space, a pipe or a control character in an id"):
        export_kaldi(store, tmp_path / "o.ark")
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize("identifier", ["a b", "a\nb cat /etc/passwd |", "", "a\t", "\udcff"])
def test_an_id_with_white_space_is_not_stored(tmp_path: Path, identifier: str) -> None:
    with pytest.raises(UserError, match="utterance id .* (is empty or has white space|is not valid Unicode)"):
        write_arrays(tmp_path / "s", StoreContent("states", STATES), {identifier: {"state": np.arange(3)}})


@pytest.mark.parametrize("name", ["a\nb.ark", "|a.ark", "x |/a.ark"])
def test_a_path_that_an_scp_cannot_hold_is_not_exported_to(
    store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"an \.scp cannot hold a path with"):
        export_kaldi(store, name)


def test_an_archive_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.ark")
    with pytest.raises(UserError, match=r"p\.ark: is a device or a named pipe"):
        list(read_kaldi(tmp_path / "p.ark"))
