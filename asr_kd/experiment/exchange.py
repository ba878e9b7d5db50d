"""Steps on machines without a shared disk: the files of the working folder are exchanged at a URL.

The machine that has the working folder offers there what a step reads, and takes what it has written. The machine that
runs the step works in a folder of its own. It saves the outputs at the URL every minute and at the end, and begins with
what an earlier attempt has saved: of training, the last checkpoint that was written a minute before.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from asr_kd.corpus.datadir import FILES as DATA_FILES
from asr_kd.experiment.commands import Call, Outcome, run_commands
from asr_kd.experiment.records import Records
from asr_kd.experiment.steps import Input, Output, Places, Step, Word, arguments
from asr_kd.files import write_text
from asr_kd.storage import (
    UnavailableError,
    cache_folder,
    delete_file,
    delete_folder,
    download,
    is_url,
    list_files,
    local,
    upload,
)

SAVE_SECONDS = 60.0
FETCHES = 3
FileState = tuple[int, int]  # size, and time of the last change


@dataclasses.dataclass(frozen=True)
class Away:
    """A step to run with ``width`` processes in a folder of its own, whose files are exchanged at ``url``."""

    main: Callable[[list[str]], int]
    step: Step
    width: int
    log: str
    url: str
    stores: str | Path | None


class Exchange:
    """The files of the working folder of ``records`` at ``url``."""

    def __init__(self, url: str, records: Records) -> None:
        self.url, self._records = url, records
        self._there: dict[str, FileState] = {}  # path at the URL -> the file here that it is a copy of

    def offer(self, step: Step) -> None:
        """Copy what a step reads to the URL, as far as it is not there."""
        for word in step.inputs:
            name, path = _exchanged(word), Path(self._records.places.of(word))
            if name is None:
                continue
            files = _files(path)
            for file in files:
                there, state = _joined(name, file), _state(path / file)
                if self._there.get(there) != state:
                    upload(path / file, f"{self.url}/{there}")
                    self._there[there] = state
            for file in list_files(f"{self.url}/{name}").keys() - set(files):
                if "/" not in file:  # folders inside may be what other steps have saved
                    delete_file(_joined(self.url, name, file))

    def away(self, step: Step, width: int, main: Callable[[list[str]], int]) -> Away:
        """The step as another machine can run it."""
        commands = tuple(tuple(_inside(word) for word in command) for command in step.commands)
        moved = dataclasses.replace(step, commands=commands, also=tuple(_inside(word) for word in step.also))
        return Away(main, moved, width, self._log(step), self.url, self._records.places.stores)

    def take(self, step: Step) -> None:
        """Copy what a step has written from the URL, the file that marks it as done last."""
        for name in [*_written(step), self._log(step)]:
            found = list_files(f"{self.url}/{name}").items()
            sizes = {_joined(name, file): status["size"] for file, status in found}
            for file in sorted(sizes, key=lambda file: file == step.last):
                download(f"{self.url}/{file}", self._records.work / file, sizes[file])
                self._there[file] = _state(self._records.work / file)

    def forget(self, step: Step) -> None:
        """Delete what a step has saved at the URL."""
        for name in _written(step):
            delete_folder(f"{self.url}/{name}")

    def _log(self, step: Step) -> str:
        return str(self._records.log(step).relative_to(self._records.work))


def run_away(away: Away) -> Outcome:
    """Run a step in a folder of its own."""
    folders = cache_folder() / "steps"
    folders.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=folders))
    os.chdir(folder)  # so that what the step writes, and prints, names relative paths
    try:
        for config in away.step.configs:
            write_text(folder / config.path, config.text)
        for name in filter(None, map(_exchanged, away.step.inputs)):
            _link(_fetched(f"{away.url}/{name}"), folder / name)
        commands = [arguments(command, Places(Path(), away.stores), away.width) for command in away.step.commands]
        with _saved(folder, [*_written(away.step), away.log], away.url):
            return run_commands(Call(away.main, commands, folder / away.log, away.step.result))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetched(url: str) -> Path:
    """A local copy; asked for again where a file in it, which another step writes, was replaced meanwhile."""
    for _ in range(FETCHES - 1):
        with contextlib.suppress(UnavailableError):
            return local(url)
    return local(url)


@contextlib.contextmanager
def _saved(folder: Path, names: list[str], url: str) -> Iterator[None]:
    """The outputs ``names`` in ``folder``, as they are at ``url``; within the block, and at its end, they are saved."""
    saved: dict[str, FileState] = {}  # path of a file -> its state when it was the same at the URL
    for name in names:
        for file, status in list_files(f"{url}/{name}").items():
            path = _joined(name, file)
            download(f"{url}/{path}", folder / path, status["size"])
            saved[path] = _state(folder / path)

    def save() -> None:
        paths = [_joined(name, file) for name in names for file in _files(folder / name)]
        with contextlib.suppress(FileNotFoundError):  # deleted since: the next call saves the rest
            for path in sorted(paths, key=lambda path: (folder / path).stat().st_mtime_ns):  # in the order of writing
                if saved.get(path) != (state := _state(folder / path)):
                    upload(folder / path, f"{url}/{path}")
                    saved[path] = state
        for path in [path for path in saved if not (folder / path).exists()]:
            delete_file(f"{url}/{path}")
            del saved[path]

    ended = threading.Event()

    def save_often() -> None:
        while not ended.wait(SAVE_SECONDS):
            with contextlib.suppress(UnavailableError):  # the next attempt may succeed
                save()

    thread = threading.Thread(target=save_often, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        save()


def _state(path: Path) -> FileState:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _exchanged(word: Input) -> str | None:
    """The path at the URL of an input that is exchanged: not of a store, which is there already."""
    if word.store or is_url(word.path):
        return None
    return _name(word.path)


Kind = TypeVar("Kind", bound=Word)


def _inside(word: Kind) -> Kind:
    """A word with the path that it has at the URL."""
    return dataclasses.replace(word, path=_name(word.path)) if isinstance(word, Input | Output) else word


def _name(path: str) -> str:
    """The path at the URL: that of the working folder, or, for a file outside of it, one of its own."""
    return f"outside{path}" if path.startswith("/") else path


def _written(step: Step) -> list[str]:
    """The outputs of a step that are exchanged, without those inside others."""
    names = [output.path for output in step.outputs if not output.store]
    return [name for name in names if not any(name.startswith(f"{other}/") for other in names)]


def _files(folder: Path) -> list[str]:
    """The files of a folder, by their paths in it; ``""`` for a file. Of a data directory, not the audio."""
    if folder.is_file():
        return [""]
    if (folder / "utt2spk").is_file():
        return [name for name in DATA_FILES if (folder / name).is_file()]
    found = [Path(root, name) for root, _, names in os.walk(folder) for name in names if not name.startswith(".")]
    return sorted(str(path.relative_to(folder)) for path in found)


def _link(source: str | Path, target: str | Path) -> None:
    """``source`` at ``target``: a file, or a folder in which new files may be written."""
    source, target = Path(source), Path(target)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.link(source, target)
