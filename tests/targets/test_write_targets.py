"""Writing soft targets: they are what the teacher says, in the same bytes however they were written."""

import dataclasses
import errno
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, Unfinished, WriteOptions
from asr_kd.frames import shard as shard_module
from asr_kd.frames.local_folder import LocalFolder
from asr_kd.nets import StateModel, log_posteriors, log_prob_by_chunk, model_hash, open_model, settle_precision
from asr_kd.targets import TargetConfig, TargetStore, Teacher, estimate, write_targets
from asr_kd.targets import teacher as teacher_module
from asr_kd.targets.encode import draws_of, encode
from asr_kd.targets.verify import check_values
from asr_kd.train import TrainingData, evaluate
from tests.killing import Killed, killed_at
from tests.targets.conftest import BINS, LENGTHS, STATES, Scene, files_of, network
from tests.train.conftest import without_labels, write_features, write_states

CONFIGS = {
    "dense": TargetConfig("dense"),
    "topk": TargetConfig("topk", k=3),
    "sampled": TargetConfig("sampled", k=3, temperatures=(2.0,)),
}
SHARD = 30  # frames, so that there are several shards


def write(
    scene: Scene,
    out: Path,
    config: TargetConfig = CONFIGS["topk"],
    utterances: Sequence[str] | None = None,
    **options: object,
) -> TargetStore:
    how = WriteOptions(shard_frames=SHARD, **options)  # type: ignore[arg-type]
    return write_targets(Teacher(scene.teacher, scene.features), out, config, utterances, how)


@pytest.fixture
def reference(scene: Scene, tmp_path: Path) -> dict[str, bytes]:
    return files_of(write(scene, tmp_path / "reference").path)


@pytest.mark.parametrize("form", CONFIGS)
def test_it_is_what_the_teacher_says_of_each_frame(scene: Scene, tmp_path: Path, form: str) -> None:
    targets, model = write(scene, tmp_path / "t", CONFIGS[form]), open_model(scene.teacher)
    assert targets.config == CONFIGS[form].for_states(STATES)
    assert targets.num_states == STATES
    assert targets.store.frame_counts == LENGTHS
    assert targets.store.inputs == {"features": scene.features.content_hash, "teacher": model_hash(scene.teacher)}
    for utterance in LENGTHS:
        said = torch.from_numpy(log_posteriors(model, scene.features.read(utterance)["fbank"]))
        expected = encode(said, CONFIGS[form], draws_of(utterance, 0))
        found = targets.store.read(utterance)
        assert all((found[name] == expected[name]).all() for name in expected)
    check_values(targets)


def test_a_store_records_which_precision_auto_was(scene: Scene, tmp_path: Path) -> None:
    written = write(scene, tmp_path / "t", dataclasses.replace(CONFIGS["topk"], precision="auto"))
    assert written.config.precision == settle_precision("auto", "cpu")


def test_two_processes_write_the_same_bytes(scene: Scene, tmp_path: Path) -> None:
    one = write(scene, tmp_path / "one", CONFIGS["sampled"])
    assert len(one.store.headers) > 3
    assert files_of(write(scene, tmp_path / "two", CONFIGS["sampled"], jobs=2).path) == files_of(one.path)


def test_the_number_of_threads_changes_nothing(scene: Scene, tmp_path: Path, reference: dict[str, bytes]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert files_of(write(scene, tmp_path / "t").path) == reference
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_in_any_order_make_the_same_store(
    scene: Scene, tmp_path: Path, reference: dict[str, bytes], order: tuple[int, ...]
) -> None:
    for number in order[:-1]:
        with pytest.raises(Unfinished, match=r"\d+ of \d+ shards are there"):
            write(scene, tmp_path / "t", part=(number, 3))
        with pytest.raises(UserError, match="incomplete"):
            TargetStore(tmp_path / "t")
    assert files_of(write(scene, tmp_path / "t", part=(order[-1], 3)).path) == reference


def test_parts_do_not_delete_each_others_shards(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--force with --part would delete"):
        write(scene, tmp_path / "t", part=(1, 3), force=True)


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    other = path.with_name("shard-00002.safetensors")
    if how == "missing":
        path.unlink()
    elif how == "swapped":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        path.write_bytes({"cut": content[:-1], "flipped": content[:-1] + bytes([content[-1] ^ 1])}[how])


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "swapped"])
def test_a_damaged_shard_is_mended_and_no_other_is_touched(
    scene: Scene, tmp_path: Path, reference: dict[str, bytes], how: str
) -> None:
    folder = tmp_path / "reference"
    damaged(folder / "shard-00001.safetensors", how)
    if how == "flipped":  # what opening does not see; `verify` does, and says to delete the index
        with pytest.raises(UserError, match="shard-00001.*delete it and index.json"):
            list(TargetStore(folder).store.verify())
        (folder / "index.json").unlink()
    else:
        with pytest.raises(UserError, match="shard-0000[12]"):
            TargetStore(folder)
    before = {path.name: path.stat().st_ino for path in folder.glob("shard-*")}
    assert files_of(write(scene, folder).path) == reference
    rewritten = {path.name for path in folder.glob("shard-*") if path.stat().st_ino != before.get(path.name)}
    bad = {"shard-00001.safetensors"} | ({"shard-00002.safetensors"} if how == "swapped" else set())
    assert rewritten == bad


def test_a_shard_of_another_teacher_is_refused(scene: Scene, tmp_path: Path, reference: dict[str, bytes]) -> None:
    other = dataclasses.replace(scene, teacher=network(tmp_path / "other", 7))
    write(other, tmp_path / "t")
    foreign = tmp_path / "reference" / "shard-00001.safetensors"
    shutil.copyfile(tmp_path / "t" / foreign.name, foreign)
    with pytest.raises(UserError, match="shard-00001.*a shard of another store .inputs.teacher"):
        TargetStore(foreign.parent)
    with pytest.raises(UserError, match=r"holds another store \(inputs.teacher: .*--force"):
        write(scene, foreign.parent)
    foreign.unlink()
    assert files_of(write(scene, foreign.parent).path) == reference


def test_another_form_is_refused_and_force_replaces_it(
    scene: Scene, tmp_path: Path, reference: dict[str, bytes]
) -> None:
    write(scene, tmp_path / "t", CONFIGS["dense"])
    with pytest.raises(UserError, match=r"holds another store \(config.form: dense stored, topk requested"):
        write(scene, tmp_path / "t")
    assert files_of(write(scene, tmp_path / "t", force=True).path) == reference


def test_a_part_of_the_features_can_be_the_transfer_set(scene: Scene, tmp_path: Path) -> None:
    whole, part = write(scene, tmp_path / "w"), write(scene, tmp_path / "p", utterances=["u07", "u02", "u05"])
    assert part.store.utterances == ("u02", "u05", "u07")
    for utterance in part.store.utterances:
        for name, tensor in part.store.read(utterance).items():
            assert (tensor == whole.store.read(utterance)[name]).all()
    with pytest.raises(UserError, match="lacks utterance nobody, which you requested .2 in total"):
        write(scene, tmp_path / "q", utterances=["u02", "nobody", "none"])


def poisoned(scene: Scene, tmp_path: Path) -> Scene:
    """The scene with one frame in u04 whose features are beyond float32 in the network."""
    arrays = {u: scene.features.read(u)["fbank"].copy() for u in LENGTHS}
    arrays["u04"][4] = 3e38
    return dataclasses.replace(scene, features=write_features(tmp_path / "poisoned", arrays))


def test_an_utterance_whose_output_is_not_finite_is_named_or_left_out(scene: Scene, tmp_path: Path) -> None:
    bad = poisoned(scene, tmp_path)
    with pytest.raises(UserError, match=r"utterance u04: .*of frame 3 are not finite .*--skip-bad"):
        write(bad, tmp_path / "t")  # the window of frame 3 ends with frame 4
    with pytest.raises(UserError, match=r"poisoned: utterance u04: .*of frame 3 are not finite"):
        estimate(Teacher(bad.teacher, bad.features), tmp_path / "t", CONFIGS["topk"])
    targets = write(bad, tmp_path / "t", skip_bad=True)
    assert list(targets.store.skipped) == ["u04"]
    assert "of frame 3 are not finite" in targets.store.skipped["u04"]
    assert set(targets.store.utterances) == LENGTHS.keys() - {"u04"}
    how = WriteOptions(skip_bad=True)
    assert estimate(Teacher(bad.teacher, bad.features), tmp_path / "t", CONFIGS["topk"], options=how).frames


def test_outputs_that_overflow_are_an_error_of_the_first_utterance(scene: Scene, tmp_path: Path) -> None:
    teacher = network(tmp_path / "large")
    tensors = load_file(teacher / "model.safetensors")
    next(tensor for name, tensor in tensors.items() if name.endswith("weight")).fill_(3e38)
    save_file(tensors, teacher / "model.safetensors")
    with pytest.raises(UserError, match=r"utterance u00: the teacher's log-probabilities of frame 0 are not finite"):
        write(dataclasses.replace(scene, teacher=teacher), tmp_path / "t")
    with pytest.raises(UserError, match="no usable utterance; the first, u00: the teacher's log-prob"):
        write(dataclasses.replace(scene, teacher=teacher), tmp_path / "t", skip_bad=True)


def test_features_of_another_width_are_refused_before_any_utterance(scene: Scene, tmp_path: Path) -> None:
    wide = network(tmp_path / "wide", bins=BINS + 1)
    for ask in (write_targets, estimate):
        with pytest.raises(
            UserError, match=f"feats: {BINS} fbank coefficients per frame; the teacher .*wide expects {BINS + 1}"
        ):
            ask(Teacher(wide, scene.features), tmp_path / "t", CONFIGS["dense"])
    with pytest.raises(UserError, match="holds states; expected features"):
        write(dataclasses.replace(scene, features=scene.states), tmp_path / "t")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("form", ["topk", "sampled"])
def test_more_states_than_the_teacher_has_are_refused(scene: Scene, tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match="--k 13: the teacher has 12 states"):
        write(scene, tmp_path / "t", dataclasses.replace(CONFIGS[form], k=STATES + 1))


@pytest.mark.parametrize(("name", "calls"), [("write", (1, 3)), ("publish", (1,))])
def test_the_end_of_the_process_between_any_two_shards_loses_no_shard(
    scene: Scene, tmp_path: Path, reference: dict[str, bytes], name: str, calls: tuple[int, ...]
) -> None:
    for call in calls:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalFolder, name, killed_at(getattr(LocalFolder, name), call))
            with pytest.raises(Killed):
                write(scene, tmp_path / "t")
        assert not (tmp_path / "t" / "index.json").exists()
    kept = files_of(tmp_path / "t")
    assert all(reference[file] == content for file, content in kept.items())
    assert len(kept) == (sum(calls) - len(calls) if name == "write" else len(reference) - 1)
    assert files_of(write(scene, tmp_path / "t").path) == reference


def test_a_full_disk_is_a_clear_error_and_the_rerun_ends_with_the_same_bytes(
    scene: Scene, tmp_path: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = itertools.count(1)

    def full(array: np.ndarray) -> memoryview:
        if next(written) == 10:  # three tensors of a shard are hashed, then written
            raise OSError(errno.ENOSPC, "No space left on device")
        return array.reshape(-1).view(np.uint8).data

    with monkeypatch.context() as patch:
        patch.setattr(shard_module, "_bytes_of", full)
        with pytest.raises(UserError, match=r"shard-00001.*disk is full"):
            write(scene, tmp_path / "t")
    assert list(files_of(tmp_path / "t")) == ["shard-00000.safetensors"]
    assert not list((tmp_path / "t").glob(".*"))
    assert files_of(write(scene, tmp_path / "t").path) == reference


def test_the_estimate_is_what_evaluation_and_the_store_say(scene: Scene, tmp_path: Path) -> None:
    shared = Teacher(scene.teacher, scene.features), tmp_path / "t", CONFIGS["topk"]
    found = estimate(*shared, states=scene.states)
    data = TrainingData(scene.features, scene.states, scene.states.utterances)
    assert found.accuracy == evaluate(open_model(scene.teacher), data).frame_accuracy
    assert found.judged == data.total_frames == sum(LENGTHS.values()) - LENGTHS["u05"]
    assert (found.networks, found.frames) == (2, sum(LENGTHS.values()))
    assert found.parameters == 2 * sum(p.numel() for p in open_model(tmp_path / "m0").parameters())
    targets = write(scene, tmp_path / "t")
    assert found.bytes_per_frame == targets.store.description.bytes_per_frame == 3 * 4 + 4 * 2
    assert not estimate(*shared).judged
    assert estimate(*shared).accuracy is None
    assert estimate(*shared, utterances=["u01"]).frames == LENGTHS["u01"]


def test_frames_without_a_label_do_not_judge_the_teacher(scene: Scene, tmp_path: Path) -> None:
    labels = without_labels({u: scene.states.read(u)["state"] for u in scene.states.utterances}, "u02", "u07")
    labels["u01"][::2] = -1
    states = write_states(tmp_path / "some", labels, STATES)
    found = estimate(Teacher(scene.teacher, scene.features), tmp_path / "t", CONFIGS["topk"], states=states)
    judged = evaluate(open_model(scene.teacher), TrainingData(scene.features, states, states.utterances))
    assert (found.accuracy, found.judged) == (judged.frame_accuracy, judged.frames)


def test_labels_that_are_not_the_teachers_are_refused(scene: Scene, tmp_path: Path) -> None:
    shared = Teacher(scene.teacher, scene.features), tmp_path / "t", CONFIGS["topk"]
    with pytest.raises(UserError, match="holds features; expected states"):
        estimate(*shared, states=scene.features)
    labels = {u: scene.states.read(u)["state"] for u in scene.states.utterances}
    with pytest.raises(UserError, match="other: labels of 9 states, but the teacher .* has 12 outputs"):
        estimate(*shared, states=write_states(tmp_path / "other", labels, 9))
    labels["u02"] = labels["u02"][:-1]
    with pytest.raises(UserError, match=f"utterance u02: {LENGTHS['u02']} frames in .*, {LENGTHS['u02'] - 1} in"):
        estimate(*shared, states=write_states(tmp_path / "short", labels, STATES))


def test_utterances_that_the_features_lack_are_listed_with_their_reason(scene: Scene, tmp_path: Path) -> None:
    features = FrameStore(scene.features.path)
    features.skipped = {"gone": "too short"}
    targets = write_targets(Teacher(scene.teacher, features), tmp_path / "t", CONFIGS["topk"])
    assert targets.store.skipped == {"gone": "too short"}


def test_utterances_of_one_length_are_asked_together_and_each_answers_for_itself(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {f"i{n:02d}": np.full((1, BINS), n / 10, np.float32) for n in range(30)}
    images["i07"][:] = 3e38
    features = write_features(tmp_path / "images", images)
    read = FrameStore.read
    asked: list[int] = []

    def unreadable(store: FrameStore, utterance: str) -> dict[str, np.ndarray]:
        if utterance == "i11":
            raise UserError("shard 0 is damaged")
        return read(store, utterance)

    def counted(model: StateModel, given: np.ndarray) -> Iterator[torch.Tensor]:
        asked.append(len(given))
        return log_prob_by_chunk(model, given)

    monkeypatch.setattr(FrameStore, "read", unreadable)
    monkeypatch.setattr(teacher_module, "log_prob_by_chunk", counted)
    targets = write(dataclasses.replace(scene, features=features), tmp_path / "t", CONFIGS["dense"], skip_bad=True)
    assert asked == [SHARD - 1]  # a shard's, without the one that cannot be read
    assert sorted(targets.store.skipped) == ["i07", "i11"]
    assert "damaged" in targets.store.skipped["i11"]
    model = open_model(scene.teacher)
    for name in ("i06", "i12", "i29"):
        alone = log_posteriors(model, images[name])
        np.testing.assert_allclose(targets.store.read(name)["log_prob"], alone, atol=5e-3)  # as float16 has it
