"""Model folders: complete, checked, movable."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from asr_kd.cli import main
from asr_kd.decode import model_folder as model_module
from asr_kd.decode.formats import summarise
from asr_kd.decode.model_folder import (
    Model,
    ModelParts,
    build_model,
    describe,
    load_model_folder,
    read_feature_config,
    read_words,
)
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.frames import StoreContent, TensorSpec, write_arrays
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.transform import WindowTransform
from asr_kd.nets import AcousticModel, NetConfig, load_model, log_posteriors, save_model
from tests.decode.conftest import WORDS
from tests.killing import Killed, digests, killed_at


def random_gmm(states: int, cepstra: int = 5) -> Gmm:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(2 * states, cepstra)).astype(np.float32)
    transform = WindowTransform(np.eye(cepstra, dtype=np.float32)[:, None])
    weights = np.full(2 * states, 0.5, np.float32)
    return Gmm(transform, weights, means, np.ones_like(means), np.arange(0, 2 * states + 1, 2, dtype=np.int32))


def test_a_model_works_after_the_parts_are_gone_and_the_folder_has_moved(
    tmp_path: Path, parts: Path, features: FeatureConfig
) -> None:
    copies = shutil.copytree(parts, tmp_path / "parts")
    build_model(tmp_path / "a", ModelParts(copies / "graph", features, copies / "network", None, copies / "states"))
    shutil.rmtree(copies)
    (tmp_path / "a").rename(tmp_path / "b")
    model = load_model_folder(tmp_path / "b")
    assert model.words == WORDS
    assert model.config.features == features
    assert model.aligner is not None
    assert str(model.scorer.num_states) in str(describe(model)["states"])


def test_scores_of_a_network_are_posteriors_over_priors(model: Model, parts: Path) -> None:
    frames = np.random.default_rng(0).normal(12, 1, size=(2500, 13)).astype(np.float32)  # three blocks
    network = load_model(parts / "network")
    blocks = list(model.scorer.blocks(frames))
    expected = log_posteriors(network, frames) - network.log_prior.numpy()
    assert len(blocks) > 1
    assert np.concatenate(blocks) == pytest.approx(expected, abs=1e-5)


def test_a_gmm_is_an_acoustic_model_too(tmp_path: Path, parts: Path, space: StateSpace) -> None:
    gmm = random_gmm(space.num_states)
    gmm.save(tmp_path / "gmm")
    cepstra = FeatureConfig(kind="mfcc", cepstra=5, bins=13)
    model = build_model(tmp_path / "m", ModelParts(parts / "graph", cepstra, None, tmp_path / "gmm", parts / "states"))
    frames = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    (scores,) = model.scorer.blocks(frames)
    assert scores == pytest.approx(gmm.log_likelihoods(frames))
    assert len(Decoder(model.graph, model.config.search).decode(scores).states) == 30


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "HCLG.fst", "words.txt", "lexicon.txt", "states.yaml", "model.yaml"]
)
def test_a_missing_file_is_named(model: Model, name: str) -> None:
    (model.path / name).unlink()
    with pytest.raises(UserError, match=name):
        load_model_folder(model.path)


@pytest.mark.parametrize("name", ["model.safetensors", "HCLG.fst", "words.txt", "lexicon.txt", "states.safetensors"])
def test_a_foreign_or_damaged_file_is_named(model: Model, name: str) -> None:
    content = bytearray((model.path / name).read_bytes())
    content[-1] ^= 1
    (model.path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*the checksum differs"):
        load_model_folder(model.path)


@pytest.mark.parametrize("content", [b"", b"{}", b"files: 3\n", b"kind: gmm\n", b"provenance: []\n"])
def test_a_damaged_model_yaml_is_named(model: Model, content: bytes) -> None:
    (model.path / "model.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.yaml: "):
        load_model_folder(model.path)


@pytest.mark.parametrize("kind", ["network", "gmm"])
def test_each_file_missing_empty_or_foreign_is_named_without_a_crash(
    tmp_path: Path, model: Model, parts: Path, space: StateSpace, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model.path
    if kind == "gmm":
        random_gmm(space.num_states).save(tmp_path / "gmm")
        cepstra = FeatureConfig(kind="mfcc", cepstra=5, bins=13)
        folder = tmp_path / "gmm-model"
        build_model(folder, ModelParts(parts / "graph", cepstra, None, tmp_path / "gmm", parts / "states"))
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == (8 if kind == "network" else 7)
    for name in names:
        whole = (folder / name).read_bytes()
        for content in (None, b"", whole[: len(whole) // 2], b"\x89PNG\r\n\x1a\n" * 50):
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(content)
            assert main(["model", "info", str(folder)]) == 1
            message = capsys.readouterr().err
            assert str(folder) in message
            assert name in message
            (folder / name).write_bytes(whole)
    assert main(["model", "info", str(folder)]) == 0
    shutil.copy(folder / "words.txt", folder / "notes.txt")  # a file more does no harm
    assert main(["model", "info", str(folder)]) == 0


@pytest.mark.parametrize("name", ["write_graph", "write_text", "write_lexicon", "save_config"])
def test_a_model_whose_building_was_killed_is_refused_and_built_by_the_rerun(
    model: Model, parts: Path, features: FeatureConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digests(model.path)
    arguments = (model.path, ModelParts(parts / "graph", features, parts / "network", None, parts / "states"))
    with monkeypatch.context() as patch:
        patch.setattr(model_module, name, killed_at(getattr(model_module, name), 1))
        with pytest.raises(Killed):
            build_model(*arguments)
    with pytest.raises(UserError, match=r"not a finished model folder \(no model\.yaml\); run asr-kd model build"):
        load_model_folder(model.path)
    build_model(*arguments)
    assert digests(model.path) == whole


def test_another_schema_or_folder_is_refused(model: Model, tmp_path: Path) -> None:
    content = yaml.safe_load((model.path / "model.yaml").read_text())
    (model.path / "model.yaml").write_text(yaml.safe_dump({**content, "schema": 99}))
    with pytest.raises(UserError, match="schema 99"):
        load_model_folder(model.path)
    with pytest.raises(UserError, match="no such folder; expected a finished model folder"):
        load_model_folder(tmp_path / "nowhere")


def test_the_accuracies_of_the_training_travel_with_the_model_to_the_decoding(
    tmp_path: Path, parts: Path, features: FeatureConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    network = shutil.copytree(parts / "network", tmp_path / "network")
    (network / "summary.json").write_text('{"epoch": 7, "train_accuracy": 0.8125, "dev_accuracy": 0.5}')
    model = build_model(tmp_path / "m", ModelParts(parts / "graph", features, network, None, parts / "states"))
    training = {"train_accuracy": 0.8125, "dev_accuracy": 0.5}
    assert yaml.safe_load((tmp_path / "m" / "model.yaml").read_text())["provenance"]["training"] == training
    assert summarise(load_model_folder(model.path), SearchOptions(), [], [], "audio")["train_frame_accuracy"] == 0.8125
    assert main(["model", "info", str(model.path)]) == 0
    assert "train accuracy 81.25 %, dev accuracy 50.00 %" in capsys.readouterr().out


def test_a_training_without_labels_tells_no_accuracy_on_its_data(
    tmp_path: Path, parts: Path, features: FeatureConfig
) -> None:
    network = shutil.copytree(parts / "network", tmp_path / "network")
    (network / "summary.json").write_text('{"train_accuracy": null, "dev_accuracy": 0.5}')
    model = build_model(tmp_path / "m", ModelParts(parts / "graph", features, network, None, parts / "states"))
    assert model.config.provenance["training"] == {"dev_accuracy": 0.5}
    assert summarise(model, SearchOptions(), [], [], "audio")["train_frame_accuracy"] is None


def test_a_model_of_an_unknown_training_tells_no_accuracy(model: Model) -> None:
    assert "training" not in model.config.provenance
    assert summarise(model, SearchOptions(), [], [], "audio")["train_frame_accuracy"] is None


@pytest.mark.parametrize("content", ['{"train_accuracy": 0.8', '{"train_accuracy": [1]}', "3"])
def test_a_damaged_summary_of_the_training_is_named(
    tmp_path: Path, parts: Path, features: FeatureConfig, content: str
) -> None:
    network = shutil.copytree(parts / "network", tmp_path / "network")
    (network / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json: not the summary of a training"):
        build_model(tmp_path / "m", ModelParts(parts / "graph", features, network, None, parts / "states"))


def test_features_that_record_no_configuration_give_none(tmp_path: Path) -> None:
    content = StoreContent("features", {"fbank": TensorSpec("float32", (13,))})
    write_arrays(tmp_path / "imported", content, {"u": {"fbank": np.zeros((3, 13), np.float32)}})
    with pytest.raises(UserError, match="imported: does not record how its features were computed, as imported"):
        read_feature_config(tmp_path / "imported")


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, parts: Path, features: FeatureConfig) -> None:
    space = StateSpace.load(parts / "states")

    def build(**changed: object) -> Model:
        given = {
            "graph": parts / "graph", "features": features, "network": parts / "network",
            "states": parts / "states", **changed,
        }  # fmt: skip
        return build_model(tmp_path / "m", ModelParts(**given))  # type: ignore[arg-type]

    build()
    whole = digests(tmp_path / "m")
    message = r"--features: 40 fbank coefficients per frame; .*network expects 13; give the features of its training"
    with pytest.raises(UserError, match=message):
        build(features=FeatureConfig(bins=40))
    with pytest.raises(
        UserError, match=r"network: not a graph folder \(no HCLG.fst\); give a folder from asr-kd graph"
    ):
        build(graph=parts / "network")
    with pytest.raises(UserError, match=r"graph: not an HMM folder \(no states.yaml\)"):
        build(states=parts / "graph")
    assert digests(tmp_path / "m") == whole  # a mistake leaves the model that was there
    few = AcousticModel(NetConfig(bins=13, states=space.num_states - 1, width=4, layers=1))
    save_model(few, tmp_path / "few")
    with pytest.raises(UserError, match=f"graph uses {space.num_states} tied states"):
        build(network=tmp_path / "few")
    many = AcousticModel(NetConfig(bins=13, states=space.num_states + 1, width=4, layers=1))
    save_model(many, tmp_path / "many")
    with pytest.raises(UserError, match=r"states\.yaml has"):
        build(network=tmp_path / "many")
    graph = shutil.copytree(parts / "graph", tmp_path / "graph")
    (graph / "words.txt").write_text("<eps> 0\nGO 1\n")
    with pytest.raises(UserError, match=r"state \d+: arc .* words\.txt has 2 words"):
        build(graph=graph)
    shutil.copy(parts / "graph" / "words.txt", graph)
    (graph / "lexicon.txt").write_text("GO G OW\nON AA N\n")
    with pytest.raises(UserError, match="lacks 2 words of the graph, such as 'NO'"):
        build(graph=graph)
    with pytest.raises(UserError, match="as the acoustic model"):
        build(gmm=parts / "network")
    assert not (tmp_path / "m" / "model.yaml").exists()


def test_a_prior_of_zero_is_refused(tmp_path: Path, parts: Path, features: FeatureConfig) -> None:
    network = load_model(parts / "network")
    network.log_prior[2] = -np.inf
    save_model(network, tmp_path / "network")
    assert np.isinf(load_file(tmp_path / "network" / "model.safetensors")["log_prior"]).any()
    with pytest.raises(UserError, match="prior"):
        build_model(tmp_path / "m", ModelParts(parts / "graph", features, tmp_path / "network", None, parts / "states"))


def test_words_txt_is_checked(tmp_path: Path) -> None:
    for content, message in (
        ("", "no words"),
        ("<eps> 0\nA\n", ":2: expected WORD ID"),
        ("<eps> 0\nA \u00b2\n", ":2: expected WORD ID"),
        ("<eps> 0\nA 99999999999\n", ":2: the id '99999999999' of 'A' is not below 16,777,216"),
        (f"<eps> 0\nA {'9' * 5000}\n", ":2: the id '9999.*' of 'A'"),
        ("<eps> 0\nA 1\nB 1\n", ":3: 'B' has the same id, 1, as 'A'"),
    ):
        (tmp_path / "words.txt").write_text(content)
        with pytest.raises(UserError, match=message):
            read_words(tmp_path / "words.txt")
