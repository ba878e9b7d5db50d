"""Processes that are killed at a known moment, a stand-in for them, and digests of the files they leave behind.

Run as a program, this file is the process of ``Commands``: ``-m tests.killing MODULE...``.
"""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch


class Killed(BaseException):
    """Raised where the process would have been killed."""


def killed_at(real: Callable[..., Any], call: int) -> Callable[..., Any]:
    """A function that behaves as ``real`` up to its ``call``-th call, which raises ``Killed``."""
    calls: list[int] = []

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return real(*arguments, **options)

    return function


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below ``folder``, by its relative path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Commands:
    """``asr-kd`` commands that end by a signal. Each runs in a fork of one process, which loads the libraries once.

    ``modules`` are those whose functions tell the moment.
    """

    def __init__(self, *modules: str) -> None:
        command = [sys.executable, "-m", "tests.killing", *modules]
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.communicate()  # the end of its input ends it

    def end(self, number: int, call: int, function: str, command: list[str], log: Path) -> tuple[int, str]:
        """Exit status (negative after a signal) and errors of ``command``, which write to ``log`` on the way.

        It gets signal ``number`` at the ``call``-th call of ``function``, such as ``asr_kd.hmm.align._viterbi``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([int(number), call, function, command, str(log)]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline()), log.read_text()


def _serve(modules: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(number: int, call: int, function: str, command: list[str], log: str) -> None:
    """Be the process of a command; does not return."""
    from asr_kd.cli import main

    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY)):
            os.dup2(os.open(path, flags), descriptor)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        module, _, name = function.rpartition(".")
        real, calls = getattr(sys.modules[module], name), 0

        def ended(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), number)
            return real(*arguments, **options)

        with patch.object(sys.modules[module], name, ended):
            status = main(command)
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1:])
