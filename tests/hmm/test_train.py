"""Training and alignment of a small synthetic language, through the command line."""

import json
import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from asr_kd.cli import main
from asr_kd.corpus.datadir import read_data_dir
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, mapping, write_arrays
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.lexicon import SilenceProbabilities, Weights
from asr_kd.hmm.lexicon_reader import load_lexicon, read_lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.train import HmmConfig
from asr_kd.hmm.training_data import load_utterances
from asr_kd.nets import AcousticModel, NetConfig, save_ensemble, save_model
from tests.hmm.conftest import Boundaries, align, speak, train, write_corpus


def test_likelihood_rises_and_mixtures_grow(corpus: tuple[Path, Boundaries]) -> None:
    for stage in ("mono", "tri", "lda"):
        report = json.loads((corpus[0] / "out" / stage / "training.json").read_text())["iterations"]
        assert report[-1]["log_likelihood"] > report[0]["log_likelihood"]
        assert report[-1]["gaussians"] > report[0]["gaussians"] * 0.99
        space, gmm = StateSpace.load(corpus[0] / "out" / stage), Gmm.load(corpus[0] / "out" / stage)
        assert space.num_states == gmm.num_states
        assert space.is_context_dependent == (stage != "mono")


def test_alignments_find_the_words(corpus: tuple[Path, Boundaries], tmp_path: Path) -> None:
    root, truth = corpus
    assert align(root, tmp_path / "states") == 0
    store, space = FrameStore(tmp_path / "states"), StateSpace.load(root / "out" / "lda")
    assert store.kind == "states"
    assert store.config["num_states"] == space.num_states
    assert store.frame_counts == FrameStore(root / "feats").frame_counts
    silence = np.unique(space.table[:, space.index("SIL")])
    wrong = total = 0
    for utt, spans in truth.items():
        states = store.read(utt)["state"]
        spoken = np.zeros(len(states), bool)
        for _, start, end in spans:
            spoken[start:end] = True
        wrong += int((np.isin(states, silence) == spoken).sum())
        total += len(states)
    assert wrong / total < 0.03


def test_the_number_of_jobs_does_not_change_a_byte(corpus: tuple[Path, Boundaries], tmp_path: Path) -> None:
    root, _ = corpus
    assert train(root, tmp_path / "out", "--jobs", "2") == 0
    for stage in ("mono", "tri", "lda"):
        for name in ("gmm.safetensors", "states.safetensors", "training.json", "lexicon.txt"):
            assert (tmp_path / "out" / stage / name).read_bytes() == (root / "out" / stage / name).read_bytes()


def test_training_goes_on_after_the_last_complete_stage(
    corpus: tuple[Path, Boundaries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = corpus
    assert train(root, tmp_path / "out") == 0
    (tmp_path / "out" / "lda" / "training.json").unlink()  # as after a kill in the last stage
    (tmp_path / "out" / "lda" / "gmm.safetensors").unlink()
    capsys.readouterr()
    assert train(root, tmp_path / "out") == 0
    assert set(re.findall(r"^(mono|tri|lda) ", capsys.readouterr().err, re.MULTILINE)) == {"lda"}
    same = (tmp_path / "out" / "lda" / "gmm.safetensors", root / "out" / "lda" / "gmm.safetensors")
    assert same[0].read_bytes() == same[1].read_bytes()
    assert train(root, tmp_path / "out", "--set", "seed=1") == 0  # another configuration: nothing is kept
    assert same[0].read_bytes() != same[1].read_bytes()


@pytest.fixture
def bad(corpus: tuple[Path, Boundaries], tmp_path: Path) -> Path:
    """A corpus in which u1 is too short, u2 has NaN, u3 an unknown word, u4 no features; only the store has u5."""
    rng = np.random.default_rng(1)
    for name in ("lexicon.txt", "hmm.yaml"):
        (tmp_path / name).write_text((corpus[0] / name).read_text())
    text = {f"u{number}": ["one", "two"] for number in range(5)}
    features = {f"u{number}": speak(["one", "two"], rng)[0] for number in (0, 1, 2, 3, 5)}
    features["u1"] = features["u1"][:5]
    text["u3"] = ["one", "zebra"]
    write_corpus(tmp_path, text, features)
    (tmp_path / "out").symlink_to(corpus[0] / "out")
    shard = next((tmp_path / "feats").glob("shard-*.safetensors"))
    content = bytearray(shard.read_bytes())
    at = content.find(features["u2"][0].tobytes())
    content[at : at + 4] = np.float32(np.nan).tobytes()
    shard.write_bytes(content)
    return tmp_path


REASONS = {
    "u1": "5 frames for 2 words, which need 12: the audio is too short for its words; check the transcript",
    "u2": "not all finite",
    "u3": "not in the lexicon: zebra; add such words",
    "u4": "no features in",
}


def test_utterances_that_cannot_be_aligned_are_an_error(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(bad, bad / "states") == 1
    message = capsys.readouterr().err
    assert "4 utterances cannot be aligned, 1 can; the first, u1: 5 frames for 2 words" in message
    assert not (bad / "states").exists()


def test_skipping_bad_utterances_counts_and_lists_them(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(bad, bad / "states", "--skip-bad") == 0
    printed = capsys.readouterr().out
    for utt, reason in REASONS.items():
        assert re.search(f"^skipped {utt}: .*{re.escape(reason)}", printed, re.MULTILINE)
    assert "skipped 4 utterances" in printed
    assert "1 of its utterances are not in" in printed
    store = FrameStore(bad / "states")
    assert store.utterances == ("u0",)
    assert set(store.skipped) == set(REASONS)


def test_training_names_bad_utterances_or_skips_counts_and_lists_them(
    bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(bad, bad / "fresh") == 1
    assert "4 utterances cannot be aligned, 1 can; the first, u1: 5 frames for 2 words" in capsys.readouterr().err
    assert not (bad / "fresh").exists()
    assert train(bad, bad / "fresh", "--skip-bad") == 0
    printed = capsys.readouterr().out
    for utt, reason in REASONS.items():
        assert re.search(f"^skipped {utt}: .*{re.escape(reason)}", printed, re.MULTILINE)
    assert "skipped 4 utterances" in printed
    assert "1 of its utterances are not in" in printed
    assert "trained on 1 utterance" in printed


def test_unknown_words_can_be_spoken_noise(corpus: tuple[Path, Boundaries], tmp_path: Path) -> None:
    root, _ = corpus
    (tmp_path / "lexicon.txt").write_text("one A B\ntwo C A\nthree B C B\n")
    paths = [str(root / "data"), str(root / "feats"), str(tmp_path / "lexicon.txt"), str(tmp_path / "out")]
    config = ["--config", str(root / "hmm.yaml")]
    assert main(["hmm", "train", *paths, *config]) == 1
    assert main(["hmm", "train", *paths, *config, "--unknown", "spn"]) == 0
    space = StateSpace.load(tmp_path / "out" / "lda")
    assert space.silence == ("SIL", "SPN")
    assert "<unk> SPN\n" in (tmp_path / "out" / "lda" / "lexicon.txt").read_text()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("lexicon.txt", "", "the lexicon is empty"),
        ("hmm.yaml", "lda_state: 5\n", "did you mean lda_states?"),
        ("data/text", "u0 one\n", "u1"),
    ],
)
def test_bad_files_are_named(
    bad: Path, file: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad / file).write_text(content)
    assert train(bad, bad / "fresh") == 1
    error = capsys.readouterr().err
    assert message in error
    assert file.rpartition("/")[2] in error


def test_features_of_another_dimension_are_refused(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = {f"u{number}": {"fbank": np.zeros((60, 8), np.float32)} for number in range(5)}
    write_arrays(
        bad / "feats",
        StoreContent("features", {"fbank": TensorSpec("float32", (8,))}),
        features,
        WriteOptions(force=True),
    )
    (bad / "data" / "text").write_text("".join(f"u{number} one\n" for number in range(5)))
    assert align(bad, bad / "states") == 1
    assert "feats: 8 fbank coefficients per frame; " in capsys.readouterr().err


def test_gmms_on_filter_bank_features_are_warned_of(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = StoreContent("features", {"fbank": TensorSpec("float32", (3,))})
    write_arrays(bad / "feats", content, {"x": {"fbank": np.zeros((9, 3), np.float32)}}, WriteOptions(force=True))
    assert train(bad, bad / "fresh") == 1  # of another set, too
    assert "warning: " in (error := capsys.readouterr().err)
    assert "feats: holds fbank; GMMs are meant for cepstra (asr-kd feats --set kind=mfcc)" in error


def test_the_features_of_another_set_are_named(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = StoreContent("features", {"mfcc": TensorSpec("float32", (3,))})
    write_arrays(bad / "feats", content, {"x": {"mfcc": np.zeros((9, 3), np.float32)}}, WriteOptions(force=True))
    assert align(bad, bad / "states", "--skip-bad") == 1
    assert "feats: has features of none of the 5 utterances of" in capsys.readouterr().err


def test_the_parent_of_the_model_is_named_with_a_model_inside_it(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hmm", "align", *(str(bad / name) for name in ("out", "data", "feats", "states"))]) == 1
    assert re.search(r"out: not an HMM folder \(no states.yaml\); give one inside it, such", capsys.readouterr().err)


def test_states_are_not_taken_for_features(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(bad, bad / "states", "--skip-bad") == 0
    arguments = [str(bad / "out" / "lda"), str(bad / "data"), str(bad / "states"), str(bad / "again")]
    assert main(["hmm", "align", *arguments]) == 1
    assert "holds states; expected features" in capsys.readouterr().err


def test_what_was_aligned_before_is_not_aligned_again(
    corpus: tuple[Path, Boundaries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "states"
    printed = []
    for options in ((), (), ("--force",), ("--force", "--beam", "150"), ("--beam", "150")):
        assert align(corpus[0], store, *options) == 0
        printed.append("unchanged" in capsys.readouterr().out)
    assert printed == [False, True, False, False, True]
    next(store.glob("shard-*")).unlink()
    assert align(corpus[0], store, "--beam", "150") == 0
    assert "log-likelihood" in capsys.readouterr().out
    assert align(corpus[0], store) == 1
    assert "beam: 150 stored, 200 requested" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_report_of_a_stage_is_named(
    corpus: tuple[Path, Boundaries], tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus[0] / "out", tmp_path / "out")
    (tmp_path / "out" / "tri" / "training.json").write_bytes(content)
    assert train(corpus[0], tmp_path / "out") == 1
    assert "tri/training.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gmm.safetensors", "states.safetensors"])
def test_a_file_of_another_stage_is_refused(
    corpus: tuple[Path, Boundaries], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = corpus[0]
    for file in ("data", "feats"):
        (tmp_path / file).symlink_to(root / file)
    shutil.copytree(root / "out", tmp_path / "out")
    shutil.copy(root / "out" / "mono" / name, tmp_path / "out" / "lda" / name)
    assert align(tmp_path, tmp_path / "states") == 1
    assert "one of them is from another model" in capsys.readouterr().err
    assert train(root, tmp_path / "out") == 1
    assert "one of them is from another model" in capsys.readouterr().err


def test_likelihoods_that_are_not_finite_name_the_utterance(
    corpus: tuple[Path, Boundaries], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Gmm.log_likelihoods
    calls: list[int] = []

    def poisoned(self: Gmm, frames: np.ndarray, states: np.ndarray | None = None) -> np.ndarray:
        calls.append(1)
        return real(self, frames, states) * (np.nan if len(calls) == 8 else 1)

    monkeypatch.setattr(Gmm, "log_likelihoods", poisoned)
    assert align(corpus[0], tmp_path / "states") == 1
    assert "utterance u07: the model's log-likelihoods are not all finite" in capsys.readouterr().err


def test_features_of_a_whole_set_serve_a_subset_of_it(
    corpus: tuple[Path, Boundaries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = corpus
    for name in ("lexicon.txt", "hmm.yaml"):
        (tmp_path / name).write_text((root / name).read_text())
    for name in ("feats", "out"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "data").mkdir()
    for name in ("text", "wav.scp", "utt2spk"):
        lines = (root / "data" / name).read_text().splitlines(keepends=True)
        (tmp_path / "data" / name).write_text("".join(lines[:20]))
    assert align(tmp_path, tmp_path / "states") == 0
    assert "20 of its utterances are not in" in capsys.readouterr().out
    assert align(root, tmp_path / "all") == 0
    store, whole = FrameStore(tmp_path / "states"), FrameStore(tmp_path / "all")
    assert store.utterances == whole.utterances[:20]
    for utt in store.utterances:
        np.testing.assert_array_equal(store.read(utt)["state"], whole.read(utt)["state"])
    assert train(tmp_path, tmp_path / "fresh") == 0


def test_training_keeps_few_files_open_however_many_shards_there_are(
    corpus: tuple[Path, Boundaries], tmp_path: Path
) -> None:
    root, _ = corpus
    whole = FrameStore(root / "feats")
    arrays = {utt: whole.read(utt) for utt in whole.utterances}
    content = StoreContent("features", whole.tensors)
    store = write_arrays(tmp_path / "feats", content, arrays, WriteOptions(shard_frames=100))
    assert len(store.headers) >= 30
    before = len(os.listdir("/dev/fd"))
    space, lexicon = StateSpace.load(root / "out" / "mono"), read_lexicon(root / "lexicon.txt")
    utterances = load_utterances(read_data_dir(root / "data"), store, space, lexicon)
    assert sum(len(features) for features in utterances.features) == store.total_frames
    assert len(os.listdir("/dev/fd")) < before + 5


def test_probabilities_of_the_lexicon_are_kept_beside_the_model_and_used_to_align(
    corpus: tuple[Path, Boundaries], tmp_path: Path
) -> None:
    root, _ = corpus
    for name in ("feats", "data", "hmm.yaml"):
        (tmp_path / name).symlink_to(root / name)
    # "four" sounds like C; a second pronunciation B is all but impossible, then all but certain
    base = "one 1.0 A B\ntwo 1.0 C A\nthree 1.0 B C B\n"
    (tmp_path / "lexicon.txt").write_text(base + "four 1.0 C\nfour 1e-30 C C\n")
    assert train(tmp_path, tmp_path / "out", "--silence-probability", "0.3") == 0
    folder = tmp_path / "out" / "lda"
    assert not (folder / "lexicon.txt").exists()
    assert load_lexicon(folder).weights["four"] == (Weights(1.0), Weights(1e-30))
    assert load_lexicon(folder).silences == SilenceProbabilities.constant(0.3)
    assert align(tmp_path, tmp_path / "states") == 0
    other = tmp_path / "other.txt"
    other.write_text(base + "four 1e-30 C\nfour 1.0 C C\n")
    assert align(tmp_path, tmp_path / "others", "--lexicon", str(other)) == 0
    counts = [FrameStore(tmp_path / name).inputs["utterances"] for name in ("states", "others")]
    assert counts[0] != counts[1]
    stores = [FrameStore(tmp_path / name) for name in ("states", "others")]
    one, two = stores
    same = [np.array_equal(one.read(utt)["state"], two.read(utt)["state"]) for utt in one.utterances]
    assert not all(same)
    assert any(same)


def test_print_config_prints_the_configuration_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hmm", "train", "--print-config", "--set", "seed=7"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed"] == 7
    assert printed["lda_states"] == HmmConfig().lda_states
    assert main(["hmm", "train", "data"]) == 2
    assert "expected DATA FEATS LEXICON OUT_DIR" in capsys.readouterr().err


def test_a_network_and_an_ensemble_align(
    corpus: tuple[Path, Boundaries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = corpus
    states = StateSpace.load(root / "out" / "lda").num_states
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = AcousticModel(NetConfig(bins=3, states=states, width=8, layers=1, left_context=1, right_context=1))
        save_model(network, tmp_path / f"seed{seed}")
    save_ensemble(tmp_path / "both", [tmp_path / "seed1", tmp_path / "seed2"])
    for name in ("seed1", "both"):
        assert align(root, tmp_path / f"states_{name}", "--network", str(tmp_path / name)) == 0
    hashes = [FrameStore(tmp_path / f"states_{name}").inputs["network"] for name in ("seed1", "both")]
    assert hashes[0] != hashes[1]
    capsys.readouterr()
    assert align(root, tmp_path / "states_both", "--network", str(tmp_path / "both")) == 0
    assert "unchanged" in capsys.readouterr().out


def test_features_in_more_shards_than_files_may_be_open(
    corpus: tuple[Path, Boundaries], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    text = {f"u{number:03d}": ["one", "two", "three", "four"] for number in range(70)}
    arrays = {utt: {"mfcc": speak(words, rng)[0]} for utt, words in text.items()}
    write_corpus(tmp_path, text, {utt: array["mfcc"] for utt, array in arrays.items()})
    content = StoreContent("features", {"mfcc": TensorSpec("float32", (3,))})
    store = write_arrays(tmp_path / "feats", content, arrays, WriteOptions(shard_frames=1, force=True))
    assert len(store.headers) == 70
    for name in ("lexicon.txt", "hmm.yaml"):
        (tmp_path / name).write_text((corpus[0] / name).read_text())
    monkeypatch.setattr(mapping, "SMALL", -1)  # map each, however small
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        assert train(tmp_path, tmp_path / "out", "--jobs", "1") == 0
        assert align(tmp_path, tmp_path / "states", "--jobs", "1") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert FrameStore(tmp_path / "states").frame_counts == store.frame_counts
