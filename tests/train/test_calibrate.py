"""Biases after training: the least divergence from a teacher, and the oracle's fewest errors."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel, load_model, log_posteriors, save_model
from asr_kd.train import TrainingData, evaluate
from asr_kd.train.calibrate import oracle_shift, shift_bias, teacher_shift
from tests.train.conftest import BINS, NET, STATES, MakeData

CLASSES = [1, 4]


def network(seed: int) -> AcousticModel:
    torch.manual_seed(seed)
    return AcousticModel(dataclasses.replace(NET, bins=BINS, states=STATES)).eval()


def divergence(student: AcousticModel, teacher: AcousticModel, data: TrainingData) -> float:
    frames = [data.read(utterance).features for utterance in data.utterances]
    p, q = (np.concatenate([log_posteriors(model, x) for x in frames]).astype(float) for model in (teacher, student))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def test_a_shift_that_was_taken_away_is_found_again(make_data: MakeData) -> None:
    data, teacher, student = make_data([50] * 4), network(0), network(0)
    shift_bias(student, CLASSES, np.array([-3.5, 2.0]))
    assert teacher_shift(student, teacher, data, CLASSES) == pytest.approx([3.5, -2.0], abs=1e-3)


def test_no_other_shift_comes_closer_to_the_teacher(make_data: MakeData) -> None:
    data, teacher, student = make_data([50] * 4), network(0), network(1)
    shift_bias(student, CLASSES, teacher_shift(student, teacher, data, CLASSES))
    least = divergence(student, teacher, data)
    for index in CLASSES:
        for step in (-0.1, 0.1):
            shift_bias(student, [index], step)
            assert divergence(student, teacher, data) > least + 1e-5
            shift_bias(student, [index], -step)


def test_the_oracle_leaves_as_few_errors_as_any_shift(make_data: MakeData) -> None:
    data, student = make_data([50] * 4), network(1)
    shift = oracle_shift(student, data, CLASSES)

    def right(by: float) -> float:
        shift_bias(student, CLASSES, by)
        found = evaluate(student, data).frame_accuracy
        shift_bias(student, CLASSES, -by)
        return found

    assert right(shift) > right(0)
    assert right(shift) >= max(right(float(by)) for by in np.linspace(-4, 4, 401))  # it may lie between two of these


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "--classes : expected distinct states from 0 to 5"),
        ([6], r"expected distinct states"),
        ([1, 1], r"expected distinct states"),
        ([0, 1, 2, 3, 4, 5], "these are all"),
    ],
)
def test_classes_are_checked(make_data: MakeData, classes: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        teacher_shift(network(1), network(0), make_data([20]), classes)


def test_a_teacher_of_other_states_is_refused(make_data: MakeData) -> None:
    student, data = network(1), make_data([20])
    for states in (STATES - 1, STATES + 1):
        teacher = AcousticModel(dataclasses.replace(NET, bins=BINS, states=states)).eval()
        with pytest.raises(UserError, match=f"the teacher has {states} states, but the student has {STATES}"):
            teacher_shift(student, teacher, data, CLASSES)


def test_a_teacher_that_has_not_learnt_a_class_is_refused(make_data: MakeData) -> None:
    data, teacher = make_data([50] * 4), network(0)
    shift_bias(teacher, [4], -200.0)
    message = r"feats: the teacher's mean probability of class 4 is \S+, or \S+ of 200 frames; expected at least 0.5"
    with pytest.raises(UserError, match=message):
        teacher_shift(network(0), teacher, data, CLASSES)


def test_half_a_frame_of_a_class_is_belief_enough(make_data: MakeData) -> None:
    data, teacher = make_data([50] * 4), network(0)
    believed = sum(np.exp(log_posteriors(teacher, data.read(name).features)[:, 4]).sum() for name in data.utterances)
    less = float(np.log(0.5 / believed))  # the others' sum falls too, which leaves a little more than half a frame
    shift_bias(teacher, [4], less)
    assert teacher_shift(network(0), teacher, data, [4]) == pytest.approx([less], abs=1e-3)
    shift_bias(teacher, [4], -0.5)
    with pytest.raises(UserError, match=r"class 4 is 0\.00\d+, or 0\.\d+ of 200 frames"):
        teacher_shift(network(0), teacher, data, [4])


def test_a_shift_that_is_not_found_is_never_returned(make_data: MakeData) -> None:
    data, student = make_data([20]), network(1)
    shift_bias(student, [4], -1e30)  # further than the search goes
    with pytest.raises(UserError, match=r"no shift of class 4 found: .* the best shift leaves the student's at 0;"):
        teacher_shift(student, network(0), data, [4])


def test_the_oracle_needs_a_frame_of_each_class(make_data: MakeData) -> None:
    data = make_data([1] * 4)  # a frame each: fewer than there are states
    assert data.states is not None
    missing = sorted(set(range(STATES)) - {int(data.states.read(name)["state"][0]) for name in data.utterances})
    named = ", ".join(map(str, missing))
    with pytest.raises(UserError, match=rf"states: no frame of 4 utterances has class {named}; expected at least one"):
        oracle_shift(network(1), data, missing)
    with pytest.raises(UserError, match=r"feats: no labels to count errors with; give --states"):
        oracle_shift(network(1), TrainingData(data.features), CLASSES)


def test_the_command_writes_the_same_network_with_other_biases(
    tmp_path: Path, make_data: MakeData, capsys: pytest.CaptureFixture[str]
) -> None:
    data, teacher, student = make_data([50] * 4), network(0), network(0)
    assert data.states is not None
    shift_bias(student, [2], -1.5)
    save_model(teacher, tmp_path / "teacher")
    save_model(student, tmp_path / "student")
    command = ["model", "calibrate", str(tmp_path / "student"), str(tmp_path / "out"), "--classes", "2"]
    command += ["--feats", str(data.features.path)]
    assert main([*command, "--teacher", str(tmp_path / "teacher")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out: biases of classes 2 by +1.500\n"
    torch.testing.assert_close(load_model(tmp_path / "out").state_dict(), teacher.state_dict(), atol=1e-3, rtol=0)
    assert main([*command, "--states", str(data.states.path)]) == 0
    assert "(oracle)" in capsys.readouterr().out
    assert main([*command[:3], command[2], *command[4:], "--states", str(data.states.path)]) == 1
    assert "this is NETWORK itself" in capsys.readouterr().err
    assert main([*command[:5], "2.7", *command[6:], "--states", str(data.states.path)]) == 1
    assert "--classes 2.7: expected whole numbers" in capsys.readouterr().err
