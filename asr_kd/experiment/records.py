"""Which steps of an experiment are done: a record of each, with the content of what it read.

``experiment/steps/NAME.json`` below the working folder holds a step's settings, the hashes of its inputs, its state,
its wall time and the commit. Paths and numbers of processes are not part of it, so a folder can be moved.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.experiment.steps import Input, Places, Step
from asr_kd.files import file_name, read_json, sha256, write_json
from asr_kd.frames import FrameStore
from asr_kd.nets import model_hash
from asr_kd.storage import exists, is_url, joined

LARGE = 1 << 20  # bytes from which a file's hash is kept, with its size and time

Contents = dict[str, str | None]  # path of an input -> a hash of its content; None if it is not there
State = Literal["done", "running", "failed", "interrupted", "out of date", "unrecorded", "missing"]


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a step, why it is not done, and, where it has run, its wall time in seconds."""

    state: State
    why: str = ""
    seconds: float | None = None


class Records:
    """The records of the experiment in a working folder, ``places.work``."""

    def __init__(self, places: Places) -> None:
        self.places, self.work = places, places.work
        self.folder = self.work / "experiment"
        self._cache_file = self.folder / "hashes.json"
        self._hashes: dict[str, list[Any]] = read_json(self._cache_file) if self._cache_file.exists() else {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second command from running steps in the folder; ``UserError`` if one does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.work}: another asr-kd experiment is running in this folder; wait for it"
                ) from None
            try:
                yield
            finally:
                write_json(self._cache_file, self._hashes)

    def in_use(self) -> bool:
        """Whether a command is running steps in the folder."""
        path = self.folder / "lock"
        if not path.exists():
            return False
        with open(path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def log(self, step: Step) -> Path:
        """The file for what a step prints."""
        return self.folder / "logs" / f"{file_name(step.name)}.log"

    def read(self, step: Step) -> dict[str, Any] | None:
        """The record of a step, if there is one."""
        path = self._path(step)
        if not path.exists():
            return None
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("inputs"), dict):
            raise UserError(f"{path}: not the record of a step; delete it, and the step runs again")
        return record

    def contents(self, step: Step) -> Contents:
        """What a step would read now: a hash of each of its inputs."""
        return {word.path: self._content(word) for word in step.inputs}

    def write(self, step: Step, state: State, commit: str | None, contents: Contents, **more: Any) -> None:
        """Record a step that reads, or has read, inputs with these ``contents``."""
        record = {"step": step.name, "state": state, "commit": commit, "time": time.time(), **more}
        write_json(self._path(step), {**record, "settings": step.settings, "inputs": contents})

    def forget(self, step: Step) -> None:
        """Delete the record of a step."""
        self._path(step).unlink(missing_ok=True)

    def status(self, step: Step) -> Status:
        """Whether a step is done, and if not, why."""
        record = self.read(step)
        there = exists(self.places.of(step.mark))
        if record is None:
            return Status("unrecorded", "its output exists, but no record of it") if there else Status("missing")
        state, seconds = record.get("state"), record.get("seconds")
        if state == "running":
            return Status("running" if self.in_use() else "interrupted")
        if state == "failed":
            return Status("failed", str(record.get("error", "")), seconds)
        if not there:
            return Status("missing", f"its output {step.last} has gone", seconds)
        if change := self._change(step, record):
            return Status("out of date", change, seconds)
        return Status("done", seconds=seconds)

    def _change(self, step: Step, record: dict[str, Any]) -> str:
        """What of a step has changed since it ran; empty if nothing has."""
        before, now = record.get("settings", []), step.settings
        if before != now:
            pairs = zip(before, now, strict=False)
            was, new = next(((old, new) for old, new in pairs if old != new), (before[-1:], now[-1:]))
            return f"its settings changed: {shown(was)} then, {shown(new)} now"
        for word in step.inputs:
            if record["inputs"].get(word.path) != self._content(word):
                return f"{word.path} has changed" if word.path in record["inputs"] else f"{word.path} is a new input"
        return ""

    def _content(self, word: Input) -> str | None:
        """A hash of what a step reads; None if it is not there."""
        place = self.places.of(dataclasses.replace(word, path=word.content or word.path))
        if not is_url(place):
            return self._hash(Path(place))
        return FrameStore(place).content_hash if exists(joined(place, "index.json")) else None

    def _hash(self, path: Path) -> str | None:
        if path.is_file():
            return self._file_hash(path)
        if not path.is_dir():
            return None
        if (path / "index.json").is_file():
            return FrameStore(path).content_hash
        if (path / "model.safetensors").is_file() or (path / "ensemble.yaml").is_file():
            return model_hash(path)
        names = [name for name in ("text", "utt2spk", "segments") if (path / name).is_file()]
        if "utt2spk" not in names:  # not a data directory, whose paths of audio may change
            names = sorted(str(file.relative_to(path)) for file in path.rglob("[!.]*") if file.is_file())
        lines = (f"{name} {self._file_hash(path / name)}" for name in names)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _file_hash(self, path: Path) -> str:
        known = os.stat(path)
        if known.st_size < LARGE:
            return sha256(path)
        key = [known.st_size, known.st_mtime_ns]
        found = self._hashes.get(str(path))
        if not found or found[:2] != key:
            self._hashes[str(path)] = found = [*key, sha256(path)]
        return str(found[2])

    def _path(self, step: Step) -> Path:
        return self.folder / "steps" / f"{file_name(step.name)}.json"
