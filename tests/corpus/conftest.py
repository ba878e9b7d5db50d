"""Small data directories of tones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.corpus.datadir import DataDir, write_data_dir

MakeDir = Callable[..., DataDir]


@pytest.fixture
def tone() -> Callable[..., np.ndarray]:
    """``tone(seconds, rate=16000, frequency=440)``: float32 ``[samples]``, amplitude one half."""

    def make(seconds: float, rate: int = 16000, frequency: float = 440.0) -> np.ndarray:
        return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)

    return make


@pytest.fixture
def make_dir(tmp_path: Path, tone: Callable[..., np.ndarray]) -> MakeDir:
    """``make_dir({utterance: seconds}, name="data")``: utterances ``SPEAKER-...`` that all say ONE TWO."""

    def make(utterances: dict[str, float], name: str = "data") -> DataDir:
        folder = tmp_path / name
        folder.mkdir()
        for utt, seconds in utterances.items():
            soundfile.write(folder / f"{utt}.wav", tone(seconds), 16000)
        return write_data_dir(
            folder,
            wav={utt: folder / f"{utt}.wav" for utt in utterances},
            text=dict.fromkeys(utterances, ("ONE", "TWO")),
            utt2spk={utt: utt.split("-")[0] for utt in utterances},
        )

    return make
