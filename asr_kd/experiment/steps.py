"""The steps of a table of systems: each is one or a few ``asr-kd`` commands, with the files they read and write."""

import dataclasses
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from asr_kd.storage import is_url, joined


@dataclasses.dataclass(frozen=True)
class Input:
    """A file or folder that a command reads, relative to the working folder; ``prefix`` stands before it.

    ``content``: what of it the result depends on, if not all of it. ``store``: whether it is a frame store.
    """

    path: str
    prefix: str = ""
    content: str | None = None
    store: bool = False


@dataclasses.dataclass(frozen=True)
class Output:
    """A file or folder that a command writes, relative to the working folder; ``store``: as of ``Input``."""

    path: str
    store: bool = False


@dataclasses.dataclass(frozen=True)
class Aside:
    """A word that does not affect the result, such as a number of processes."""

    text: str


@dataclasses.dataclass(frozen=True)
class Jobs:
    """The number of processes, of which the result does not depend: as many as are free when the step starts."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A configuration file that is written for the command, with ``text`` in it."""

    path: str
    text: str


Word = str | Input | Output | Aside | Jobs | Config
Command = tuple[Word, ...]


@dataclasses.dataclass(frozen=True)
class Places:
    """Where files are: in the working folder; frame stores in the folder or URL ``stores``, if it is given."""

    work: Path
    stores: str | Path | None = None

    def of(self, word: Input | Output) -> str | Path:
        """The path or URL of what a command reads or writes."""
        stores = self.work if self.stores is None else self.stores
        return word.path if is_url(word.path) else joined(stores if word.store else self.work, word.path)


@dataclasses.dataclass(frozen=True)
class Step:
    """Commands that run one after the other in one process, such as those that test a system.

    ``name``: kind and subject, such as ``train student/seed1``. ``last``: the file that is written last. ``also``: what
    is read and written but named by no command. ``device``: whether it uses a GPU if there is one. ``here``: whether it
    runs on the machine that has the working folder; it takes seconds. ``result``: how the line with its result begins.
    """

    name: str
    commands: tuple[Command, ...]
    last: str
    also: tuple[Input | Output, ...] = ()
    device: bool = False
    here: bool = False
    result: str = ""

    @property
    def inputs(self) -> list[Input]:
        """What it reads. What a command reads of an earlier one's is an output."""
        return list(dict.fromkeys(word for word in self._words() if isinstance(word, Input)))

    @property
    def outputs(self) -> list[Output]:
        """What it writes."""
        return list(dict.fromkeys(word for word in self._words() if isinstance(word, Output)))

    @property
    def mark(self) -> Output:
        """Its ``last`` file."""
        return Output(self.last, any(each.store and self.last.startswith(f"{each.path}/") for each in self.outputs))

    @property
    def settings(self) -> list[str]:
        """What its result depends on, besides the content of its inputs: words, and lines of configurations."""
        settings: list[str] = []
        for word in self._words():
            match word:
                case str():
                    settings.append(word)
                case Config():
                    settings += word.text.splitlines()
        return settings

    @property
    def wide(self) -> bool:
        """Whether it can use several processes."""
        return Jobs() in self._words()

    @property
    def configs(self) -> list[Config]:
        """The configuration files that it needs."""
        return [word for word in self._words() if isinstance(word, Config)]

    def _words(self) -> list[Word]:
        return [*(word for command in self.commands for word in command), *self.also]


def arguments(command: Command, places: Places, jobs: int = 1) -> list[str]:
    """The words of a command that may use ``jobs`` processes, as a shell passes them."""
    words = []
    for word in command:
        match word:
            case Input():
                words.append(f"{word.prefix}{places.of(word)}")
            case Output():
                words.append(str(places.of(word)))
            case Config():
                words.append(str(places.work / word.path))
            case Aside():
                words.append(word.text)
            case Jobs():
                words.append(str(jobs))
            case str():
                words.append(word)
    return words


def as_shell(step: Step, places: Places, jobs: int = 1) -> str:
    """The commands of a step, to be run by hand."""
    return "\n".join(f"asr-kd {shlex.join(arguments(command, places, jobs))}" for command in step.commands)


def dependencies(steps: Iterable[Step]) -> dict[str, list[str]]:
    """The names of the steps whose outputs each step reads; an input belongs to the innermost output around it."""
    steps = list(steps)
    writer = {output.path: step.name for step in steps for output in step.outputs}
    found: dict[str, list[str]] = {}
    for step in steps:
        names = (writer.get(path) for word in step.inputs for path in _first(_around(word.path), writer))
        found[step.name] = [name for name in dict.fromkeys(names) if name is not None and name != step.name]
    return found


def closure(chosen: Iterable[str], needs: dict[str, list[str]]) -> set[str]:
    """The chosen steps and all that they need."""
    found: set[str] = set()
    waiting = list(chosen)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs[name]
    return found


def _around(path: str) -> Iterator[str]:
    """The path and the folders around it, from the inside out."""
    yield path
    yield from map(str, list(Path(path).parents)[:-1])


def _first(paths: Iterable[str], known: dict[str, str]) -> list[str]:
    return next(([path] for path in paths if path in known), [])
