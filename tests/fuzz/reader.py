"""What a reader is to the fuzzer, and calls that are not commands."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = str | Callable[[], object]  # a command of asr-kd, or a function


@dataclasses.dataclass(frozen=True)
class Reader:
    """What one reader is given.

    - ``files``: files and folders of the world that a case has.
    - ``mutated``: globs of those that are mutated; one or two of them in each case.
    - ``calls``: commands, run in the folder of the case; each case runs one.
    - ``prepare``: what is done instead of mutating files, with the folder.
    """

    name: str
    files: tuple[str, ...]
    mutated: tuple[str, ...]
    calls: tuple[Call, ...]
    prepare: Callable[[Path, random.Random], None] | None = None


def load(cls_name: str, path: str) -> Callable[[], object]:
    """A call that reads the YAML file at ``path`` as the configuration class ``module:name``."""

    def call() -> object:
        return _load(cls_name, path)

    call.__name__ = f"load_config({cls_name}, {path!r})"
    return call


def _load(cls_name: str, path: str) -> Any:
    import importlib

    from asr_kd.config import load_config

    module, name = cls_name.split(":")
    return load_config(getattr(importlib.import_module(module), name), path)


def build_network() -> None:
    """Read a network's configuration and make the network."""
    from asr_kd.nets import AcousticModel

    AcousticModel(_load("asr_kd.nets.config:NetConfig", "student/config.yaml"))


def read_url_store() -> None:
    """Open a store at a URL (a file system in memory) and read all of it."""
    import fsspec

    from asr_kd.frames import FrameStore

    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    for path in Path("mfcc").iterdir():
        files.pipe_file(f"/store/{path.name}", path.read_bytes())
    store = FrameStore("memory://store")
    for utterance in store.utterances:
        store.read(utterance)


def read_store_randomly() -> None:
    """Open a store and read its utterances one by one, and joined with another one."""
    from asr_kd.frames import FrameStore, open_joined

    store = FrameStore("mfcc")
    assert store.total_frames >= 0
    for utterance in reversed(store.utterances):
        for array in store.read(utterance).values():
            array.sum()
    for shard in open_joined([store, "states"]).runs(store.utterances):
        for array in shard.tensors.values():
            array.sum()


def rename_utterance(folder: Path, rng: random.Random) -> None:
    """Give one utterance, or speaker, another name in all tables of ``plain``, in ``mfcc`` and in ``dec_net``."""
    from tests.fuzz.mutate import WORDS

    old = rng.choice(("s0-u0", "s0-u2", "s1-u5", "s0 ", "s1 "))
    new = rng.choice([*WORDS, "x" * 300, "é" * 200, "a\nb", "a|b", "sp0.9-s0-u0", "\x7f", "CON", "a:b", "a.ark:5"])
    new = new if rng.random() < 0.7 else f"{old.strip()}{new}"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in ("", ".scp", ".json", ".txt"):
            text = path.read_bytes()
            path.write_bytes(text.replace(old.strip().encode(), new.encode("utf-8", "surrogatepass")))
