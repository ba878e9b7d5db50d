"""A small ensemble, its features, and labels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr_kd.frames import FrameStore
from asr_kd.nets import AcousticModel, NetConfig, save_ensemble, save_model
from tests.train.conftest import write_features, write_states

STATES, BINS = 12, 4
NET = NetConfig(bins=BINS, states=STATES, width=8, layers=1, left_context=2, right_context=1)
LENGTHS = {f"u{i:02d}": 3 + 7 * i % 20 for i in range(12)}


def network(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A network with random weights whose distributions are neither flat nor certain; ``changes`` of ``NET``."""
    torch.manual_seed(seed)
    model = AcousticModel(dataclasses.replace(NET, **changes))
    for parameter in model.parameters():
        parameter.data.normal_(std=1.0)
    save_model(model, folder)
    return folder


def files_of(folder: str | Path) -> dict[str, bytes]:
    """Name and content of every file that a reader sees."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if not path.name.startswith(".")}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A ``teacher``, the ``features`` it was trained on, and ``states`` of all but one utterance."""

    teacher: Path
    features: FrameStore
    states: FrameStore


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    random = np.random.default_rng(3)
    arrays = {u: random.normal(size=(n, BINS)).astype(np.float32) for u, n in LENGTHS.items()}
    labels = {u: random.integers(STATES, size=n).astype(np.uint16) for u, n in LENGTHS.items() if u != "u05"}
    save_ensemble(tmp_path / "teacher", [network(tmp_path / f"m{i}", i) for i in range(2)])
    return Scene(
        tmp_path / "teacher",
        write_features(tmp_path / "feats", arrays),
        write_states(tmp_path / "states", labels, STATES),
    )
