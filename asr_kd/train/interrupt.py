"""Ctrl-C takes effect between two training steps, never inside one."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruption(insist: bool = True) -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed or SIGTERM received; a second Ctrl-C interrupts at once.

    Without ``insist`` the second one does not: ranks that stop together have to agree first.
    """
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        if insist:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
