"""Training and alignment that were killed or interrupted resume, and end with the same bytes."""

import functools
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from asr_kd.corpus.datadir import read_data_dir
from asr_kd.frames import FrameStore, WriteOptions
from asr_kd.hmm import alignment_store
from asr_kd.hmm.alignment_store import AlignmentModel, write_alignments
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.lexicon_reader import read_lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.training_data import load_utterances
from tests.hmm.conftest import Boundaries, align, train
from tests.killing import Commands

MODULES = ("asr_kd.hmm.train", "asr_kd.hmm.align", "asr_kd.hmm.alignment_store")


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands(*MODULES) as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training_killed_in_any_stage_ends_with_the_same_models(
    corpus: tuple[Path, Boundaries], commands: Commands, tmp_path: Path
) -> None:
    root, out = corpus[0], tmp_path / "out"
    paths = [str(root / name) for name in ("data", "feats", "lexicon.txt")]
    command = ["hmm", "train", *paths, str(out), "--config", str(root / "hmm.yaml")]
    for number, call, function, finished in (
        (signal.SIGKILL, 7, "stage.accumulate", []),  # among the monophones' iterations
        (signal.SIGKILL, 1, "train.save_lexicon", []),  # the stage's files are half written
        (signal.SIGINT, 45, "stage.accumulate", ["mono"]),  # the fifth iteration of the triphones
        (signal.SIGKILL, 1, "train.lda_transform", ["mono", "tri"]),
    ):
        status, errors = commands.end(number, call, f"asr_kd.hmm.{function}", command, tmp_path / "log")
        assert status == (130 if number == signal.SIGINT else -signal.SIGKILL), errors
        assert [stage for stage in ("mono", "tri", "lda") if (out / stage / "training.json").exists()] == finished
    assert train(root, out) == 0
    for stage in ("mono", "tri", "lda"):
        for file in ("gmm.safetensors", "states.safetensors", "training.json", "lexicon.txt"):
            assert (out / stage / file).read_bytes() == (root / "out" / stage / file).read_bytes()


def test_alignment_killed_while_it_aligns_or_writes_ends_with_the_same_states(
    corpus: tuple[Path, Boundaries], commands: Commands, tmp_path: Path
) -> None:
    root = corpus[0]
    assert align(root, tmp_path / "whole") == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    command = ["hmm", "align", str(root / "out" / "lda"), str(root / "data"), str(root / "feats"), str(tmp_path / "s")]

    def end(number: int, call: int, function: str) -> tuple[int, str]:
        return commands.end(number, call, f"asr_kd.hmm.{function}", command, tmp_path / "log")

    assert end(signal.SIGKILL, 9, "align._viterbi")[0] == -signal.SIGKILL
    assert not (tmp_path / "s" / "index.json").exists()
    assert end(signal.SIGKILL, 1, "alignment_store.write_store")[0] == -signal.SIGKILL
    status, errors = end(signal.SIGINT, 9, "align._viterbi")
    assert (status, "interrupted; run the same command again to resume" in errors) == (130, True)
    assert align(root, tmp_path / "s") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == whole


def test_an_interrupted_alignment_keeps_its_shards(corpus: tuple[Path, Boundaries], tmp_path: Path) -> None:
    """The second run aligns only the utterances whose shard is missing."""
    root = corpus[0]
    space = StateSpace.load(root / "out" / "lda")
    gmm, store = Gmm.load(root / "out" / "lda"), FrameStore(root / "feats")
    utterances = load_utterances(read_data_dir(root / "data"), store, space, read_lexicon(root / "lexicon.txt"))
    scored: list[int] = []

    def score(features: np.ndarray, states: np.ndarray) -> np.ndarray:
        scored.append(len(features))
        if len(scored) == 30:
            raise KeyboardInterrupt
        return gmm.log_likelihoods(features, states)

    model = AlignmentModel(space, score, {})
    with patch.object(alignment_store, "WriteOptions", functools.partial(WriteOptions, shard_frames=300)):
        with pytest.raises(KeyboardInterrupt):
            write_alignments(tmp_path / "s", utterances, model)
        assert not (tmp_path / "s" / "index.json").exists()
        done = write_alignments(tmp_path / "s", utterances, model)
        whole = write_alignments(tmp_path / "whole", utterances, AlignmentModel(space, gmm.log_likelihoods, {}))
    assert 0 < done.frames < done.store.total_frames == whole.frames
    assert done.store.content_hash == whole.store.content_hash
