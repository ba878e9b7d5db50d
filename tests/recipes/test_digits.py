"""The recipe of the built-in corpus: on one machine, and on a cluster with its stores in object storage."""

import importlib.util
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.killing import digests
from tests.object_storage import served, use
from tests.ray_cluster import Kill, needs_ray, two_nodes

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "digits"
STORES = "s3://bucket/digits"


def _run(work: Path, *options: str) -> str:
    """Run the recipe; what it printed to standard error."""
    command = ["bash", str(RECIPE / "run.sh"), "--small", "--hours", "0.05", "--work", str(work), *options]
    return _finished(command)


def _finished(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stderr


def _rows(work: Path) -> list[dict[str, Any]]:
    """The rows of the tables, without what is measured in seconds."""
    rows = json.loads((work / "results.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "real_time_factor"} for row in rows]


def _stores(work: Path) -> dict[str, bytes]:
    """The files of all stores in a working folder."""
    files = [path for name in ("feats", "states", "targets") for path in (work / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(work)): path.read_bytes() for path in files}


def _stores_in_bucket() -> dict[str, bytes]:
    files, root = fsspec.filesystem("s3"), STORES.removeprefix("s3://")
    files.invalidate_cache()
    paths = [path for path in files.find(root) if not path.startswith(f"{root}/work/")]
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in paths}


def _kill_after(begun: Path, kill: Kill) -> threading.Thread:
    """Kill the node a few seconds after the file ``begun`` appears."""

    def wait() -> None:
        while not begun.exists():
            time.sleep(0.05)
        time.sleep(4)
        kill()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _on_two_nodes(work: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> dict[str, bytes]:
    """Run the recipe on two nodes, one of which is killed during training; returns the stores."""
    spread = ("--engine", "ray", "--stores", STORES)
    with served() as server:
        use(server, cache, monkeypatch)
        with two_nodes() as kill:
            thread = _kill_after(work / "experiment" / "steps" / "train%20teacher%2Fseed2.json", kill)
            if whole:
                _run(work, *spread)
            else:  # features and one student, tested; its table takes minutes
                _run(work, *spread, "--stop-stage", "1")
                _run(work, "--stores", STORES, "--stage", "2", "--stop-stage", "3")
                table = [str(RECIPE / "experiment.yaml"), str(work), "--small", "--only", "test student/seed1*"]
                _finished([sys.executable, "-m", "asr_kd", "experiment", "run", *table, *spread])
            thread.join()
        return _stores_in_bucket()


def _check_same_bytes(one: Path, two: Path, found: dict[str, bytes], whole: bool) -> None:
    """Whether two nodes made the same stores and networks as one machine, or the same part of them."""
    assert not _stores(two)
    expected = {name: content for name, content in _stores(one).items() if whole or name in found}
    assert len(expected) > 20
    assert found == expected
    networks = {name: digest for name, digest in digests(two).items() if name.endswith("model.safetensors")}
    assert {"teacher/seed1/model.safetensors", "student/seed1/model.safetensors"} <= networks.keys()
    assert networks.items() <= digests(one).items()


@pytest.mark.timeout(2400)
def test_from_nothing_to_a_table_and_on_two_nodes_with_object_storage_one_of_which_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "a folder; with $special 'characters'", tmp_path / "two"
    _run(one)
    rates = {row["system"]: row["wer"] for row in _rows(one) if row["set"] == "test"}
    assert max(rates["GMM triphones, LDA+MLLT"], rates["ensemble of 2"], rates["distilled, 3x256"]) < 0.5, rates
    assert rates["soft, 3 %, live teachers"] < rates["labels, 3 %, augmented, early-stopped"]
    page = (one / "RESULTS.md").read_text()
    assert "## Table 1" in page
    assert "## Table 5" in page
    assert "- wall time " in page
    assert (one / "curves.png").read_bytes().startswith(b"\x89PNG")
    times = {path: path.stat().st_mtime_ns for path in one.rglob("*.safetensors")}
    second = _run(one, "--jobs", "2")
    assert "32 steps already done" in second
    assert "started" not in second
    assert {path: path.stat().st_mtime_ns for path in times} == times
    _run(one, "--set", "seeds=[2]", "--stage", "4", "--stop-stage", "3")
    if importlib.util.find_spec("ray") is not None:
        _check_same_bytes(one, two, _on_two_nodes(two, tmp_path / "cache", monkeypatch, whole=False), whole=False)
        scores = Path("model", "student", "seed1", "decode_test", "wer.json")
        assert (two / scores).read_bytes() == (one / scores).read_bytes()


@needs_ray
@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_two_nodes_one_of_which_is_killed_give_the_table_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _run(one)
    _check_same_bytes(one, two, _on_two_nodes(two, tmp_path / "cache", monkeypatch, whole=True), whole=True)
    assert _rows(two) == _rows(one)
