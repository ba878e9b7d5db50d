"""The recipes themselves, in their small form: the commands that users run, on synthesised and on real speech."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


def _run(recipe: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", RECIPES / recipe / "run.sh", *options]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def _word_error_rates(work: Path) -> dict[str, float]:
    rows = json.loads((work / "results.json").read_text())["rows"]
    return {row["system"]: row["wer"] for row in rows if row["set"] == "test" and "wer" in row}


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("parts", ["tables", pytest.param("tables own specialists", marks=pytest.mark.soak)])
def test_an4_recognises_real_speech(parts: str, tmp_path: Path, corpora: Path) -> None:
    run = _run("an4", "--small", "--parts", parts, "--corpus-dir", corpora / "an4", "--work", tmp_path)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    rates = _word_error_rates(tmp_path)
    for system in ("monophones", "triphones, LDA+MLLT", "teachers (labels)", "ensemble of 2", "distilled, T = 5"):
        assert rates[system] < 0.5, rates
    if parts == "tables":
        return
    assert "soft, 3 %, live teachers" in _word_error_rates(tmp_path / "own")
    rates = _word_error_rates(tmp_path / "specialists")
    assert rates["with 2 specialists"] < rates["generalist"] + 0.1, rates
    assert "## Table 4: where specialists with a dustbin help" in (tmp_path / "specialists" / "RESULTS.md").read_text()
    assert (tmp_path / "specialists" / "whole.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(1200)
def test_mnist_distils_and_finds_the_digit_that_a_student_never_saw(tmp_path: Path, corpora: Path) -> None:
    run = _run("mnist", "--small", "--corpus-dir", corpora / "mnist", "--work", tmp_path)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    right = {(row["table"], row["system"], row["set"]): row["frame_accuracy"] for row in rows}
    assert right["Distillation", "2 x 800 on labels, 20 epochs", "test"] > 0.85
    assert right["Distillation", "2 x 800 on labels, 40 epochs", "test"] > 0.85
    assert right["Distillation", "2 x 800, soft targets at T = 20, 40 epochs", "test"] > 0.7
    threes = {system: value for (table, system, name), value in right.items() if (table[-1], name) == ("3", "threes")}
    assert threes["bias from the teacher"] > threes["as trained"] + 0.1
    assert (tmp_path / "temperature.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("recipe", sorted(path.parent.name for path in RECIPES.glob("*/run.sh")))
def test_every_recipe_explains_itself_and_refuses_what_it_does_not_know(recipe: str, tmp_path: Path) -> None:
    assert "--stop-stage" in _run(recipe, "--help").stdout
    refused = _run(recipe, "--sede", "1")
    assert refused.returncode == 2
    assert "unknown option --sede" in refused.stderr


def test_a_mistyped_part_is_refused_before_anything_runs(tmp_path: Path) -> None:
    refused = _run("an4", "--parts", "tables onw", "--work", tmp_path)
    assert refused.returncode == 2
    assert "--parts: unknown onw; known: tables own specialists" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_failed_stage_ends_with_the_command_that_resumes_it(tmp_path: Path) -> None:
    nowhere = tmp_path / "no where"
    run = _run("an4", "--corpus-dir", nowhere, "--work", tmp_path / "exp", "--set", "seeds=[1, 2]")
    assert run.returncode == 1
    *_, advice, command = run.stderr.strip().splitlines()
    assert advice.endswith("failed with status 1. Fix the error above, then resume with:")
    again = shlex.split(command)
    assert again[1:] == [
        "--corpus-dir", str(nowhere), "--work", str(tmp_path / "exp"), "--set", "seeds=[1, 2]", "--stage", "0"
    ]  # fmt: skip


def test_a_terminated_recipe_does_not_look_finished(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    script = tmp_path / "toy" / "run.sh"
    script.write_text(f'. {RECIPES / "lib.sh"}\nparse_options "$@"\nif run_stage 0 "a"; then kill $$; sleep 1; fi\n')
    run = subprocess.run(["bash", script, "--work", tmp_path], capture_output=True, text=True)
    assert run.returncode == 143
    assert "finished" not in run.stdout
    assert "stage 0 (a) was interrupted. Resume with:" in run.stderr


def test_the_help_of_a_recipe_lists_its_stages() -> None:
    shown = _run("an4", "--help").stdout
    assert "  2  GMM-HMM training, alignment\n" in shown
    assert "  4  HMM and language model from the 3 %\n" in shown


def test_a_quick_run_has_its_own_folder_and_options_override_it(tmp_path: Path) -> None:
    shown = _run("an4", "--speeds", "0.5", "--small", "--help").stdout
    for option, value in (
        ("speeds VALUE", "0.5"),
        ("three-shifts VALUE", "0.5"),
        ("work DIR", RECIPES / "an4" / "exp_small"),
    ):
        assert re.search(rf"--{option} .*\({value}\)\n", shown), shown
    refused = _run("fsdd", "--small")
    assert refused.returncode == 2
    assert "no --small" in refused.stderr


@pytest.mark.parametrize("value", ["08", "-1", "two", "a[$(touch x)]"])
def test_a_stage_is_a_whole_number(value: str, tmp_path: Path) -> None:
    refused = _run("fsdd", "--work", tmp_path, "--stage", value)
    assert refused.returncode == 2
    assert f"--stage {value}: expected a whole number from 0 to 99" in refused.stderr
    assert not Path("x").exists()


def test_nothing_that_a_user_gives_is_run_as_a_command(tmp_path: Path) -> None:
    assert not subprocess.run(
        ["git", "grep", "-nw", "eval", "--", "recipes"], cwd=RECIPES.parent, capture_output=True
    ).stdout
    run = _run("digits", "--hours", "$(touch x); touch y", "--work", tmp_path)
    assert run.returncode != 0
    assert "invalid float value" in run.stderr
    assert not list(tmp_path.glob("[xy]"))


def test_an_unsupported_system_is_named_before_anything_runs(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "python", "nproc", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    script = tmp_path / "recipe" / "toy" / "run.sh"
    script.parent.mkdir(parents=True)
    script.write_text(f". {RECIPES / 'lib.sh'}\ncheck_system 3 2 sed || true\n")

    def run() -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "bash"), str(script)]
        return subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})

    missing = run()
    assert missing.returncode == 1
    assert "the command awk was not found" in missing.stderr
    (tmp_path / "awk").symlink_to(shutil.which("awk") or "awk")
    assert "bash 3.2 is too old: recipes need Linux and bash 4.4 or later" in run().stderr


def test_numbers_have_a_point_in_every_locale(tmp_path: Path) -> None:
    script = tmp_path / "toy" / "run.sh"
    script.parent.mkdir()
    script.write_text(f'. {RECIPES / "lib.sh"}\nprintf "%.1f " 1.5; seq -f %g 0.5 0.5 1; sort -g <<< $LC_ALL\n')
    run = subprocess.run(["bash", script], capture_output=True, text=True, env={**os.environ, "LC_ALL": "de_DE.UTF-8"})
    assert run.stdout.split() == ["1.5", "0.5", "1", "C"], run.stderr


TOY = """#!/usr/bin/env bash
# A toy.
. {lib}
parse_options "$@"
if run_stage 0 "first"; then echo one >> "$work/log"; fi
if run_stage 1 "second"; then
  false
  echo unreached >> "$work/log"
fi
if run_stage 2 "third"; then echo three >> "$work/log"; fi
"""


def test_stages_run_in_order_from_the_first_to_the_last_that_is_asked_for_and_end_at_a_failure(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "run.sh").write_text(TOY.format(lib=RECIPES / "lib.sh"))

    def run(*options: str) -> int:
        command = ["bash", str(tmp_path / "toy" / "run.sh"), "--work", str(tmp_path / "exp"), *options]
        return subprocess.run(command, capture_output=True).returncode

    assert [run(), run("--stop-stage", "0"), run("--stage", "2")] == [1, 0, 0]
    assert (tmp_path / "exp" / "log").read_text().split() == ["one", "one", "three"]
    assert [line.split("\t")[0] for line in (tmp_path / "exp" / "stages.tsv").read_text().splitlines()] == [
        "0",
        "0",
        "2",
    ]
