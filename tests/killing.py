"""A process that ends anywhere in between, and what it leaves."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(real: Callable[..., Any], call: int) -> Callable[..., Any]:
    """``real`` until the ``call``-th call, which ends the process."""
    calls: list[int] = []

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return real(*arguments, **options)

    return function


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below ``folder``."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
