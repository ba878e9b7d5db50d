"""A small store that the tests of frames read, break and write again."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays

FEATURES = {"fbank": TensorSpec("float16", (4,), "log-mel")}
STATES = {"state": TensorSpec("uint16", (), "tied state")}

Arrays = dict[str, dict[str, np.ndarray]]


def make_arrays(utterances: int = 20, seed: int = 0) -> Arrays:
    """``{utterance: {"fbank": [frames, 4] float32}}`` with 1 to 40 frames each."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 41, utterances)
    return {f"utt{i:02d}": {"fbank": rng.normal(size=(n, 4)).astype(np.float32)} for i, n in enumerate(lengths)}


def make_states(features: Arrays) -> Arrays:
    """``{utterance: {"state": [frames]}}`` for the same utterances."""
    rng = np.random.default_rng(1)
    return {u: {"state": rng.integers(0, 65536, len(a["fbank"]))} for u, a in features.items()}


def files_of(folder: str | Path) -> dict[str, bytes]:
    """Name and content of every file that a reader sees."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if not path.name.startswith(".")}


@pytest.fixture
def arrays() -> Arrays:
    return make_arrays()


@pytest.fixture
def store(tmp_path: Path, arrays: Arrays) -> FrameStore:
    return write_arrays(
        tmp_path / "store", StoreContent("features", FEATURES, {"bins": 4}), arrays, WriteOptions(shard_frames=100)
    )
