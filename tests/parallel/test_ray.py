"""The Ray engine on a cluster of two nodes: the results and errors of one process, whatever is killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.corpus.audio import write_flac
from asr_kd.corpus.datadir import DataDir, read_data_dir, write_data_dir
from asr_kd.decode.model_folder import Model
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.feature_store import write_features
from asr_kd.frames import WriteOptions
from asr_kd.parallel import Needs, long_tasks, parallel_map, parallel_threads, share, using
from asr_kd.parallel.processes import LocalEngine
from asr_kd.targets import TargetConfig, Teacher, write_targets
from tests.hmm import conftest as language
from tests.killing import digests
from tests.ray_cluster import Kill, needs_ray, two_nodes
from tests.targets.conftest import network
from tests.train.conftest import write_features as write_frames

pytestmark = [pytest.mark.slow, needs_ray]

WORDS = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def kill_node() -> Iterator[Kill]:
    """Two nodes of one CPU each, which every test of this module uses; kills the one without the driver."""
    with two_nodes() as kill:
        from asr_kd.parallel.ray_engine import RayEngine

        engine = RayEngine()
        assert engine.jobs == 2
        with using(engine):
            yield kill


@contextlib.contextmanager
def locally() -> Iterator[None]:
    with using(LocalEngine()):
        yield


_offset = 0


def _set_offset(value: int) -> None:
    global _offset
    _offset = value


def _square(task: int) -> tuple[int, int]:
    return task * task + _offset, os.getpid()


def _fail(task: int) -> int:
    if task == 3:
        raise UserError("utterance 3 is broken")
    if task == 5:
        raise KeyError("five")
    return task


def test_results_come_in_order_from_other_processes_that_were_initialised(kill_node: Kill) -> None:
    results = list(parallel_map(_square, range(20), 2, _set_offset, (7,)))
    assert [value for value, _ in results] == [task * task + 7 for task in range(20)]
    assert os.getpid() not in {process for _, process in results}
    again = parallel_map(_square, range(4), 2, _set_offset, (8,))
    assert [value for value, _ in again] == [8, 9, 12, 17]


def test_an_error_in_a_task_is_the_same_error_here(kill_node: Kill) -> None:
    results = parallel_map(_fail, range(5), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="^utterance 3 is broken$"):
        next(results)
    with pytest.raises(KeyError, match="five") as raised:
        list(parallel_map(_fail, [5, 5], 2))
    assert 'raise KeyError("five")' in "".join(raised.value.__notes__)


def _element(task: tuple[Any, int]) -> float:
    array, index = task
    return float(array.value[index])


def test_tasks_read_a_shared_value(kill_node: Kill) -> None:
    array = share(np.arange(100_000.0))
    with parallel_threads(2) as pool:
        assert list(pool.map(_element, [(array, 7), (array, 9)])) == [7, 9]


def _wait_for_the_end(folder: str) -> None:
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    (Path(folder) / "begun").touch()
    while not done.is_set():
        time.sleep(0.01)
    (Path(folder) / "saved").touch()


def _fail_when_begun(folder: str) -> None:
    while not (Path(folder) / "begun").exists():
        time.sleep(0.01)
    raise UserError("this is wrong")


def test_a_long_task_that_fails_ends_the_others_which_save_their_work(kill_node: Kill, tmp_path: Path) -> None:
    def both() -> None:
        with long_tasks(2) as tasks:
            for name, function in (("a", _wait_for_the_end), ("b", _fail_when_begun)):
                tasks.submit(name, function, str(tmp_path), Needs(threads=1))
            while ended := tasks.wait():
                for handle in ended:
                    handle.result()

    with pytest.raises(UserError, match="^b: this is wrong$"):
        both()
    assert (tmp_path / "saved").exists()


def _noise(folder: Path, count: int) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    wav = {f"u{number:02d}": folder / "audio" / f"u{number:02d}.flac" for number in range(count)}
    for path in wav.values():
        write_flac(path, rng.normal(0, 0.1, 16000).astype(np.float32), 16000)
    return wav


def _slow_data(folder: Path) -> DataDir:
    """Twelve seconds of noise, by pipes that take half a second each where ``folder`` has a file ``slow``."""
    pipes = {utt: f"test -e {folder}/slow && sleep 0.5; cat {path} |" for utt, path in _noise(folder, 12).items()}
    write_data_dir(folder / "data", pipes, {}, {utt: utt for utt in pipes})
    return read_data_dir(folder / "data", allow_pipes=True)


def test_targets_alignments_and_models_have_the_bytes_of_one_process(kill_node: Kill, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    features = write_frames(tmp_path / "feats", {f"u{n}": rng.normal(size=(9, 4)).astype(np.float32) for n in range(9)})
    teacher = Teacher(network(tmp_path / "net"), features)
    config, root = TargetConfig("topk", 3), tmp_path / "language"
    spoken = {f"u{number:02d}": [str(word) for word in rng.choice(WORDS, 4)] for number in range(30)}
    language.write_corpus(root, spoken, {utt: language.speak(words, rng)[0] for utt, words in spoken.items()})
    (root / "lexicon.txt").write_text("".join(f"{word} {pron}\n" for word, pron in language.PRONS.items()))
    (root / "hmm.yaml").write_text(language.SMALL)

    def written(jobs: int) -> dict[str, str]:
        out = tmp_path / f"jobs{jobs}"
        write_targets(teacher, out / "targets", config, options=WriteOptions(jobs, shard_frames=20))
        assert language.train(root, out / "hmm", "--jobs", str(jobs)) == 0
        (root / "out").unlink(missing_ok=True)
        (root / "out").symlink_to(out / "hmm")
        assert language.align(root, out / "states", "--jobs", str(jobs)) == 0
        return digests(out)

    with locally():
        expected = written(1)
    assert written(2) == expected


def test_decoding_and_tuning_give_what_one_process_gives(
    kill_node: Kill, model: Model, audio: Path, datadir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(audio / "none.wav")

    def found(jobs: str) -> tuple[str, str, bytes]:
        copy = shutil.copytree(model.path, model.path.with_name(jobs))
        capsys.readouterr()
        assert main(["decode", str(copy), str(datadir), str(audio / "a.wav"), missing, "--jobs", jobs]) == 1
        words = capsys.readouterr()
        assert main(["decode", str(copy), str(datadir), "--tune", "--jobs", jobs]) == 0
        error = next(line for line in words.err.splitlines() if missing in line)
        return words.out, error, (copy / "tune.json").read_bytes()

    with locally():
        expected = found("1")
    assert found("2") == expected


def test_a_node_that_is_killed_costs_its_tasks_and_not_the_run(kill_node: Kill, tmp_path: Path) -> None:
    """The last test on both nodes."""
    data = _slow_data(tmp_path)
    with locally():
        write_features(data, tmp_path / "local", FeatureConfig(), shard_frames=100)
    (tmp_path / "slow").touch()

    def kill() -> None:
        while not list((tmp_path / "ray").glob("shard-*")):
            time.sleep(0.01)
        kill_node()

    thread = threading.Thread(target=kill)
    thread.start()
    write_features(data, tmp_path / "ray", FeatureConfig(), jobs=2, shard_frames=100)
    thread.join()
    assert _whole(tmp_path / "ray") == digests(tmp_path / "local")


def _whole(folder: Path) -> dict[str, str]:
    """Digests of the files in a folder, but for those that a killed process was writing."""
    return {name: digest for name, digest in digests(folder).items() if not name.endswith(".partial")}


def _marked(mark: str) -> list[str]:
    """The commands of the processes whose environment has ``mark``."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
    return found


def _interrupt(words: list[str], ending: signal.Signals, environment: dict[str, str], output: Path) -> str:
    """Run a command with Ray, and end it once it has written to the folder ``output``; returns its standard error."""
    begun, command = time.time_ns(), [sys.executable, "-m", "asr_kd", *words, "--engine", "ray"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not any(path.stat().st_mtime_ns > begun for path in output.glob("*.flac")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    (os.kill if ending == signal.SIGKILL else os.killpg)(process.pid, ending)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if ending == signal.SIGINT else -ending), errors
    return errors


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_a_killed_and_an_interrupted_command_leave_no_process_and_the_next_gives_the_same_bytes(
    kill_node: Kill, tmp_path: Path
) -> None:
    write_data_dir(tmp_path / "data", wav := _noise(tmp_path, 300), {}, {utt: utt for utt in wav})
    words = ["corpus", "perturb", str(tmp_path / "data"), str(tmp_path / "out"), "--speeds", "0.9", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    _interrupt(words, signal.SIGKILL, environment, tmp_path / "out" / "audio")  # on the cluster
    del environment["RAY_ADDRESS"]
    environment["MARK"] = mark = uuid.uuid4().hex
    errors = _interrupt(words, signal.SIGINT, environment, tmp_path / "out" / "audio")  # on one that it starts
    assert errors.splitlines()[-1].startswith("asr-kd corpus perturb: interrupted")
    assert "Traceback" not in errors
    until = time.monotonic() + 30
    while left := _marked(mark):
        assert time.monotonic() < until, left
        time.sleep(0.1)
    with locally():
        assert main(words) == 0
        assert main([*words[:3], str(tmp_path / "whole"), *words[4:-1], "1"]) == 0
    assert _whole(tmp_path / "out" / "audio") == digests(tmp_path / "whole" / "audio")
