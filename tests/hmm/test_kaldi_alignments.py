import gzip
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, write_arrays
from asr_kd.frames.kaldi_objects import write_array
from asr_kd.hmm.kaldi_alignments import KaldiAlignments, import_alignment
from asr_kd.hmm.kaldi_transitions import read_transitions
from tests.hmm.kaldi_model import LOOP_PDFS, PDFS, write_model

ALIGNMENTS = {"u1": [1, 1, 2, 4, 15], "u2": [5, 6, 9], "u3": [16]}


def write_ark(path: Path, alignments: dict[str, list[int]]) -> Path:
    with open(path, "wb") as stream:
        for utt, labels in alignments.items():
            stream.write(f"{utt} ".encode())
            write_array(stream, np.array(labels, np.int32))
    return path


def make_features(path: Path, lengths: dict[str, int]) -> FrameStore:
    arrays = {utt: {"fbank": np.zeros((length, 2), np.float32)} for utt, length in lengths.items()}
    return write_arrays(path, StoreContent("features", {"fbank": TensorSpec("float16", (2,), "log-mel")}), arrays)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("separate_loops", [False, True], ids=["triples", "tuples"])
def test_the_pdf_of_each_transition_id(tmp_path: Path, binary: bool, separate_loops: bool) -> None:
    write_model(tmp_path / "final.mdl", binary, separate_loops)
    assert read_transitions(tmp_path / "final.mdl").tolist() == (LOOP_PDFS if separate_loops else PDFS)


def test_a_table_of_transition_ids_in_text(tmp_path: Path) -> None:
    (tmp_path / "tid2pdf").write_text("2 7\n1 7\n3 0\n")
    assert read_transitions(tmp_path / "tid2pdf").tolist() == [-1, 7, 7, 0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1 2 3\n",
        b"1 2\n3 4\n",
        b"1 2\n1 2\n",
        b"\x89PNG\r\n",
        "1 \u00b2\n".encode(),
        "\u0661 2\n".encode(),
        b"1 " + b"9" * 5000 + b"\n",
        b"1 999999999\n",
        b"1 -2\n",
        b"1 1_0\n",
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "final.mdl").write_bytes(content)
    with pytest.raises(UserError, match="final.mdl"):
        read_transitions(tmp_path / "final.mdl")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_a_model_cut_before_its_transitions_end_is_refused(tmp_path: Path, binary: bool) -> None:
    write_model(tmp_path / "final.mdl", binary)
    content = (tmp_path / "final.mdl").read_bytes()
    whole = content.index(b"</Triples>") + len(b"</Triples>")
    for length in range(3 if binary else 20, whole, 3):
        (tmp_path / "final.mdl").write_bytes(content[:length])
        with pytest.raises(UserError, match="final.mdl"):
            read_transitions(tmp_path / "final.mdl")


@pytest.mark.parametrize("packed", [False, True], ids=["ark", "gz"])
def test_alignments_of_transition_ids_become_states(tmp_path: Path, packed: bool) -> None:
    write_model(tmp_path / "final.mdl", binary=True)
    ark = write_ark(tmp_path / "ali.1", ALIGNMENTS)
    if packed:
        (tmp_path / "ali.1.gz").write_bytes(gzip.compress(ark.read_bytes()))
        ark = tmp_path / "ali.1.gz"
    transitions = read_transitions(tmp_path / "final.mdl")
    features = make_features(tmp_path / "feats", {"u1": 5, "u2": 3, "u3": 1})
    store = import_alignment(KaldiAlignments([ark], transitions), tmp_path / "states", features)
    assert (store.kind, store.config["num_states"], store.tensors["state"].dtype) == ("states", 7, "uint16")
    for utt, labels in ALIGNMENTS.items():
        assert store.read(utt)["state"].tolist() == [PDFS[label] for label in labels]


def test_alignments_of_pdfs_from_several_archives(tmp_path: Path) -> None:
    one = write_ark(tmp_path / "a.ark", {"u1": [0, 3]})
    other = write_ark(tmp_path / "b.ark", {"u2": [70000]})
    store = import_alignment(KaldiAlignments([one, other]), tmp_path / "states")
    assert store.tensors["state"].dtype == "int32"
    assert store.config["num_states"] == 70001
    assert [store.read(utt)["state"].tolist() for utt in store.utterances] == [[0, 3], [70000]]


def test_another_number_of_frames_than_the_features_is_an_error_or_left_out(tmp_path: Path) -> None:
    ark = write_ark(tmp_path / "a.ark", ALIGNMENTS)
    features = make_features(tmp_path / "feats", {"u1": 5, "u2": 4})
    with pytest.raises(UserError, match="utterance u2 has 3 frames, .*feats 4"):
        import_alignment(KaldiAlignments([ark]), tmp_path / "states", features=features)
    store = import_alignment(KaldiAlignments([ark]), tmp_path / "states", features=features, skip_bad=True)
    assert list(store.utterances) == ["u1"]


@pytest.mark.parametrize(
    ("alignments", "transitions", "num_states", "message"),
    [
        ({"u1": [17]}, np.array(PDFS), None, "u1: transition-id 17 is outside 1..16"),
        ({"u1": [0]}, np.array(PDFS), None, "u1: transition-id 0 is outside 1..16"),
        ({"u1": [-1]}, None, None, "state -1"),
        ({"u1": [9]}, None, 9, "state 9 is outside 0..8"),
        ({"u1": [2**31 - 1]}, None, None, "2,147,483,648 states; at most"),
        ({}, None, None, "no utterance"),
    ],
)
def test_labels_out_of_range_are_refused(
    tmp_path: Path,
    alignments: dict[str, list[int]],
    transitions: np.ndarray | None,
    num_states: int | None,
    message: str,
) -> None:
    ark = write_ark(tmp_path / "a.ark", alignments)
    with pytest.raises(UserError, match=message):
        import_alignment(KaldiAlignments([ark], transitions, num_states), tmp_path / "s")


def test_an_utterance_twice_is_refused(tmp_path: Path) -> None:
    ark = write_ark(tmp_path / "a.ark", ALIGNMENTS)
    with pytest.raises(UserError, match="u1 occurs twice"):
        import_alignment(KaldiAlignments([ark, ark]), tmp_path / "states")


def test_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pipe"):
        import_alignment(KaldiAlignments([f"ark:touch {tmp_path}/ran|"]), tmp_path / "states")
    assert not (tmp_path / "ran").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "final.mdl", binary=True)
    ark, store = str(write_ark(tmp_path / "a.ark", ALIGNMENTS)), str(tmp_path / "states")
    assert main(["hmm", "import-alignment", store, ark, "--model", str(tmp_path / "final.mdl")]) == 0
    assert "3 utterances, 9 frames, 7 states" in capsys.readouterr().out


def test_a_flipped_byte_of_packed_alignments_is_refused(tmp_path: Path) -> None:
    ark = write_ark(tmp_path / "ali.1", {f"u{number}": list(range(1, 16)) for number in range(20)})
    content = bytearray(gzip.compress(ark.read_bytes()))
    for place in range(10, len(content)):
        content[place] ^= 0x41
        (tmp_path / "ali.1.gz").write_bytes(content)
        content[place] ^= 0x41
        with pytest.raises(UserError, match=r"ali\.1\.gz"):
            import_alignment(KaldiAlignments([tmp_path / "ali.1.gz"]), tmp_path / "states")


def test_a_cut_object_in_packed_alignments_is_named_by_its_archive_and_no_copy_stays(tmp_path: Path) -> None:
    ark = write_ark(tmp_path / "ark", ALIGNMENTS)
    (tmp_path / "ali.1.gz").write_bytes(gzip.compress(ark.read_bytes()[:-3]))
    ark.unlink()
    with pytest.raises(UserError, match=r"^\S*/ali\.1\.gz: utterance u3: not a complete Kaldi integer vector"):
        import_alignment(KaldiAlignments([tmp_path / "ali.1.gz"]), tmp_path / "states")
    assert [path.name for path in tmp_path.iterdir()] == ["ali.1.gz"]
