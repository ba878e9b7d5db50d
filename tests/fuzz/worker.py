"""The process that runs cases: watched by ``tests.fuzz.runner``, which starts another where this one dies.

A case is a copy of some files of the world, mutated as its number says, and one call of a reader. It fails on any
exception but ``UserError``, on more than ``MEMORY`` bytes, after 20 seconds, and where the reader starts a process,
opens a connection, unpickles, or writes a file outside the folder of the case.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import pkgutil
import random
import resource
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import asr_kd
from tests.fuzz.mutate import mutate_file
from tests.fuzz.reader import Call, Reader
from tests.fuzz.readers import READERS
from tests.fuzz.seals import seal

MEMORY = 2 << 30
DEPTH = "a/b/c/d/case"  # of a case below the worker's folder, so that an escape by ../.. lands where it is seen
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FORBIDDEN = {
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect",
    "socket.getaddrinfo", "pickle.find_class", "urllib.Request",
}  # fmt: skip
_PROGRAMS = ("git", "nvidia-smi", "uname")  # what a report says of the commit and the machine
_PATHS = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2, "os.truncate": 1}


class Escape(BaseException):
    """A reader did what no input may make it do."""


class Guard:
    """Refuses, while ``folder`` is set, what ``_FORBIDDEN`` names and writing outside ``folder``."""

    def __init__(self) -> None:
        self.folder = ""
        self.found = ""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event in _FORBIDDEN and not _is_compiling() and arguments[0] not in _PROGRAMS:
            self._refuse(f"{event} {arguments!r}")
        elif event == "open":
            path, mode, flags = arguments
            if isinstance(path, str | bytes) and (set(mode or "") & set("wax+") or flags & _WRITES):
                self._check(event, path)
        elif event in _PATHS:
            for path in arguments[: _PATHS[event]]:
                self._check(event, path)

    def _check(self, event: str, path: str | bytes | int) -> None:
        if isinstance(path, int):
            return
        place = os.path.realpath(os.fsdecode(path))
        allowed = f"{place}{os.sep}".startswith(self.folder) or place == os.devnull
        if not allowed and not _is_compiling():
            self._refuse(f"{event} {place!r}")

    def _refuse(self, what: str) -> None:
        self.found = self.found or what
        raise Escape(what)


def _is_compiling() -> bool:
    """Whether the cache of compiled code is at work, which lies elsewhere."""
    frame = sys._getframe(1)
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_globals.get("__name__", "").startswith(("numba", "asr_kd.compiling")):
            return True
    return False


def describe(call: Call) -> str:
    """A call as a person would type it."""
    return f"asr-kd {call}" if isinstance(call, str) else f"{call.__name__}()"


def prepare_case(reader: Reader, number: int, world: Path, folder: Path) -> tuple[Call, list[str]]:
    """Copy and mutate the files of case ``number`` into ``folder``; returns the call and the mutated files.

    Case -1 is the reader's first call on files as they are, -2 its second one, and so on.
    """
    rng = random.Random(f"{reader.name} {number}")
    for name in reader.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (world / name).is_dir():
            shutil.copytree(world / name, folder / name, ignore=shutil.ignore_patterns("tensorboard"))
        else:
            shutil.copyfile(world / name, folder / name)
    if number < 0:
        return reader.calls[-1 - number], []
    call = rng.choice(reader.calls)
    if reader.prepare:
        reader.prepare(folder, rng)
        return call, []
    globs = [sorted(path for path in folder.glob(pattern) if path.is_file()) for pattern in reader.mutated]
    globs = [found for found in globs if found]
    named = [
        path for found in globs for path in found if isinstance(call, str) and str(path.relative_to(folder)) in call
    ]
    changed = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        path = rng.choice(named) if named and rng.random() < 0.7 else rng.choice(rng.choice(globs))
        mutate_file(path, rng)
        if rng.random() < 0.75:
            seal(path, folder)
        changed.append(str(path.relative_to(folder)))
    return call, changed


def run_call(call: Call, refusal: bool = True) -> None:
    """Run ``call`` in the current folder; any exception is raised, but ``UserError`` only without ``refusal``."""
    from asr_kd import cli
    from asr_kd.errors import UserError

    if not isinstance(call, str):
        with contextlib.suppress(*([UserError] if refusal else [])):
            call()
        return
    status = cli.main(call.split())
    if status not in ((0, 1) if refusal else (0,)):
        raise RuntimeError(f"exit status {status}")


def run_case(reader: Reader, number: int, world: Path, root: Path, guard: Guard) -> str | None:
    """Run a case below ``root``; returns what went wrong, or None."""
    folder = root / DEPTH
    folder.mkdir(parents=True)
    call, _ = prepare_case(reader, number, world, folder)
    (folder / "tmp").mkdir()
    tempfile.tempdir = str(folder / "tmp")
    os.environ["XDG_CACHE_HOME"] = str(folder / "tmp")
    os.chdir(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before, problem = _memory(), None
    guard.found, guard.folder = "", str(folder.resolve()) + os.sep
    try:
        run_call(call, number >= 0)
    except BaseException:
        problem = traceback.format_exc()
    finally:
        guard.folder = ""
        os.chdir(root)
    if guard.found:
        problem = f"forbidden: {guard.found}\n{problem or ''}"
    if not problem and (grown := _memory("VmHWM") - before) > MEMORY:
        problem = f"memory: {grown:,} bytes"
    return problem or _strays(root)


def _memory(what: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def _strays(root: Path) -> str | None:
    """What lies beside the folders that lead to the case."""
    place = root
    for name in Path(DEPTH).parts:
        if found := [each for each in os.listdir(place) if each != name]:
            return f"files outside the folder: {found}"
        place /= name
    return None


def serve(world: Path, root: Path, seconds: int) -> None:
    """Run the cases that standard input names (``READER NUMBER`` a line); report on the original standard output.

    A case may take ``seconds``; one on files as they are, which may compile code first, much longer.
    """
    report = os.fdopen(os.dup(1), "w", buffering=1)
    errors = open(root.parent / f"{root.name}.log", "w")  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(errors.fileno(), 2)
    faulthandler.enable(errors)
    preload()
    readers = {reader.name: reader for reader in READERS}
    memory = _memory("VmData") + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guard = Guard()
    requests = os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    report.write(json.dumps({"ready": True}) + "\n")
    for line in requests:
        name, number = line.split()
        shutil.rmtree(root, ignore_errors=True)
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        limit = seconds if int(number) >= 0 else 15 * seconds
        faulthandler.dump_traceback_later(limit, exit=True, file=errors)
        problem = run_case(readers[name], int(number), world, root, guard)
        faulthandler.cancel_dump_traceback_later()
        log = (root.parent / f"{root.name}.log").read_text(errors="replace")
        if problem and "exit status" in problem:
            problem += log
        if problem is None and ("Traceback (most recent call last)" in log or "error: not enough memory" in log):
            problem = log
        report.write(json.dumps({"problem": problem}) + "\n")


def preload() -> None:
    """Import what the readers import, so that no case pays for it."""
    for module in pkgutil.walk_packages(asr_kd.__path__, "asr_kd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    import fsspec.implementations.memory
    import jiwer
    import kaldi_io
    import matplotlib.pyplot
    import sklearn.cluster
    import soundfile
    import soxr
    import torch
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    assert all((fsspec, jiwer, kaldi_io, matplotlib, sklearn, soundfile, soxr))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
