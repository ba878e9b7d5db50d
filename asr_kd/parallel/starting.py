"""How a process of this machine starts and ends: its threads, silent at Ctrl-C, never outliving its parent."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker


def set_threads(threads: int) -> None:
    """Compute with ``threads`` threads in this process."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):  # else it reads the variable when the task imports it
        torch.set_num_threads(threads)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """A request to terminate raises ``KeyboardInterrupt``, as Ctrl-C does; further requests are ignored."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def interrupt_blocked() -> Iterator[None]:
    """Processes that start within inherit the blocked Ctrl-C, which would print a traceback while Python starts."""
    resource_tracker.ensure_running()  # which unblocks Ctrl-C when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def allow_interrupt() -> None:
    """Let Ctrl-C end this worker, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def watch_parent(signal_: signal.Signals) -> None:
    """Send this process the signal when its parent has ended, in whatever way."""

    def wait_for_end() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal_)

    threading.Thread(target=wait_for_end, name="parent watch", daemon=True).start()
