"""A small synthetic language, and the models that it trains."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.corpus.datadir import write_data_dir
from asr_kd.frames import StoreContent, TensorSpec, WriteOptions, write_arrays

PRONS = {"one": "A B", "two": "C A", "three": "B C B", "four": "C"}
CENTRES = {"SIL": -4.0, "A": 0.0, "B": 4.0, "C": 8.0}
SMALL = """
mono_gaussians: 20
tri_states: 20
tri_gaussians: 30
lda_states: 20
lda_gaussians: 30
silence_positions: 3
min_leaf_frames: 20
lda_window: 3
lda_dim: 5
"""

Boundaries = dict[str, list[tuple[str, int, int]]]


def speak(words: list[str], rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Cepstra ``[frames, 3]`` of ``words`` with a silence before and after, and the true frames of each word."""
    frames: list[float] = [CENTRES["SIL"]] * int(rng.integers(5, 10))
    spans = []
    for word in words:
        start = len(frames)
        for phone in PRONS[word].split():
            frames += [CENTRES[phone]] * int(rng.integers(5, 12))
        spans.append((word, start, len(frames)))
    frames += [CENTRES["SIL"]] * int(rng.integers(5, 10))
    clean = np.stack([frames, -np.array(frames), np.zeros(len(frames))], 1)
    return (clean + rng.normal(0, 0.7, clean.shape)).astype(np.float32), spans


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Boundaries]:
    """A folder with ``data``, ``feats``, ``lexicon.txt`` and ``hmm.yaml``, and where the words really are."""
    root = tmp_path_factory.mktemp("hmm")
    rng = np.random.default_rng(0)
    text, features, truth = {}, {}, {}
    for number in range(40):
        utt = f"u{number:02d}"
        text[utt] = [str(word) for word in rng.choice(list(PRONS), int(rng.integers(2, 6)))]
        features[utt], truth[utt] = speak(text[utt], rng)
    write_corpus(root, text, features)
    (root / "lexicon.txt").write_text("".join(f"{word} {pron}\n" for word, pron in PRONS.items()))
    (root / "hmm.yaml").write_text(SMALL)
    assert train(root, root / "out") == 0
    return root, truth


def write_corpus(root: Path, text: dict[str, list[str]], features: dict[str, np.ndarray]) -> None:
    write_data_dir(root / "data", {utt: f"{utt}.wav" for utt in text}, text, dict.fromkeys(text, "s"))
    arrays = {utt: {"mfcc": array} for utt, array in features.items()}
    write_arrays(
        root / "feats",
        StoreContent("features", {"mfcc": TensorSpec("float32", (3,))}),
        arrays,
        WriteOptions(force=True),
    )


def train(root: Path, out: Path, *options: str) -> int:
    paths = [str(root / name) for name in ("data", "feats", "lexicon.txt")]
    return main(["hmm", "train", *paths, str(out), "--config", str(root / "hmm.yaml"), *options])


def align(root: Path, store: Path, *options: str) -> int:
    return main(
        ["hmm", "align", str(root / "out" / "lda"), str(root / "data"), str(root / "feats"), str(store), *options]
    )
