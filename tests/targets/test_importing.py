"""Kaldi archives as soft targets: the same as from the network itself, and every mistake named."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.frames import WriteOptions
from asr_kd.frames.kaldi_objects import write_array
from asr_kd.nets import log_posteriors, open_model
from asr_kd.targets import NetworkOutputs, TargetConfig, TargetStore, Teacher, import_targets, write_targets
from asr_kd.targets.importing import log_probabilities
from asr_kd.targets.verify import check_values
from tests.killing import Killed, killed_at
from tests.targets.conftest import LENGTHS, STATES, Scene, files_of
from tests.train.conftest import write_features

TOPK, DENSE = TargetConfig("topk", k=3), TargetConfig("dense")
SAMPLED = TargetConfig("sampled", k=3, temperatures=(2.0,))
Matrices = dict[str, np.ndarray]


def write_archive(folder: Path, matrices: Matrices) -> tuple[Path, Path]:
    """``a.ark`` and ``a.scp``, in the order given."""
    folder.mkdir(exist_ok=True)
    ark, lines = folder / "a.ark", []
    with ark.open("wb") as stream:
        for utterance, matrix in matrices.items():
            stream.write(f"{utterance} ".encode())
            lines.append(f"{utterance} {ark}:{stream.tell()}\n")
            write_array(stream, matrix)
    (folder / "a.scp").write_text("".join(lines))
    return ark, folder / "a.scp"


@pytest.fixture
def said(scene: Scene) -> Matrices:
    """The teacher's log-probabilities, in no order."""
    model = open_model(scene.teacher)
    order = np.random.default_rng(0).permutation(sorted(LENGTHS))
    return {str(u): log_posteriors(model, scene.features.read(str(u))["fbank"]) for u in order}


@pytest.mark.parametrize("config", [TOPK, DENSE, SAMPLED], ids=lambda config: config.form)
def test_it_is_what_the_network_itself_gives(
    scene: Scene, said: Matrices, tmp_path: Path, config: TargetConfig
) -> None:
    ark, _ = write_archive(tmp_path / "a", said)
    found = import_targets(NetworkOutputs(ark, "log-prob", scene.features), tmp_path / "t", config)
    expected = write_targets(Teacher(scene.teacher, scene.features), tmp_path / "w", config)
    assert (found.config, found.num_states) == (config.for_states(STATES), STATES)
    assert found.store.frame_counts == LENGTHS
    for utterance in LENGTHS:
        ours, theirs = found.store.read(utterance), expected.store.read(utterance)
        assert ours.keys() == theirs.keys()
        for name in ours:  # normalised again: a rounding of float16 may differ
            np.testing.assert_allclose(ours[name].astype(float), theirs[name].astype(float), rtol=2e-3, atol=1e-3)
    check_values(found)


def test_order_file_form_and_jobs_change_nothing_but_other_numbers_do(
    scene: Scene, said: Matrices, tmp_path: Path
) -> None:
    ark, scp = write_archive(tmp_path / "a", said)

    def take(archive: Path | str, name: str, jobs: int = 1, values: Any = "log-prob") -> TargetStore:
        outputs = NetworkOutputs(archive, values, scene.features)
        return import_targets(outputs, tmp_path / name, TOPK, WriteOptions(jobs, shard_frames=30))

    reference = take(ark, "t")
    assert len(reference.store.headers) > 3
    for name, source in (("scp", scp), ("specifier", f"scp,p:{scp}")):
        assert files_of(take(source, name).path) == files_of(reference.path)
    assert files_of(take(scp, "two", jobs=2).path) == files_of(reference.path)
    other, _ = write_archive(tmp_path / "b", {u: matrix + 1e-4 for u, matrix in said.items()})
    with pytest.raises(UserError, match=r"holds another store \(inputs.teacher"):
        take(other, "t")
    with pytest.raises(UserError, match=r"config.values: log-prob stored, logits requested"):
        take(ark, "t", values="logits")


def test_a_killed_import_goes_on_to_the_same_bytes(
    scene: Scene, said: Matrices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asr_kd.frames.local_folder import LocalFolder

    ark, _ = write_archive(tmp_path / "a", said)

    def take(name: str) -> TargetStore:
        outputs = NetworkOutputs(ark, "log-prob")
        return import_targets(outputs, tmp_path / name, TOPK, WriteOptions(shard_frames=30))

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", killed_at(LocalFolder.write, 3))
        with pytest.raises(Killed):
            take("t")
    assert len(files_of(tmp_path / "t")) == 2
    assert files_of(take("t").path) == files_of(take("whole").path)


def test_logits_and_probabilities_are_the_same_targets(said: Matrices, tmp_path: Path) -> None:
    forms: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
        "log-prob": lambda log_prob: log_prob,
        "logits": lambda log_prob: log_prob + np.arange(len(log_prob), dtype=np.float32)[:, None],
        "prob": np.exp,
    }
    for values, change in forms.items():
        ark, _ = write_archive(tmp_path / values, {u: change(m) for u, m in said.items()})
        targets = import_targets(NetworkOutputs(ark, values), tmp_path / f"{values}.store", DENSE)
        for utterance, expected in said.items():
            np.testing.assert_allclose(targets.store.read(utterance)["log_prob"], expected, rtol=2e-3, atol=2e-3)


def test_doubles_and_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.ark").write_text("u1  [\n  0.25 0.75\n  1 0 ]\nu2  [\n  0.501 0.502 ]\n")
    targets = import_targets(NetworkOutputs(tmp_path / "t.ark", "prob"), tmp_path / "t", DENSE)
    assert np.exp(targets.store.read("u1")["log_prob"].astype(float)) == pytest.approx(
        np.array([[0.25, 0.75], [1, 0]]), abs=1e-3
    )
    assert targets.store.read("u1")["log_prob"][1, 1] == np.float16(math.log(np.finfo(np.float32).tiny))
    check_values(targets)
    ark, _ = write_archive(tmp_path / "d", {"u": np.log(np.array([[1e-5, 1 - 1e-5]]))})
    one = TargetConfig(k=1, temperatures=(1.0,))
    kept = import_targets(NetworkOutputs(ark, "log-prob"), tmp_path / "k", one).store.read("u")
    assert kept["log_tail"][0, 0] == pytest.approx(math.log(1e-5), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "matrix", "message"),
    [
        ("log-prob", [[-0.7, -0.7], [2.0, 1.0]], r"frame 1: its probabilities add up to 10.11, expected 1"),
        ("log-prob", [[900.0, 0.0]], r"frame 0: its probabilities add up to 1.014e\+304"),
        ("prob", [[0.5, 0.5], [0.9, 0.2]], r"frame 1: its probabilities add up to 1.1, expected 1"),
        ("prob", [[0.0, 0.0]], r"frame 0: its probabilities add up to 2.351e-38"),
        ("prob", [[0.5, 0.5], [1.5, -0.5]], r"frame 1, state 1 has the probability -0.5"),
        ("logits", [[0.5, 0.5], [np.nan, 0.5]], r"of frame 1 are not finite"),
        ("prob", [[0.5, 0.5], [np.nan, 0.5]], r"of frame 1 are not finite"),
        ("log-prob", [[np.inf, 0.0]], r"frame 0: its probabilities add up to"),
        ("logits", [[np.inf, 0.0]], r"of frame 0 are not finite"),
    ],
)
def test_numbers_that_are_not_what_they_are_said_to_be_are_named_or_left_out(
    tmp_path: Path, values: Any, matrix: list[list[float]], message: str
) -> None:
    good = np.full((3, 2), math.log(0.5) if values == "log-prob" else 0.5, np.float32)
    ark, _ = write_archive(tmp_path / "a", {"u1": good, "u2": np.array(matrix, np.float32)})
    with pytest.raises(UserError, match=f"utterance u2: .*{message}.*--skip-bad"):
        import_targets(NetworkOutputs(ark, values), tmp_path / "t", DENSE)
    targets = import_targets(NetworkOutputs(ark, values), tmp_path / "t", DENSE, WriteOptions(skip_bad=True))
    assert (targets.store.utterances, list(targets.store.skipped)) == (("u1",), ["u2"])


def test_a_little_less_than_1_is_made_1() -> None:
    matrix = np.log(np.array([[0.3, 0.69], [0.7, 0.31]]))
    assert log_probabilities(matrix, "log-prob").exp().sum(1).numpy() == pytest.approx([1, 1])


def test_other_frames_than_the_features_have_are_refused_or_left_out(
    scene: Scene, said: Matrices, tmp_path: Path
) -> None:
    ark, _ = write_archive(tmp_path / "a", {**said, "u02": said["u02"][:-2], "x": said["u03"]})
    outputs = NetworkOutputs(ark, "log-prob", scene.features)
    shorter = f"{LENGTHS['u02'] - 2} frames, but {LENGTHS['u02']} in .*feats"
    with pytest.raises(UserError, match=f"a.ark: utterance u02: {shorter} .2 such utterances in total; --skip-bad"):
        import_targets(outputs, tmp_path / "t", TOPK)
    targets = import_targets(outputs, tmp_path / "t", TOPK, WriteOptions(skip_bad=True))
    assert set(targets.store.utterances) == LENGTHS.keys() - {"u02"}
    assert targets.store.skipped["x"] == f"not in {scene.features.path}"
    part, _ = write_archive(tmp_path / "part", {"u07": said["u07"]})
    one = import_targets(NetworkOutputs(part, "log-prob", scene.features), tmp_path / "p", TOPK)
    assert one.store.utterances == ("u07",)
    with pytest.raises(UserError, match="holds states; expected features"):
        import_targets(NetworkOutputs(part, "log-prob", scene.states), tmp_path / "q", TOPK)


def test_the_student_s_features_are_checked_where_the_archive_s_are_known(
    scene: Scene, said: Matrices, tmp_path: Path
) -> None:
    ark, _ = write_archive(tmp_path / "a", said)
    arrays = {u: scene.features.read(u)["fbank"] + 1 for u in LENGTHS}
    other = write_features(tmp_path / "other", arrays)
    known = import_targets(NetworkOutputs(ark, "log-prob", scene.features), tmp_path / "k", TOPK)
    known.check(STATES, scene.features, 2.0)
    with pytest.raises(UserError, match="these targets do not belong to the features .*other"):
        known.check(STATES, other, 2.0)
    unknown = import_targets(NetworkOutputs(ark, "log-prob"), tmp_path / "u", TOPK)
    assert unknown.store.inputs.keys() == {"teacher"}
    unknown.check(STATES, other, 2.0)


def test_shapes_that_do_not_fit_are_named(said: Matrices, tmp_path: Path) -> None:
    ark, _ = write_archive(tmp_path / "a", {"u1": said["u01"], "u2": said["u02"][:, :-1]})
    with pytest.raises(UserError, match=f"utterance u2 has {STATES - 1} columns; expected {STATES}, as in the first"):
        import_targets(NetworkOutputs(ark), tmp_path / "t", TOPK)
    with pytest.raises(UserError, match=f"utterance u1 has {STATES} columns; expected 99, as requested"):
        import_targets(NetworkOutputs(ark, num_states=99), tmp_path / "t", TOPK)
    with pytest.raises(UserError, match="--k 13: the teacher has 12 states"):
        import_targets(NetworkOutputs(write_archive(tmp_path / "b", said)[0]), tmp_path / "t", TargetConfig(k=13))
    with (tmp_path / "v.ark").open("wb") as stream:
        stream.write(b"v ")
        write_array(stream, np.zeros(3, np.float32))
    with pytest.raises(UserError, match="utterance v is a vector, expected a matrix"):
        import_targets(NetworkOutputs(tmp_path / "v.ark"), tmp_path / "t", TOPK)
    one, _ = write_archive(tmp_path / "c", {"u1": said["u01"]})
    (tmp_path / "twice.ark").write_bytes(2 * one.read_bytes())
    with pytest.raises(UserError, match="utterance u1 occurs twice"):
        import_targets(NetworkOutputs(tmp_path / "twice.ark"), tmp_path / "t", TOPK)
    (tmp_path / "empty.ark").write_bytes(b"")
    with pytest.raises(UserError, match="empty.ark: holds no utterance"):
        import_targets(NetworkOutputs(tmp_path / "empty.ark"), tmp_path / "t", TOPK)
    (tmp_path / "cut.ark").write_bytes(one.read_bytes()[:-3])
    with pytest.raises(UserError, match="cut.ark: utterance u1: not a complete Kaldi matrix"):
        import_targets(NetworkOutputs(tmp_path / "cut.ark"), tmp_path / "t", TOPK)
    assert not (tmp_path / "t").exists()
