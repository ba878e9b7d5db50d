"""A lock on the folder of a store: any number of processes may write the same content, but not different content."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from asr_kd.errors import UserError

_LOCK = ".writing"


@contextlib.contextmanager
def writing(folder: Path, identity: str, alone: Callable[[], None], force: bool) -> Iterator[None]:
    """While held, no other process on this machine writes content other than ``identity`` to ``folder``, or deletes it.

    ``alone`` runs first if no other process writes there: then it may delete what killed writers left. The lock is a
    temporary file in the folder; the kernel releases it however the process ends. Raises ``UserError``
    if another process writes other content there, or, with ``force``, if any does. On a file system without locks
    nothing is checked, and ``alone`` runs only with ``force``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    descriptor, first = _acquire(path)
    if descriptor is None:
        if force:
            alone()
        yield
        return
    try:
        if first:
            alone()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, identity.encode(), 0)
        elif force:
            raise UserError(f"{folder}: another process is writing this store; wait until it ends before using --force")
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.pread(descriptor, 1 << 12, 0) != identity.encode():
            raise UserError(f"{folder}: another process is writing other content to this store; choose another folder")
        yield
    finally:
        with contextlib.suppress(OSError):  # the last one out deletes the file
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> tuple[int | None, bool]:
    """A descriptor of the locked file, and whether no other process has it; None where there are no locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path.parent)) from error
        try:
            first = _lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, first
        except FileNotFoundError:  # its last user deleted it between open and lock
            pass
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None, False
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return False
