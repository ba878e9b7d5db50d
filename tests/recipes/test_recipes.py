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
def test_digits_from_nothing_to_a_table_and_a_second_run_repeats_no_stage(tmp_path: Path) -> None:
    first = _run("digits", "--small", "--hours", "0.1", "--work", tmp_path)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    rates = _word_error_rates(tmp_path)
    assert max(rates["GMM triphones, LDA+MLLT"], rates["ensemble of 2"], rates["distilled, 3x256"]) < 0.5, rates
    assert rates["soft, 3 %, live teachers"] < rates["labels, 3 %, augmented, early-stopped"]
    page = (tmp_path / "RESULTS.md").read_text()
    assert "## Table 1" in page
    assert "## Table 5" in page
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    second = _run("digits", "--small", "--hours", "0.1", "--work", tmp_path)
    assert second.stdout.count("already done") == first.stdout.count("== stage")
    other = _run("digits", "--small", "--hours", "0.1", "--work", tmp_path, "--seeds", "2", "--stop-stage", "0")
    assert "already done" not in other.stdout  # another configuration


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("parts", ["tables", pytest.param("tables own specialists", marks=pytest.mark.soak)])
def test_an4_recognises_real_speech(parts: str, tmp_path: Path, corpora: Path) -> None:
    run = _run("an4", "--small", "--parts", parts, "--corpus-dir", corpora / "an4", "--work", tmp_path)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    rates = _word_error_rates(tmp_path)
    for system in ("monophones", "triphones, LDA+MLLT", "labels: teachers", "ensemble of 2", "distilled, T = 5"):
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


def test_a_failed_stage_ends_with_the_command_that_resumes_it(tmp_path: Path) -> None:
    nowhere = tmp_path / "no where"
    run = _run("an4", "--corpus-dir", nowhere, "--work", tmp_path / "exp", "--force", "--seeds", "1 2")
    assert run.returncode == 1
    *_, advice, command = run.stderr.strip().splitlines()
    assert advice.endswith("failed with status 1. Fix the error above, then resume with:")
    again = shlex.split(command)
    assert again[1:] == [
        "--corpus-dir", str(nowhere), "--work", str(tmp_path / "exp"), "--seeds", "1 2", "--stage", "0"
    ]  # fmt: skip


def test_a_quick_run_has_its_own_folder_and_options_override_it(tmp_path: Path) -> None:
    shown = _run("an4", "--seeds", "4 5", "--small", "--help").stdout
    for name, value in (("seeds", "4 5"), ("members", "2"), ("work", str(RECIPES / "an4" / "exp_small"))):
        assert re.search(rf"--{name} VALUE +\({value}\)", shown), shown
    refused = _run("fsdd", "--small")
    assert refused.returncode == 2
    assert "no --small" in refused.stderr


@pytest.mark.parametrize("name", ["a b", "a;b", "a'b", 'a"b', "a$b", "a`b", "a*", "a[b]", "a&b", "a|b", "a\nb", "a\\b"])
def test_a_working_folder_that_a_shell_would_not_keep_whole_is_refused(name: str, tmp_path: Path) -> None:
    refused = _run("fsdd", "--work", tmp_path / name)
    assert refused.returncode == 2
    assert "the path has a space or a special character" in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seeds", "1; touch x", "expected letters, digits, spaces and"),
        ("--seeds", "$(touch x)", "expected letters, digits, spaces and"),
        ("--jobs", "two", "--jobs two: expected a whole number from 1"),
        ("--jobs", "0", "--jobs 0: expected a whole number from 1"),
        ("--stage", "08", "--stage 08: expected a whole number from 0"),
        ("--stage", "-1", "--stage -1: expected a whole number"),
    ],
)
def test_values_that_would_become_commands_are_refused(option: str, value: str, message: str, tmp_path: Path) -> None:
    refused = _run("fsdd", "--work", tmp_path, option, value)
    assert refused.returncode == 2
    assert message in refused.stderr


def test_an_unsupported_system_is_named_before_anything_runs(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "python", "nproc", "awk", "sed", "seq", "sort"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    script = tmp_path / "recipe" / "toy" / "run.sh"
    script.parent.mkdir(parents=True)
    script.write_text(f". {RECIPES / 'lib.sh'}\ncheck_system 3 2 sed || true\n")

    def run() -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "bash"), str(script)]
        return subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})

    missing = run()
    assert missing.returncode == 1
    assert "the command sha256sum was not found" in missing.stderr
    (tmp_path / "sha256sum").symlink_to(shutil.which("sha256sum") or "sha256sum")
    assert "bash 3.2 is too old: recipes need Linux and bash 4.4 or later" in run().stderr
    (tmp_path / "sed").unlink()
    (tmp_path / "sed").write_text("#!/bin/sh\n[ $1 != -u ]\n")  # as on macOS
    (tmp_path / "sed").chmod(0o755)
    other = run()
    assert other.returncode == 1
    assert "this sed has no option -u" in other.stderr


def test_numbers_have_a_point_in_every_locale(tmp_path: Path) -> None:
    script = tmp_path / "toy" / "run.sh"
    script.parent.mkdir()
    script.write_text(f'. {RECIPES / "lib.sh"}\nprintf "%.1f " 1.5; seq -f %g 0.5 0.5 1; sort -g <<< $LC_ALL\n')
    run = subprocess.run(["bash", script], capture_output=True, text=True, env={**os.environ, "LC_ALL": "de_DE.UTF-8"})
    assert run.stdout.split() == ["1.5", "0.5", "1", "C"], run.stderr


FRAGILE = """#!/usr/bin/env bash
# A toy that has parts.
. {lib}
. {lib.parent}/experiments.sh
options="parts"
parse_options "$@"
one() {{ [[ ! -e $work/broken ]]; }}
two() {{ echo; }}
run_part tables 0 first nothing log one
run_part own 1 second log log two
"""


def test_a_stage_that_fails_when_repeated_is_no_longer_done_and_other_parts_do_not_repeat_it(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    script, work = tmp_path / "toy" / "run.sh", tmp_path / "work"
    script.write_text(FRAGILE.format(lib=RECIPES / "lib.sh"))

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", script, "--work", work, *options], capture_output=True, text=True)

    assert run("--parts", "tables").stdout.count("== stage") == 1
    assert "stage 0: first: already done" in run("--parts", "tables own").stdout
    (work / "broken").touch()
    assert run("--force").returncode == 1
    (work / "broken").unlink()
    assert "already done" not in run("--stop-stage", "0").stdout
    assert "stage 0: first: already done" in run().stdout


TOY = """#!/usr/bin/env bash
# A toy.
. {lib}
parse_options "$@"
one() {{ echo one >> "$work/log"; }}
two() {{ echo two >> "$work/log"; [[ -e $work/again ]] || {{ touch "$work/again"; kill -9 $$; }}; }}
run_stage 0 first nothing log one
run_stage 1 second log log two
"""


def test_a_killed_recipe_resumes_with_the_stage_in_which_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "run.sh").write_text(TOY.format(lib=RECIPES / "lib.sh"))
    command = ["bash", str(tmp_path / "toy" / "run.sh"), "--work", str(tmp_path / "exp")]
    statuses = [subprocess.run(command, capture_output=True, check=False).returncode for _ in range(3)]
    assert statuses == [-9, 0, 0]
    assert (tmp_path / "exp" / "log").read_text().split() == ["one", "two", "two"]


def test_commands_run_side_by_side_and_a_failure_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    script = """#!/usr/bin/env bash
. {lib}
parse_options "$@"
work_on() {{ echo "$1 $2" >> "$work/log"; [[ $1 != bad ]]; }}
all() {{ printf '%s\\n' "work_on one 1" "work_on $kind 2" "work_on three 3" | side_by_side; }}
run_stage 0 "three commands" nothing log all
"""
    (tmp_path / "toy" / "run.sh").write_text(script.format(lib=RECIPES / "lib.sh"))
    for kind, status in (("good", 0), ("bad", 1)):
        command = ["bash", str(tmp_path / "toy" / "run.sh"), "--work", str(tmp_path / kind), "--jobs", "2"]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "kind": kind})
        assert run.returncode == status, run.stderr
        done = set((tmp_path / kind / "log").read_text().splitlines())
        assert {"one 1", f"{kind} 2"} <= done
        assert ("three 3" in done) or kind == "bad"


def test_results_name_the_stages_that_an_earlier_commit_finished(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"system": "one", "value": 1}\n')
    script = f"""#!/usr/bin/env bash
. {RECIPES / "lib.sh"}
parse_options "$@"
one() {{ true; }}
results() {{ report Toy --table One --rows {tmp_path}/rows.jsonl; }}
run_stage 0 first nothing nothing one
run_stage 1 results rows RESULTS.md results
"""
    (tmp_path / "toy" / "run.sh").write_text(script)
    marker, results = tmp_path / "my-exp" / ".stages" / "0-one", tmp_path / "toy" / "RESULTS.md"
    command = ["bash", str(tmp_path / "toy" / "run.sh"), "--work", str(tmp_path / "my-exp")]
    subprocess.run(command, check=True)
    assert "- stage" not in results.read_text()
    marker.write_text(f"{marker.read_text().splitlines()[0]}\nab12cd3\n")
    subprocess.run([*command, "--stage", "1", "--force"], check=True)
    assert "- stage 0: commit ab12cd3\n" in results.read_text()
