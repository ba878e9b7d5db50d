"""Ctrl-C between two steps instead of inside one."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruption(insist: bool = True) -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C or a request to terminate has come; a second Ctrl-C acts at once.

    Without ``insist`` it does not: processes that leave together have to agree first.
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
