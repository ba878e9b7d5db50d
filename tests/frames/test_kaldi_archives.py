"""Kaldi archives: the same numbers after a round trip, and no shell command run."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays
from asr_kd.frames.kaldi_archives import _kaldi_io, export_kaldi, import_kaldi, read_kaldi
from tests.frames.conftest import STATES, Arrays, make_states

kaldi_io = pytest.importorskip("kaldi_io") if "KALDI_ROOT" in os.environ else _kaldi_io()


def test_importing_kaldi_io_leaves_the_environment_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert os.environ.get("KALDI_ROOT") != os.sep
    assert "fstbin" not in os.environ["PATH"]


def test_features_go_to_kaldi_and_back(store: FrameStore, tmp_path: Path) -> None:
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


def test_states_go_to_kaldi_and_back(arrays: Arrays, tmp_path: Path) -> None:
    labels = make_states(arrays)
    store = write_arrays(tmp_path / "s", StoreContent("states", STATES), labels)
    export_kaldi(store, tmp_path / "ali.ark")
    with (tmp_path / "ali.ark").open("rb") as stream:
        found = dict(kaldi_io.read_ali_ark(stream))
    assert all((found[u] == labels[u]["state"]).all() for u in labels)
    back = import_kaldi(tmp_path / "ali.ark", tmp_path / "back", "states")
    assert back.tensors["state"].dtype == "uint16"
    assert all((back.read(u)["state"] == labels[u]["state"]).all() for u in labels)


def test_many_states_need_int32_and_unicode_ids_survive(tmp_path: Path) -> None:
    with (tmp_path / "a.ark").open("wb") as stream:
        stream.write("Grüße-1 ".encode())
        kaldi_io.write_vec_int(stream, np.array([1, 70_000], np.int32))
    store = import_kaldi(tmp_path / "a.ark", tmp_path / "s", "states")
    assert store.tensors["state"].dtype == "int32"
    assert store.read("Grüße-1")["state"].tolist() == [1, 70_000]
    export_kaldi(store, tmp_path / "b.ark")
    assert (tmp_path / "b.ark").read_bytes() == (tmp_path / "a.ark").read_bytes()


def test_text_archives_doubles_and_float_vectors_are_read(tmp_path: Path) -> None:
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
    with pytest.raises(UserError, match=r"a\.ark: utterance utt\d\d: not a whole Kaldi matrix"):
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
    with (tmp_path / "n.ark").open("wb") as stream:
        kaldi_io.write_mat(stream, np.zeros((2, 3), np.float32), key="good")
        kaldi_io.write_mat(stream, np.full((2, 3), np.nan, np.float32), key="poor")
    with pytest.raises(UserError, match="utterance poor: fbank of frame 0"):
        import_kaldi(tmp_path / "n.ark", tmp_path / "s", "features")
    assert list(
        import_kaldi(tmp_path / "n.ark", tmp_path / "s", "features", options=WriteOptions(skip_bad=True)).skipped
    ) == ["poor"]


def test_what_kaldi_has_no_form_for_is_refused(tmp_path: Path) -> None:
    specs = {"top": TensorSpec("uint16", (2,)), "p": TensorSpec("float16")}
    arrays = {"u": {"top": np.zeros((3, 2), int), "p": np.zeros(3, np.float32)}}
    store = write_arrays(tmp_path / "s", StoreContent("targets", specs), arrays)
    with pytest.raises(UserError, match="top, p; say which"):
        export_kaldi(store, tmp_path / "o.ark")
    with pytest.raises(UserError, match="no form in Kaldi"):
        export_kaldi(store, tmp_path / "o.ark", "top")
    assert export_kaldi(store, tmp_path / "o.ark", "p").exists()
