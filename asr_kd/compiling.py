"""Functions compiled by numba, and a cache of their machine code that is never stale.

numba on its own stores machine code beside each source file and compiles again when that file changes. It does not see
a change in a function of another file that was compiled into this one, and it fails where neither the installation nor
the home can be written. Here the cache folder's name holds a hash of every source file with compiled code.
"""

import contextlib
import hashlib
import multiprocessing
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache

PACKAGE = Path(__file__).resolve().parent
UNUSED_DAYS = 30  # a cache folder of other sources is deleted when nothing has started with it for so long


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: ``numba.njit(nogil=True, **options)`` with this project's cache."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, **options)(function)
        if CACHE is not None:
            with _numba_caches_in(CACHE):
                dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate


def inlined(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator for what only compiled code calls: it becomes a part of each caller.

    As a separate function it would be optimised alone and once more with its caller. The process that compiles would
    run one version and those that load from the cache the other: sums in another order, with other last bits.
    """
    decorator: Callable[[Callable[..., Any]], Any] = numba.njit(forceinline=True, nogil=True, **options)
    return decorator


class _Cache(FunctionCache):
    """numba's cache, but a damaged file is compiled again, and a disk that is full costs only time."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling a file cut short by a power failure raises almost anything
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


@contextlib.contextmanager
def _numba_caches_in(folder: Path) -> Iterator[None]:
    """Other packages that use numba keep their own cache folder."""
    settings = vars(numba.config)
    before = settings["CACHE_DIR"]
    settings["CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        settings["CACHE_DIR"] = before


def cache_folder(package: Path) -> Path | None:
    """The folder for the machine code of the sources in ``package``, created; None where none can be written.

    The first that can be written of: ``$NUMBA_CACHE_DIR``, the package's ``__pycache__``, the user's cache folder
    (``$XDG_CACHE_HOME``, else ``~/.cache``), and a private folder among the temporary files.
    """
    name = f"kernels-{_fingerprint(package)}"
    if not Path(__file__).is_file():  # in a zip file, or without sources: numba cannot cache such functions
        return None
    return next((folder for parent in _parents(package) if _made(folder := parent / name)), None)


def _fingerprint(package: Path) -> str:
    """A hash of the source files with compiled code, and of the libraries whose code is compiled into it.

    numba itself distinguishes processors and the versions of Python and numba that cannot share machine code.
    """
    versions = (numba.__version__, np.__version__, platform.python_version())
    result = hashlib.sha256(" ".join(versions).encode())
    for path, content in compiled_sources(package):
        result.update(f"{path} {len(content)} ".encode() + content)
    return result.hexdigest()[:32]


def compiled_sources(package: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each source file that can hold compiled code: it imports from here or from ``kernels``."""
    for folder, _, names in sorted(os.walk(package)):
        for name in sorted(names):
            if name.endswith(".py"):
                with open(path := os.path.join(folder, name), "rb", buffering=0) as stream:
                    content = stream.read()
                if b"compiling import" in content or b"kernels import" in content:
                    yield os.path.relpath(path, package), content


def _parents(package: Path) -> Iterator[Path]:
    if given := vars(numba.config)["CACHE_DIR"]:
        yield Path(given)
    yield package / "__pycache__"
    if os.path.isabs(given := os.environ.get("XDG_CACHE_HOME", "")):
        yield Path(given) / "asr_kd"
    elif os.path.isdir(home := os.path.expanduser("~")):  # a home that does not exist is not created
        yield Path(home) / ".cache" / "asr_kd"
    with contextlib.suppress(OSError):  # no temporary folder can be written
        private = Path(tempfile.gettempdir()) / f"asr_kd-{os.getuid()}"
        private.mkdir(mode=0o700, exist_ok=True)
        found = private.lstat()  # another user could have made it, to have this one run their machine code
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            yield private


def _made(folder: Path) -> bool:
    """Whether ``folder``, created where it is missing, can be written. A new one replaces those long unused."""
    try:
        new = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            return False
        os.utime(folder)  # in use
    except OSError:
        return False
    if new:
        for other in folder.parent.glob("kernels-*"):
            with contextlib.suppress(OSError):
                if time.time() - other.stat().st_mtime > 86_400 * UNUSED_DAYS:
                    shutil.rmtree(other)
    return True


CACHE = cache_folder(PACKAGE)
if CACHE is None and multiprocessing.parent_process() is None:
    print(
        "asr-kd: found no writable folder for compiled code, so every start compiles it again (up to a minute); "
        "set NUMBA_CACHE_DIR to a writable folder",
        file=sys.stderr,
    )
