"""Long tasks on this machine: what each gets, the order in which they start, and how they end."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from asr_kd.errors import UserError
from asr_kd.parallel import LongTasks, Needs, long_tasks


def _results(tasks: LongTasks) -> dict[str, object]:
    """What each task returned, in the order in which they ended."""
    results: dict[str, object] = {}
    while ended := tasks.wait():
        results |= {handle.name: handle.result() for handle in ended}
    return results


def _threads_and_gpus(task: tuple[Path, Path | None]) -> tuple[int, int, str | None]:
    done, awaited = task
    while awaited is not None and not awaited.exists():
        time.sleep(0.01)
    done.touch()
    return torch.get_num_threads(), int(os.environ["OMP_NUM_THREADS"]), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_task_gets_the_threads_that_it_needs_and_gpus_of_its_own(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("long", "short", "next")}
    with long_tasks(threads=6, gpus=("4", "7")) as tasks:
        for name, file in files.items():
            awaited = files["next"] if name == "long" else None
            tasks.submit(name, _threads_and_gpus, (file, awaited), Needs(threads=3, gpus=1))
        results = _results(tasks)
    assert results == {"long": (3, 3, "4"), "short": (3, 3, "7"), "next": (3, 3, "7")}


def test_more_gpus_than_there_are_is_an_error_at_once() -> None:
    with long_tasks(1, ("0",)) as tasks, pytest.raises(UserError, match="big: needs 2 GPUs; this machine has 1"):
        tasks.submit("big", len, "", Needs(gpus=2))


def _both_there(task: tuple[Path, Path]) -> bool:
    """Whether the other task has begun before this one ends."""
    own, other = task
    own.touch()
    until = time.monotonic() + 20
    while not other.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return other.exists()


def test_tasks_start_when_there_is_room_and_smaller_ones_do_not_wait_for_larger_ones(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with long_tasks(threads=2) as tasks:
        tasks.submit("a", _both_there, (a, b))
        tasks.submit("larger", Path.exists, a, Needs(threads=5))  # all threads, so alone
        tasks.submit("b", _both_there, (b, a))
        results = _results(tasks)
    assert results == {"a": True, "b": True, "larger": True}
    assert list(results)[-1] == "larger"


def test_a_result_can_submit_what_waited_for_it() -> None:
    with long_tasks(threads=1) as tasks:
        first = tasks.submit("first", abs, -3)
        assert tasks.wait() == [first]
        second = tasks.submit("second", abs, -first.result())
        assert tasks.wait() == [second]
        assert tasks.wait() == []
        assert second.result() == 3


def _fail(task: str) -> None:
    if task == "wait":
        threading.Event().wait()
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "wrong":
        raise UserError("this is wrong")
    raise KeyError(task)


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("killed", UserError, "b: its process was killed by signal 9, probably because memory ran out"),
        ("wrong", UserError, "b: this is wrong"),
        ("x", KeyError, "x"),
    ],
)
def test_the_end_of_one_task_is_raised_and_ends_the_others(task: str, kind: type[Exception], message: str) -> None:
    def both() -> None:
        with long_tasks(threads=2) as tasks:
            tasks.submit("a", _fail, "wait")
            tasks.submit("b", _fail, task)
            _results(tasks)

    with pytest.raises(kind, match=message) as raised:
        both()
    if task == "x":
        assert "raise KeyError(task)" in "".join(raised.value.__notes__)


def test_after_an_error_that_is_caught_the_other_tasks_run_on() -> None:
    with long_tasks(threads=1) as tasks:
        failed = tasks.submit("failed", _fail, "wrong")
        tasks.submit("other", abs, -1)
        assert tasks.wait() == [failed]
        with pytest.raises(UserError, match="failed: this is wrong"):
            failed.result()
        assert _results(tasks) == {"other": 1}
