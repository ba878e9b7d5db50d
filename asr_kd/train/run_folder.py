"""The folder of a training run.

- ``train.yaml``: configuration and data.
- ``config.yaml`` and ``model.safetensors``: the network of the epoch that is kept.
- ``metrics.jsonl`` (one line for each evaluation) and ``tensorboard/``: the curves.
- ``checkpoint.safetensors``: where training stands, until it has ended.
- ``summary.json``: the result, once it has ended.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from asr_kd.config import read_mapping, shown, to_dict
from asr_kd.errors import UserError
from asr_kd.files import read_json, sha256, write_text
from asr_kd.nets.folder import WEIGHTS
from asr_kd.train.config import TrainConfig
from asr_kd.train.frame_data import TrainingData

LOCK_SECONDS = 5  # to wait for a process that is about to end, such as one that was just killed


class RunFolder:
    """The folder of one training run; opening it refuses a folder that belongs to another one.

    Of several ranks only the one that ``leads`` reads and writes it.
    """

    def __init__(
        self,
        folder: str | Path,
        config: TrainConfig,
        train: TrainingData,
        dev: TrainingData,
        hashes: Mapping[str, str] = MappingProxyType({}),
        leads: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self._board: Any = None
        self._leads = leads
        self.run = ""  # identifies the training run in its checkpoints
        if not leads:
            return
        identity = {**to_dict(config), "train": _identity(train), "dev": _identity(dev), **hashes}
        record = self.folder / "train.yaml"
        if self.checkpoint.exists() or (self.folder / WEIGHTS).exists():
            _check_same(record, identity)
        else:  # an attempt that failed before its first checkpoint leaves nothing to lose
            write_text(record, yaml.safe_dump(identity, sort_keys=False))
        self.run = sha256(record)  # of the file, so that it stays the same when later versions have further keys

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the folder; what a killed one left half-written is deleted.

        Raises ``UserError`` if another process is training there. File systems without locks are not protected.
        """
        if not self._leads:
            yield
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            if _lock(descriptor, self.folder):
                for partial in self.folder.glob(".*.partial"):
                    partial.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The result, once training has ended; ``UserError`` if the file is damaged."""
        path = self.folder / "summary.json"
        if not path.exists():
            return None
        summary = read_json(path)
        for key in ("dev_accuracy", "epoch", "parameters"):
            if not isinstance(summary, dict) or not isinstance(summary.get(key), int | float):
                raise UserError(f"{path}: lacks the number {key!r}; the file is damaged: delete it and train again")
        return dict(summary)

    def record(self, history: list[dict[str, Any]]) -> None:
        """Write ``metrics.jsonl`` and the newest entry's TensorBoard events."""
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
        if self._board is None:
            self._board = _tensorboard(self.folder, history[-1]["step"])
        for key, value in history[-1].items():
            if key not in ("step", "epoch"):
                self._board.add_scalar(key, value, history[-1]["step"])
        self._board.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json`` and delete the checkpoint."""
        write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        self.checkpoint.unlink(missing_ok=True)


class _NoBoard:
    """Stands in for TensorBoard where it is not installed."""

    def add_scalar(self, *_: object) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


def _lock(descriptor: int, folder: Path) -> bool:
    """Lock an open folder; False if its file system has no locks."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                raise UserError(
                    f"{folder}: another process is training in this folder; wait for it, or choose another folder"
                ) from None
            time.sleep(0.1)
        except OSError:
            return False


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard is not installed; the curves are in metrics.jsonl only", file=sys.stderr)
        return _NoBoard()
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


def _identity(data: TrainingData) -> dict[str, Any]:
    stores = {"states": data.states, "targets": data.targets.store if data.targets else None}
    return {
        "features": data.features.content_hash,
        **{name: store.content_hash for name, store in stores.items() if store is not None},
        "utterances": f"{len(data.utterances)}, {hashlib.sha256(' '.join(data.utterances).encode()).hexdigest()}",
        "frames": data.total_frames,
    }


def _check_same(record: Path, identity: dict[str, Any]) -> None:
    """Raise ``UserError`` unless the training run of ``identity`` is the one recorded in ``train.yaml``."""
    if not record.exists():
        raise UserError(
            f"{record.parent}: holds a network without train.yaml, the record of its training; choose another folder"
        )
    # A key that an earlier version did not know had the effect that its default has now.
    found = _flat(to_dict(TrainConfig())) | _flat(read_mapping(record))
    asked = _flat(identity)
    differences = [
        f"{key} is {shown(found.get(key))} there and {shown(asked.get(key))} now"
        for key in sorted(found.keys() | asked.keys())
        if found.get(key) != asked.get(key)
    ]
    if differences:
        raise UserError(
            f"{record.parent}: was trained with another configuration or other data: {'; '.join(differences[:5])};"
            " choose another folder, or delete this one"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
