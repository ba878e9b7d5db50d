"""A target store as a student meets it: what it gives, what it refuses, and what verifying finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr_kd.config import to_dict
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays
from asr_kd.frames.copy import copy_store
from asr_kd.targets import Dense, Sampled, TargetConfig, TargetStore, Teacher, write_targets
from asr_kd.targets.target_store import unsigned
from asr_kd.targets.verify import check_values
from tests.targets.conftest import LENGTHS, STATES, Scene, network
from tests.train.conftest import write_features

CONFIGS = {
    "dense": TargetConfig("dense"),
    "topk": TargetConfig("topk", k=3, temperatures=(1.0, 2.0)),
    "sampled": TargetConfig("sampled", k=3, temperatures=(2.0,)),
}


@pytest.fixture(params=CONFIGS)
def targets(request: pytest.FixtureRequest, scene: Scene, tmp_path: Path) -> TargetStore:
    return write_targets(Teacher(scene.teacher, scene.features), tmp_path / "t", CONFIGS[request.param])


def tensors_of(targets: TargetStore, utterance: str = "u01") -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in targets.store.read(utterance).items()}


def test_rows_become_what_the_objective_takes(targets: TargetStore) -> None:
    tensors = tensors_of(targets)
    soft = targets.soft(tensors, 2.0)
    if isinstance(soft, Dense):
        assert torch.equal(soft.log_prob, tensors["log_prob"])
        return
    assert soft.state.dtype == torch.int64
    assert torch.equal(soft.state, tensors["target_state"].long())
    if isinstance(soft, Sampled):
        assert torch.equal(soft.weight, tensors["weight"].float())
    else:
        assert torch.equal(soft.log_prob, tensors["log_prob"].float())
        assert torch.equal(soft.log_tail, tensors["log_tail"][:, 1].float())


def test_states_above_32767_survive_as_signed_numbers_of_the_same_bits() -> None:
    states = np.array([0, 32_767, 32_768, 65_535], np.uint16)
    for given in (torch.from_numpy(states), torch.from_numpy(states.view(np.int16))):
        assert unsigned(given).tolist() == [0, 32_767, 32_768, 65_535]
    assert unsigned(torch.tensor([70_000], dtype=torch.int32)).tolist() == [70_000]


def test_features_copied_into_other_shards_are_those_of_the_targets(
    targets: TargetStore, scene: Scene, tmp_path: Path
) -> None:
    copied = copy_store(scene.features, tmp_path / "copied", options=WriteOptions(shard_frames=30))
    assert len(copied.headers) > len(scene.features.headers)
    targets.check(STATES, copied, 2.0)


def test_a_student_of_other_states_is_refused(targets: TargetStore, scene: Scene) -> None:
    targets.check(STATES, scene.features, 2.0)
    with pytest.raises(UserError, match=f"/t: targets of {STATES} states; the student has 11"):
        targets.check(11, scene.features, 2.0)


def test_targets_of_an_ensemble_of_other_states_are_refused(scene: Scene, tmp_path: Path) -> None:
    teacher = Teacher(network(tmp_path / "other", states=9), scene.features)
    other = write_targets(teacher, tmp_path / "t", CONFIGS["topk"])
    with pytest.raises(UserError, match=f"targets of 9 states; the student has {STATES}"):
        other.check(STATES, scene.features, 2.0)


def test_a_student_on_other_features_is_refused(targets: TargetStore, tmp_path: Path, scene: Scene) -> None:
    other = write_features(tmp_path / "other", {u: scene.features.read(u)["fbank"] + 1 for u in LENGTHS})
    with pytest.raises(UserError, match=r"these targets do not belong to the features .*other .hashes \w{12} and \w"):
        targets.check(STATES, other, 2.0)


def test_a_temperature_that_was_not_stored_is_refused(targets: TargetStore, scene: Scene) -> None:
    if targets.config.form == "dense":
        targets.check(STATES, scene.features, 3.0)
        return
    known = "1, 2" if targets.config.form == "topk" else "2"
    with pytest.raises(UserError, match=f"temperature is 3, these {targets.config.form} targets are for {known}; .*3"):
        targets.check(STATES, scene.features, 3.0)


def test_only_dense_targets_have_logits_to_match(targets: TargetStore, scene: Scene) -> None:
    if targets.config.form == "dense":
        targets.check(STATES, scene.features, 2.0, "logits")
        return
    with pytest.raises(UserError, match=f"{targets.config.form} targets have no logits to match; use --form dense"):
        targets.check(STATES, scene.features, 2.0, "logits")


def test_a_store_of_another_kind_is_refused(scene: Scene) -> None:
    with pytest.raises(UserError, match="feats: holds features; expected soft targets"):
        TargetStore(scene.features)


def test_a_store_from_elsewhere_is_refused(tmp_path: Path) -> None:
    arrays = {"u": {"log_prob": np.zeros((3, 2), np.float32)}}
    write_arrays(tmp_path / "s", StoreContent("targets", {"log_prob": TensorSpec("float32", (2,))}), arrays)
    with pytest.raises(
        UserError, match="does not record the number of states; write it again with asr-kd targets write or import"
    ):
        TargetStore(tmp_path / "s")


def test_tensors_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    arrays = {"u": {"log_prob": np.zeros((3, 2), np.float16)}}
    content = StoreContent("targets", {"log_prob": TensorSpec("float16", (2,))}, {"form": "dense", "num_states": 3})
    write_arrays(tmp_path / "s", content, arrays)
    with pytest.raises(UserError, match=r"tensors .*\(2,\).*, expected .*\(3,\).* for dense targets"):
        TargetStore(tmp_path / "s")


Arrays = dict[str, np.ndarray]


def rewritten(targets: TargetStore, folder: Path, change: Any) -> TargetStore:
    """The store with frame 2 of u01 changed, all checksums right."""
    arrays: dict[str, Arrays] = {u: {k: np.array(a) for k, a in targets.store.read(u).items()} for u in LENGTHS}
    change(arrays["u01"])
    store: FrameStore = write_arrays(
        folder, StoreContent("targets", targets.store.tensors, targets.store.config), arrays
    )
    return TargetStore(store)


CHANGES: dict[str, list[tuple[str, int, float, str]]] = {
    "dense": [("log_prob", 0, 0.5, "its probabilities do not add up to 1")],
    "topk": [
        ("target_state", 0, STATES, "a state that is not below 12"),
        ("log_prob", 0, 0.1, "its probabilities and their tail do not add up to 1"),
        ("log_tail", 0, -0.01, "its probabilities and their tail do not add up to 1"),
        ("log_tail", 1, 0.5, "its probabilities and their tail do not add up to 1"),
    ],
    "sampled": [
        ("target_state", 2, 65_535, "a state that is not below 12"),
        ("weight", 1, 2.0, "its weights do not add up to 1"),
    ],
}


def test_values_that_are_no_distribution_are_found_in_their_frame(targets: TargetStore, tmp_path: Path) -> None:
    check_values(targets)
    for number, (name, column, value, message) in enumerate(CHANGES[targets.config.form]):

        def change(arrays: Arrays, name: str = name, column: int = column, value: float = value) -> None:
            arrays[name][2, column] = value

        bad = rewritten(targets, tmp_path / f"bad{number}", change)
        assert list(bad.store.verify())
        with pytest.raises(UserError, match=f"utterance u01, frame 2: {message}"):
            check_values(bad)


def test_a_state_that_is_there_twice_is_found(scene: Scene, tmp_path: Path) -> None:
    targets = write_targets(Teacher(scene.teacher, scene.features), tmp_path / "t", CONFIGS["topk"])

    def change(arrays: Arrays) -> None:
        arrays["target_state"][2, 1] = arrays["target_state"][2, 0]

    with pytest.raises(UserError, match=r"utterance u01, frame 2: a state .* or a state that occurs twice"):
        check_values(rewritten(targets, tmp_path / "bad", change))


def test_the_configuration_is_read_back(targets: TargetStore) -> None:
    found = TargetStore(targets.path)
    assert found.config == targets.config
    assert found.store.config == {**to_dict(targets.config), "num_states": STATES}
