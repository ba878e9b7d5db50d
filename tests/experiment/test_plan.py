"""The steps of a table: their commands, what each needs, and which a command is about."""

import dataclasses
import itertools
import time
from pathlib import Path

import pytest

from asr_kd.errors import UserError
from asr_kd.experiment.plan import Plan, Selection, in_order, make_plan, provenance_words
from asr_kd.experiment.records import Records
from asr_kd.experiment.steps import Places, Step, arguments, as_shell

W = Places(Path("w"))
RECIPES = Path(__file__).parents[2] / "recipes"


def _plan(recipe: str, *only: str, small: bool = False, overrides: tuple[str, ...] = ()) -> Plan:
    path = RECIPES / recipe / "experiment.yaml"
    return make_plan(path, Path("w"), Path("w"), Selection(only, overrides, small))


def test_the_command_behind_a_step_can_be_run_by_hand() -> None:
    step = _plan("an4", "student_T5").steps["train student_T5/seed2"]
    assert as_shell(step, W) == (
        "asr-kd train --feats w/feats/fbank/train_speeds --states w/states/train_speeds --dev-feats w/feats/fbank/dev"
        " --dev-states w/states/dev --config w/experiment/configs/student.yaml --threads 1 --seed 2"
        " --out w/student_T5/seed2 --targets w/targets/top20 --set temperature=5"
    )


def test_a_student_needs_its_targets_and_they_need_every_teacher() -> None:
    plan = _plan("an4", "student_T5/seed1")
    order = in_order(plan)
    assert plan.needs["train student_T5/seed1"] == ["targets targets/top20"]
    assert plan.needs["targets targets/top20"] == ["ensemble ensemble"]
    assert plan.needs["ensemble ensemble"] == [f"train teacher/seed{seed}" for seed in (1, 2, 3, 4)]
    assert order.index("train teacher/seed4") < order.index("ensemble ensemble") < order.index("targets targets/top20")


def test_later_seeds_take_the_search_options_of_the_first() -> None:
    plan = _plan("an4", "small_hard")
    first, second = plan.steps["model small_hard/seed1"], plan.steps["model small_hard/seed2"]
    assert any("--tune" in command for command in first.commands)
    assert not any("--tune" in command for command in second.commands)
    build = arguments(second.commands[0], W)
    assert build[build.index("--search-like") + 1] == "w/model/small_hard/seed1"
    assert "model small_hard/seed1" in plan.needs["model small_hard/seed2"]
    assert plan.needs["test small_hard/seed2 decode_test"] == ["model small_hard/seed2"]


def test_each_seed_of_mnist_has_its_own_teacher() -> None:
    plan = _plan("mnist", "live", "only78_calibrated")
    assert plan.needs["train live/seed2"] == ["train teacher/seed2"]
    assert plan.needs["calibrate only78_calibrated/seed3"] == ["train only78/seed3", "train teacher/seed3"]
    assert "train hard/seed1" not in plan.steps


def test_a_report_needs_the_tests_that_it_shows_and_no_others() -> None:
    plan = _plan("an4", "specialists")
    assert "test special/joint decode_test" in plan.needs["report specialists"]
    assert "train special/11/net" in plan.steps
    assert {"train teacher/seed1", "train special/11/net"} <= set(plan.needs["join special/joint"])
    assert "train student_T5/seed1" not in plan.steps


def test_options_of_the_small_run_yield_to_a_systems_own() -> None:
    plan = _plan("mnist", "width30/*", small=True)
    words = arguments(plan.steps["train width30/T4/seed1"].commands[0], W)
    sets = [word for before, word in itertools.pairwise(words) if before == "--set"]
    assert sets.index("net.width=30") > sets.index("net.width=100")


def test_a_name_that_nothing_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="--only studnet: no system, report or step has this name; known: .*student"):
        _plan("digits", "studnet")


def test_patterns_choose_several_systems() -> None:
    plan = _plan("an4", "student_T*")
    trained = [name for name in plan.steps if name.startswith("train student_T")]
    assert len(trained) == 4 * 3


def test_several_test_sets_share_what_was_tuned(tmp_path: Path) -> None:
    table = (RECIPES / "fsdd" / "experiment.yaml").read_text()
    assert "decode_test: {}" in table
    path = tmp_path / "table.yaml"
    path.write_text(table.replace("decode_test: {}", "clean: {}\n  other: {data: other}\ntuning: {max_active: 900}"))
    plan = make_plan(path, Path("w"), Path("w"), Selection(["test *"]))
    (name,) = [name for name in plan.steps if name.startswith("model") and name.endswith("seed1")]
    subject = name.partition(" ")[2]
    built, tuned = (
        as_shell(dataclasses.replace(plan.steps[name], commands=(each,)), W) for each in plan.steps[name].commands
    )
    assert "--max-active 900" in built
    assert "w/data/dev --tune" in tuned
    for key, data in (("clean", "test"), ("other", "other")):
        step = plan.steps[f"test {subject} {key}"]
        assert plan.needs[step.name] == [name]
        assert f"decode w/model/{subject} w/data/{data} --feats w/feats/fbank/{data} " in as_shell(step, W)
        assert step.last == f"model/{subject}/{key}/wer.json"


def test_a_report_states_what_other_commits_made_and_the_time_of_all_stages(tmp_path: Path) -> None:
    step = Step("train net/seed1", (), "net/seed1/summary.json")
    plan, records = Plan({step.name: step}, {step.name: []}), Records(Places(tmp_path))
    records.write(step, "done", "old1", {})
    assert provenance_words(plan, records, "new1", time.time()) == ["--made-at", "old1", "train net"]
    (tmp_path / "stages.tsv").write_text("0\t70\tnew1\n1\t50\told1\n")
    words = provenance_words(plan, records, "new1", time.time() - 30)
    assert words == ["--seconds", "150", "--made-at", "old1", "stage 1, train net"]
    (tmp_path / "stages.tsv").write_text("0\t70\tnew1\n1 50\n")
    with pytest.raises(
        UserError, match="stages.tsv: expected STAGE, SECONDS, COMMIT on each line, found '1 50'; delete"
    ):
        provenance_words(plan, records, "new1", time.time())
