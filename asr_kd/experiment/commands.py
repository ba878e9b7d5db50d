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

    ``main(arguments)`` runs one command and returns its status.
    """

    main: Callable[[list[str]], int]
    commands: Sequence[list[str]]
    log: Path


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
            sys.stdout = output = _FirstLine(log)
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


class _FirstLine(io.TextIOBase):
    """Standard output that goes to a log; remembers its first line."""

    def __init__(self, log: io.TextIOWrapper) -> None:
        self._log, self._begun = log, ""

    def write(self, text: str) -> int:
        if "\n" not in self._begun:
            self._begun += text
        return self._log.write(text)

    def flush(self) -> None:
        self._log.flush()

    def fileno(self) -> int:
        return self._log.fileno()

    @property
    def line(self) -> str:
        """The first line."""
        return self._begun.partition("\n")[0]
