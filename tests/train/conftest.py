"""Small stores of features and states that a small network can learn."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr_kd.frames import FrameStore, StoreContent, TensorSpec, write_arrays
from asr_kd.nets import NetConfig
from asr_kd.train import TrainConfig, TrainingData

STATES, BINS = 6, 4
NET = NetConfig(width=16, layers=2, left_context=3, right_context=1)
CONFIG = TrainConfig(net=NET, epochs=3, batch_frames=32, learning_rate=5e-3)
Arrays = dict[str, np.ndarray]


def speech(lengths: list[int], seed: int = 0) -> tuple[Arrays, Arrays]:
    """Features and states of utterances ``u0, u1, ...``: each state has its own mean, held for four frames."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(7).normal(size=(STATES, BINS))
    features, states = {}, {}
    for i, length in enumerate(lengths):
        labels = np.repeat(random.integers(STATES, size=length // 4 + 1), 4)[:length]
        states[f"u{i}"] = labels.astype(np.uint16)
        features[f"u{i}"] = (means[labels] + random.normal(scale=0.7, size=(length, BINS))).astype(np.float32)
    return features, states


def write_features(path: Path, arrays: Arrays, bins: int = BINS) -> FrameStore:
    """A store of features."""
    content = StoreContent("features", {"fbank": TensorSpec("float32", (bins,))})
    return write_arrays(path, content, {u: {"fbank": a} for u, a in arrays.items()})


def write_states(path: Path, arrays: Arrays, num_states: int = STATES) -> FrameStore:
    """A store of states, which does not record how many there are where ``num_states`` is 0."""
    tensors = {"state": TensorSpec(next(iter(arrays.values())).dtype.name)}
    config = {"num_states": num_states} if num_states else {}
    return write_arrays(path, StoreContent("states", tensors, config), {u: {"state": a} for u, a in arrays.items()})


def without_labels(arrays: Arrays, *utterances: str) -> Arrays:
    """States as int32 in which these utterances, or all, have -1 throughout."""
    gone = utterances or tuple(arrays)
    return {u: np.where(u in gone, -1, a.astype(np.int32)) for u, a in arrays.items()}


MakeData = Callable[..., TrainingData]


@pytest.fixture
def make_data(tmp_path: Path) -> MakeData:
    """``make_data(lengths, seed)`` -> joined stores of utterances of these lengths."""
    numbers = itertools.count()

    def make(lengths: list[int], seed: int = 0) -> TrainingData:
        features, states = speech(lengths, seed)
        folder = tmp_path / f"data{next(numbers)}"
        return TrainingData(write_features(folder / "feats", features), write_states(folder / "states", states))

    return make
