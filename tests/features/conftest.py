"""A data directory of short synthetic recordings in several formats and rates."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.corpus.datadir import DataDir, read_data_dir, write_data_dir


def speech(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Noise with moving formants, float32 ``[samples]``: something with a spectrum that is not flat."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * time + 3 * np.sin(5 * time + seed)) for f in (210, 900, 2300))
    return (0.1 * tones + 0.02 * rng.normal(size=len(time))).astype(np.float32)


FORMATS = (("wav", 16000), ("flac", 8000), ("ogg", 44100), ("opus", 48000), ("wav", 22050), ("mp3", 16000))


@pytest.fixture
def datadir(tmp_path: Path) -> DataDir:
    """12 utterances of 3 speakers, 0.5 to 1.6 seconds, six formats; one in stereo, one silent."""
    soundfile = pytest.importorskip("soundfile")
    wav, speakers = {}, {}
    (tmp_path / "audio").mkdir()
    for i in range(12):
        suffix, rate = FORMATS[i % len(FORMATS)]
        samples = speech(0.5 + 0.1 * i, rate, i) * (i != 6)
        if i == 4:
            samples = np.stack([samples, samples / 2], axis=1)
        wav[f"utt{i:02d}"] = tmp_path / "audio" / f"{i}.{suffix}"
        speakers[f"utt{i:02d}"] = f"speaker{i % 3}"
        form = {"opus": "OGG"}.get(suffix)
        soundfile.write(wav[f"utt{i:02d}"], samples, rate, format=form, subtype="OPUS" if suffix == "opus" else None)
    write_data_dir(tmp_path / "data", wav, {utterance: ["word"] for utterance in wav}, speakers)
    return read_data_dir(tmp_path / "data")
