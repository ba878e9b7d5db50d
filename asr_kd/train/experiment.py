"""The experiment folder: what was asked for, the curves, and the result.

``train.yaml`` (configuration and data), ``config.yaml`` and ``model.safetensors`` (the model kept), ``metrics.jsonl``
(one line for each evaluation), ``tensorboard/``, ``checkpoint.safetensors`` while training goes on, and
``summary.json`` once it has ended.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from asr_kd.config import read_mapping, to_dict
from asr_kd.errors import UserError
from asr_kd.files import read_text, write_text
from asr_kd.nets.folder import WEIGHTS
from asr_kd.train.config import TrainConfig
from asr_kd.train.frame_data import TrainingData


class Experiment:
    """The folder of one training run; opening it refuses a folder that belongs to another one.

    A process that does not lead its group (``leads``) looks at no record and writes none.
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
        if not leads:
            return
        identity = {**to_dict(config), "train": _identity(train), "dev": _identity(dev), **hashes}
        record = self.folder / "train.yaml"
        if self.checkpoint.exists() or (self.folder / WEIGHTS).exists():
            _check_same(record, identity)
        else:  # nothing is lost, even if an attempt failed here before
            write_text(record, yaml.safe_dump(identity, sort_keys=False))

    @property
    def summary(self) -> dict[str, Any] | None:
        """The result, where training has ended."""
        path = self.folder / "summary.json"
        return json.loads(read_text(path)) if path.exists() else None

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
        """Write ``summary.json``; the checkpoint has served."""
        write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        self.checkpoint.unlink(missing_ok=True)


class _NoBoard:
    """Stands in for TensorBoard where it is not installed."""

    def add_scalar(self, *_: object) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


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


def _check_same(record: Path, wanted: dict[str, Any]) -> None:
    if not record.exists():
        raise UserError(f"{record.parent}: holds a model that was not trained here; choose another folder")
    # A key that an earlier version did not know had the effect that its default has now.
    found = _flat(to_dict(TrainConfig())) | _flat(read_mapping(record))
    asked = _flat(wanted)
    differences = [
        f"{key} is {found.get(key)!r} there and {asked.get(key)!r} now"
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
