"""A tiny recogniser: four words, a random network, and a graph in which any word may follow any other."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_kd.corpus.datadir import write_data_dir
from asr_kd.decode.model_folder import Model, ModelParts, build_model
from asr_kd.features.config import FeatureConfig
from asr_kd.graph.fst import Fst
from asr_kd.hmm.lexicon import Lexicon, write_lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.topology import monophone_space
from asr_kd.nets import AcousticModel, NetConfig, save_model

WORDS = ("<eps>", "GO", "NO", "ON", "STOP")
LEXICON = Lexicon(
    {"GO": (("G", "OW"),), "NO": (("N", "OW"),), "ON": (("AA", "N"), ("AO", "N")), "STOP": (("S", "T", "AA", "P"),)}
)
FORMATS = {"a.wav": 16000, "b.flac": 44100, "c.ogg": 48000, "d.wav": 8000, "wrong-extension.txt": 16000}


def loop_graph(space: StateSpace, lexicon: Lexicon, words: tuple[str, ...], late: int = 0) -> Fst:
    """Any sequence of words and silences; a word's label is on the ``late``-th arc of its pronunciation."""
    arcs: list[tuple[int, int, int, float, int]] = []  # source, input label, word, cost, target
    states = 1

    def chain(phones: tuple[str, ...], word: int, cost: float) -> None:
        nonlocal states
        at = 0
        sequence = [state for phone in phones for state in space.chain(phone)]
        for position, state in enumerate(sequence):
            label = word if position == min(late, len(sequence) - 1) else 0
            arcs.append((at, state + 1, label, cost if position == 0 else 0.3, states))
            arcs.append((states, state + 1, 0, 1.2, states))
            at, states = states, states + 1
        arcs.append((at, 0, 0, 0.3, 0))

    for number, word in enumerate(words[1:], 1):
        for pron in lexicon.entries[word]:
            chain(pron, number, 1.0 + 0.5 * number)
    chain(("SIL",), 0, 0.7)
    columns = list(zip(*arcs, strict=True))
    final = np.full(states, np.inf, np.float32)
    final[0] = 0.5
    return Fst.from_arcs(0, final, *(np.array(column) for column in columns))


@pytest.fixture(scope="session")
def space() -> StateSpace:
    return monophone_space(LEXICON)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory, space: StateSpace) -> Path:
    """A folder with ``network``, ``graph`` and ``states``, of which ``build_model`` makes a model."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(3)
    network = AcousticModel(
        NetConfig(bins=13, states=space.num_states, width=16, layers=1, left_context=2, right_context=1)
    )
    network.mean.fill_(12.0)
    save_model(network, folder / "network")
    space.save(folder / "states")
    write_lexicon(LEXICON, folder / "states" / "lexicon.txt")
    loop_graph(space, LEXICON, WORDS, late=2).write(folder / "graph" / "HCLG.fst")
    (folder / "graph" / "words.txt").write_text("".join(f"{word} {number}\n" for number, word in enumerate(WORDS)))
    return folder


@pytest.fixture(scope="session")
def features() -> FeatureConfig:
    return FeatureConfig(bins=13, normalise="none")


@pytest.fixture
def model(tmp_path: Path, parts: Path, features: FeatureConfig) -> Model:
    return build_model(
        tmp_path / "model", ModelParts(parts / "graph", features, parts / "network", None, parts / "states")
    )


@pytest.fixture(scope="session")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of noise in each format."""
    folder = tmp_path_factory.mktemp("audio")
    for name, rate in FORMATS.items():
        noise = np.random.default_rng(0).normal(0, 0.1, rate).clip(-1, 1)
        stereo = np.stack([noise, noise], 1) if rate == 44100 else noise
        kind = {"flac": "FLAC", "ogg": "OGG"}.get(name.rpartition(".")[2], "WAV")
        soundfile.write(folder / name, stereo, rate, format=kind)
    (folder / "broken.wav").write_bytes(b"RIFF....WAVE")
    soundfile.write(folder / "short.wav", np.zeros(1), 16000)
    return folder


@pytest.fixture
def datadir(tmp_path: Path, audio: Path) -> Path:
    """Two speakers whose order is not that of their utterances."""
    wav = {"u1": str(audio / "a.wav"), "u2": str(audio / "b.flac"), "u3": str(audio / "d.wav")}
    text = {"u1": ["GO"], "u2": ["STOP", "ON"], "u3": ["NO"]}
    write_data_dir(tmp_path / "data", wav, text, {"u1": "z", "u2": "a", "u3": "z"})
    return tmp_path / "data"
