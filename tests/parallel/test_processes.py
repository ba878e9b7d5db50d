"""Tasks in several processes: the results of one process, clear errors, and no process that outlives its parent."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest

from asr_kd.errors import UserError
from asr_kd.parallel import long_tasks, parallel_map, parallel_threads, share, workers

_offset = 0


def _set_offset(value: int) -> None:
    global _offset
    _offset = value


def _square(task: int) -> int:
    return task * task + _offset


def _threads(_: int) -> tuple[int, int]:
    import torch

    return torch.get_num_threads(), os.getpid()


def _fail_at_three(task: int) -> int:
    if task == 3:
        raise UserError("utterance 3 is broken")
    return task


def _killed(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_results_do_not_depend_on_jobs() -> None:
    alone = list(parallel_map(_square, range(20), 1, _set_offset, (7,)))
    assert alone == [task * task + 7 for task in range(20)]
    assert list(parallel_map(_square, range(20), 2, _set_offset, (7,))) == alone


def test_a_process_has_one_thread() -> None:
    results = list(parallel_map(_threads, range(4), 2))
    assert {threads for threads, _ in results} == {1}
    assert os.getpid() not in {process for _, process in results}


def test_threads_share_the_memory_of_this_process() -> None:
    values = share([1, 2, 3])
    with parallel_threads(2) as pool:
        assert list(pool.map(lambda index: values.value[index], range(3))) == [1, 2, 3]


def test_a_task_that_fails_raises_here() -> None:
    with pytest.raises(UserError, match="utterance 3 is broken"):
        list(parallel_map(_fail_at_three, range(6), 2))


def test_a_killed_process_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="try fewer --jobs"):
        list(parallel_map(_killed, range(4), 2))


def _pause(task: int) -> int:
    time.sleep(0.01 if task == 0 else 5)
    return task


def test_workers_killed_by_an_interrupt_leave_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with contextlib.suppress(KeyboardInterrupt), workers(2) as pool:
        results = pool.map(_pause, range(20))
        assert next(results) == 0
        cast(Generator[int, None, None], results).close()  # as an interrupt does, which kills the workers too
        for process in multiprocessing.active_children():
            process.terminate()
            process.join()
        time.sleep(0.3)  # the pool notices
        raise KeyboardInterrupt
    assert not failed


def _note_and_sleep(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def _work(how: str, folder: str) -> None:
    if how == "pool":
        list(parallel_map(_note_and_sleep, [folder] * 2, 2))
    else:
        with long_tasks(2) as tasks:
            for name in "ab":
                tasks.submit(name, _note_and_sleep, folder)
            tasks.wait()


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("moment", ["at work", "while they start"])
@pytest.mark.parametrize("how", ["pool", "long tasks"])
def test_no_worker_outlives_a_killed_parent(tmp_path: Path, how: str, moment: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; from tests.parallel.test_processes import _work\nif __name__ == '__main__': _work(*sys.argv[1:])"
    )
    folder = tmp_path / "processes"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(program), how, str(folder)], env=environment)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    started: set[int] = set()
    while len(list(folder.iterdir())) < 2 if moment == "at work" else len(started) < 2:
        started |= {int(number) for number in children.read_text().split()}
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while any(map(_alive, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [process for process in started if _alive(process)]
