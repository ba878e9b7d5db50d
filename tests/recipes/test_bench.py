"""The bench recipe without its measurements: what it needs, what it leaves out, what happens when one fails."""

import json
import subprocess
from pathlib import Path

import numpy as np

from asr_kd.corpus.audio import write_flac
from asr_kd.corpus.datadir import write_data_dir

BENCH = Path(__file__).parents[2] / "recipes" / "bench" / "run.sh"
GPU = BENCH.with_name("gpu.sh")
PARTS = (
    "feats/mfcc/train", "feats/fbank/train", "states/train", "trigram.arpa", "model/teacher/seed1/model.yaml",
)  # fmt: skip


def _run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(BENCH), "--small", *map(str, options)], capture_output=True, text=True)


def _system(path: Path) -> Path:
    """The outline of an AN4 system: two seconds of noise, and empty files where models and stores should be."""
    for part in PARTS:
        (path / part).parent.mkdir(parents=True, exist_ok=True)
        (path / part).touch()
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    audio = {name: path / f"{name}.flac" for name in ("a-1", "b-1")}
    for file in audio.values():
        write_flac(file, noise, 16000)
    write_data_dir(path / "data" / "train", audio, {}, {name: name[0] for name in audio})
    return path


def test_without_a_finished_system_it_says_which_part_is_missing_and_what_makes_it(tmp_path: Path) -> None:
    run = _run("--exp-dir", tmp_path / "none", "--work", tmp_path / "work")
    assert run.returncode == 1
    assert f"no {tmp_path}/none/data/train" in run.stderr
    assert "recipes/an4/run.sh" in run.stderr


def test_a_row_that_fails_is_explained_beside_the_others_and_in_the_exit_status(tmp_path: Path) -> None:
    options = "--exp-dir", _system(tmp_path / "exp"), "--work", tmp_path / "work"
    good = _run(*options, "--stop-stage", "2")
    assert good.returncode == 0, good.stderr
    bad = _run(*options, "--stage", "7", "--stop-stage", "7")
    assert bad.returncode == 1
    assert "stages failed: 7" in bad.stderr
    rows = json.loads((tmp_path / "work" / "results.json").read_text())["rows"]
    assert [row["table"] for row in rows] == ["Features"] * 5
    assert all(row["value"] > 0 and row.keys() >= {"name", "unit", "against", "bar"} for row in rows)
    assert all(("met" in row) == bool(row["bar"]) for row in rows)
    text = (tmp_path / "work" / "RESULTS.md").read_text()
    assert "Left out: features from Opus. It needs --libri-dir." in text
    assert "Not measured: search." in text


def test_a_part_of_the_gpu_benchmark_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # where the part that needs a folder for its stores expects one
    command = [
        "bash",
        str(GPU),
        "--small",
        "--parts",
        "loader,machine",
        "--output",
        str(tmp_path),
        "--commit",
        "c0ffee",
    ]
    run = subprocess.run([*command, "--work", str(tmp_path / "file")], capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    results = json.loads((tmp_path / "results_gpu.json").read_text())
    outcomes = {part["part"]: part["outcome"] for part in results["parts"]}
    assert "NotADirectoryError" in outcomes["loader"]
    assert outcomes["machine"] == "done"
    assert results["provenance"]["commit"] == "c0ffee"
    assert len(results["rows"]) == 5
    assert all(row["part"] == "machine" and row["value"] > 0 for row in results["rows"])
    assert "Not finished: NotADirectoryError" in (tmp_path / "RESULTS_GPU.md").read_text()
    assert "loader" in run.stdout.splitlines()[-3]
