"""The results of an unfinished decoding, kept so that it can be resumed."""

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_kd import __version__
from asr_kd.config import to_dict
from asr_kd.decode.model_folder import Model
from asr_kd.decode.recognise import DecodingFailure, Hypothesis, OutputOptions, Word
from asr_kd.decode.search import SearchOptions
from asr_kd.errors import UserError

NAME = ".decode.journal"


class Journal:
    """A file to which the results of each task are appended as soon as they are known, one JSON object per line.

    A line holds a hash of the settings that the results depend on (model, search, outputs), and the fingerprint of its
    inputs. Results with other settings, or of inputs that have changed since, are not used, but stay until a decoding
    into the folder is finished. A line that a kill has cut short is ignored.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.path = Path(folder) / NAME
        self._settings = _key(settings)
        self._new_folder = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self.path, "ab", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise UserError(
                f"{folder}: another process is decoding into this folder; wait for it, or use another folder"
            ) from None
        self._lines = open(self.path, "rb")  # noqa: SIM115
        self._places = self._index()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.path.exists() and not self.path.stat().st_size:  # nothing was decoded: leave no trace
            self.remove()
            if self._new_folder:
                self.path.parent.rmdir()
        self._lines.close()
        self._stream.close()

    def find(self, inputs: str) -> list[Hypothesis] | None:
        """The hypotheses of the inputs with this fingerprint; None unless they are here."""
        if inputs not in self._places:
            return None
        self._lines.seek(self._places[inputs])
        try:
            return [_hypothesis(entry) for entry in json.loads(self._lines.readline())["results"]]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None  # damaged: decoded again

    def append(self, inputs: str, results: Sequence[Hypothesis | DecodingFailure]) -> None:
        """Keep the results of the inputs with this fingerprint, unless one is a failure: it is tried again."""
        if any(isinstance(result, DecodingFailure) for result in results):
            return
        entry = {
            "settings": self._settings,
            "inputs": inputs,
            "results": [dataclasses.asdict(each) for each in results],
        }
        content = memoryview(json.dumps(entry).encode() + b"\n")
        while content:
            content = content[self._stream.write(content) :]

    def remove(self) -> None:
        """Remove the file, once the folder has its final ones."""
        self.path.unlink(missing_ok=True)

    def _index(self) -> dict[str, int]:
        """Where the line of each fingerprint begins, of those with these settings."""
        places: dict[str, int] = {}
        place, line = 0, b""
        for line in self._lines:
            if self._settings.encode() in line and line.endswith(b"\n"):
                try:
                    entry = json.loads(line)
                    if entry["settings"] == self._settings:
                        places[str(entry["inputs"])] = place
                except (ValueError, LookupError, TypeError, RecursionError):
                    pass  # damaged: decoded again
            place += len(line)
        if line and not line.endswith(b"\n"):
            self._stream.write(b"\n")
        return places


def settings_of(model: Model, search: SearchOptions, outputs: OutputOptions) -> dict[str, Any]:
    """What the results depend on besides the inputs."""
    return {
        "asr_kd": __version__,
        "files": model.config.files,
        "features": to_dict(model.config.features),
        "search": to_dict(search),
        "outputs": [outputs.timed, outputs.nbest, outputs.states and outputs.states.content_hash],
    }


def _key(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _hypothesis(entry: dict[str, Any]) -> Hypothesis:
    words, nbest = entry["words"], entry["nbest"]
    timed = tuple(Word(**word) for word in entry["timed"])
    lists = {"words": tuple(words), "timed": timed, "nbest": tuple((tuple(each), cost) for each, cost in nbest)}
    return Hypothesis(**{**entry, **lists})
