"""The commands of a step, run in a process of its own."""

import dataclasses
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

CRASHED = 70  # the status of a command that raised an exception which is not the user's mistake


@dataclasses.dataclass(frozen=True)
class Call:
    """Commands to run one after the other until one fails, and the file for what they print.

    ``main(arguments)`` runs one command and returns its status. ``result``: how the line with their result begins.
    """

    main: Callable[[list[str]], int]
    commands: Sequence[list[str]]
    log: Path
    result: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The status of the last command that ran, and a line about it: its result, or its error."""

    status: int
    line: str


def run_commands(call: Call) -> Outcome:
    """Run the commands. This process's standard output and error then belong to the log."""
    call.log.parent.mkdir(parents=True, exist_ok=True)
    with open(call.log, "w", buffering=1, encoding="utf-8", errors="surrogateescape") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stderr = log
        status, line = 0, ""
        for command in call.commands:
            sys.stdout = output = _Output(log, call.result)
            try:
                status = call.main(command)
            except Exception:
                traceback.print_exc(file=log)
                status = CRASHED
            line = output.line
            if status:
                break
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # which outlive this block, and go to the log too
    if status:
        line = call.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return Outcome(status, line or "no message")


class _Output(io.TextIOBase):
    """Standard output that goes to a log; ``line`` is the first that begins with ``result``."""

    def __init__(self, log: io.TextIOWrapper, result: str) -> None:
        self._log, self._result, self._last = log, result, ""
        self.line = ""

    def write(self, text: str) -> int:
        *whole, self._last = (self._last + text).split("\n")
        self.line = self.line or next((line for line in whole if line.startswith(self._result)), "")
        return self._log.write(text)

    def flush(self) -> None:
        self._log.flush()

    def fileno(self) -> int:
        return self._log.fileno()
