import os
import signal

import pytest

from asr_kd.errors import UserError
from asr_kd.parallel import parallel_map

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


def test_a_task_that_fails_raises_here() -> None:
    with pytest.raises(UserError, match="utterance 3 is broken"):
        list(parallel_map(_fail_at_three, range(6), 2))


def test_a_killed_process_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="try fewer --jobs"):
        list(parallel_map(_killed, range(4), 2))
