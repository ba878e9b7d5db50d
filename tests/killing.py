"""Stands in for a process that is killed, and digests of the files it leaves behind."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
