"""The deployable model: a folder with everything that turns audio into words, and nothing of the training data."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asr_kd import __version__
from asr_kd.config import load_config, save_config, shown
from asr_kd.decode.graph import map_graph, search_graph, write_graph
from asr_kd.decode.scorer import Scorer, load_scorer
from asr_kd.decode.search import SearchOptions
from asr_kd.decode.search_kernels import Graph
from asr_kd.decode.times import WordAligner
from asr_kd.errors import UserError, counted
from asr_kd.features.config import FeatureConfig, stored_config
from asr_kd.files import check_folder, read_lines, read_text, sha256, write_text
from asr_kd.frames.index import INDEX
from asr_kd.hmm.lexicon import UNKNOWN_WORD, write_lexicon
from asr_kd.hmm.lexicon_reader import load_lexicon, read_lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.limits import WORD_ID
from asr_kd.storage import exists, is_url, joined, local

SCHEMA = 1
GMM = "gmm.safetensors"
CONFIG, GRAPH, WORDS, LEXICON, TUNING = "model.yaml", "HCLG.fst", "words.txt", "lexicon.txt", "tune.json"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """``model.yaml``: the kind of acoustic model, its features, how to search, and where it came from.

    ``word_times`` says what times mean. ``aligned``: from a word's first to its last frame. ``emitted``: the frame at
    which the graph emits the word, if the model has no lexicon (an imported graph). ``files`` holds the SHA-256 of
    every other file of the folder. ``tuned_on`` names the data that acoustic scale and word
    penalty were tuned on. ``provenance["training"]`` has the frame accuracies of a network's ``summary.json``.
    """

    schema: int = SCHEMA
    kind: Literal["network", "gmm"] = "network"
    features: FeatureConfig = dataclasses.field(default_factory=FeatureConfig)
    search: SearchOptions = dataclasses.field(default_factory=SearchOptions)
    tuned_on: str | None = None
    word_times: Literal["aligned", "emitted"] = "aligned"
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model folder. ``words``: word id -> word; ``aligner`` is None without a lexicon."""

    path: Path
    config: ModelConfig
    scorer: Scorer
    graph: Graph
    words: tuple[str, ...]
    aligner: WordAligner | None


@dataclasses.dataclass(frozen=True)
class ModelParts:
    """What a model is built from: a network or a GMM folder, a graph folder, and a folder with states and lexicon.

    ``states`` is None for a network on an imported graph, whose lexicon is unknown. ``log_prior`` ``[states]`` replaces
    the network's own.
    """

    graph: str | Path
    features: FeatureConfig
    network: str | Path | None = None
    gmm: str | Path | None = None
    states: str | Path | None = None
    log_prior: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.network is None) == (self.gmm is None):
            raise UserError("give either a network or a GMM as the acoustic model")

    @property
    def kind(self) -> Literal["network", "gmm"]:
        return "network" if self.network is not None else "gmm"

    @property
    def acoustic_model(self) -> Path:
        """The folder of the network or the GMM."""
        return Path(self.network or self.gmm or "")


def build_model(
    out: str | Path, parts: ModelParts, search: SearchOptions | None = None, tuned_on: str | None = None
) -> Model:
    """Copy ``parts`` into the model folder ``out``, which can then be moved to another machine.

    The graph folder's own lexicon is preferred. Raises ``UserError`` if the parts do not fit each other.
    """
    from asr_kd.graph.fst import Fst  # imports scipy, which decoding does not need

    out, graph, states = Path(out), Path(parts.graph), parts.states
    _check_parts(parts)
    (out / CONFIG).unlink(missing_ok=True)  # written last: a folder without it is not a model
    _copy_acoustic_model(parts, out)
    write_graph(search_graph(Fst.read(graph / GRAPH)), out / GRAPH)
    write_text(out / WORDS, read_text(graph / WORDS))
    if states is not None:
        StateSpace.load(states).save(out)
        own = graph / LEXICON
        lexicon = read_lexicon(own, "plain") if own.exists() else load_lexicon(states)
        write_lexicon(lexicon, out / LEXICON)
    origin: dict[str, Any] = {"asr_kd": __version__, parts.kind: str(parts.acoustic_model), "graph": str(graph)}
    origin["states"] = states and str(states)
    if parts.kind == "network" and (training := _training(parts.acoustic_model)):
        origin["training"] = training
    config = ModelConfig(
        kind=parts.kind,
        features=parts.features,
        search=search or SearchOptions(),
        tuned_on=tuned_on,
        word_times="aligned" if states is not None else "emitted",
        provenance=origin,
        files={name: sha256(out / name) for name in _names(out, parts.kind, states is not None)},
    )
    model = _load(out, config)
    save_config(config, out / CONFIG)
    return model


def load_model_folder(path: str | Path, verify: bool = True, device: str = "cpu") -> Model:
    """Open a model folder, with a network on ``device``; the graph is mapped, not read.

    Raises ``UserError`` for a file that is missing, was changed or swapped (``verify`` compares the checksums of
    model.yaml), or does not fit the others.
    """
    path = local(path)
    config = read_model_config(path)
    for name in _names(path, config.kind, config.word_times == "aligned"):
        if not (path / name).is_file():
            raise UserError(f"{path / name}: no such file; the model folder is incomplete: build it again")
        if verify and sha256(path / name) != config.files.get(name):
            raise UserError(f"{path / name}: the checksum differs from that in {CONFIG}; build the model again")
    return _load(path, config, device)


def read_model_config(path: str | Path) -> ModelConfig:
    """``model.yaml`` of a model folder; ``UserError`` if the folder is not a model of this version's schema."""
    path = local(path)
    file = path / CONFIG
    check_folder(path, CONFIG, "a finished model folder", "run asr-kd model build")
    config = load_config(ModelConfig, file)
    if config.schema != SCHEMA:
        raise UserError(f"{file}: schema {config.schema}; this version of asr-kd reads {SCHEMA}: build the model again")
    if not config.files:
        raise UserError(
            f"{file}: it lists no files, so it is empty, truncated or another kind of file; build the model again"
        )
    return config


def read_feature_config(source: str | Path) -> FeatureConfig:
    """The feature configuration in a YAML file, or of a feature store."""
    if not (Path(source).is_dir() or (is_url(source) and exists(joined(source, INDEX)))):
        return load_config(FeatureConfig, source)
    from asr_kd.frames import FrameStore

    return stored_config(FrameStore(source))


def describe(model: Model) -> dict[str, Any]:
    """A model's properties for display, as names and values."""
    config, graph = model.config, model.graph
    return {
        "model": str(model.path),
        "kind": config.kind,
        "states": model.scorer.num_states,
        "parameters": model.scorer.parameters,
        "features": f"{config.features.dimension} {config.features.kind}, {config.features.sample_rate} Hz, "
        f"normalised: {config.features.normalise}",
        "graph": f"{counted(len(graph.states), 'state')}, {counted(len(graph.arcs), 'arc')},"
        f" {counted(len(model.words), 'word')}",
        "search": ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(config.search).items()),
        "tuned_on": config.tuned_on or "not tuned: run `asr-kd decode --tune`",
        "word_times": config.word_times,
        **{f"from {name}": _shown(value) for name, value in config.provenance.items() if value},
    }


def read_words(path: str | Path) -> tuple[str, ...]:
    """The lines ``WORD ID`` at ``path`` as a tuple indexed by id; unused ids are the empty string."""
    words: dict[int, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not (fields[1].isascii() and fields[1].isdecimal()):
            raise UserError(f"{path}:{number}: expected WORD ID, found {shown(line)}")
        word, index = fields[0], int(fields[1]) if len(fields[1]) < 20 else WORD_ID
        if index >= WORD_ID:
            raise UserError(f"{path}:{number}: the id {shown(fields[1])} of {shown(word)} is not below {WORD_ID:,}")
        if words.setdefault(index, word) != word:
            raise UserError(f"{path}:{number}: {shown(word)} has the same id, {index}, as {shown(words[index])}")
    if not words:
        raise UserError(f"{path}: no words; expected lines of WORD ID")
    return tuple(words.get(index, "") for index in range(max(words) + 1))


def _load(path: Path, config: ModelConfig, device: str = "cpu") -> Model:
    scorer, words = load_scorer(config.kind, path, device), read_words(path / WORDS)
    graph, emitted = map_graph(path / GRAPH, len(words))
    emitted[0] = False  # no word
    if graph.columns > scorer.num_states:
        raise UserError(
            f"{path}: the graph uses {counted(graph.columns, 'tied state')}, but the acoustic model has only"
            f" {scorer.num_states}; build the model from a graph and a model of the same HMM"
        )
    used = [words[index] for index in np.flatnonzero(emitted).tolist()]
    if "" in used:
        missing = next(index for index in np.flatnonzero(emitted).tolist() if not words[index])
        raise UserError(
            f"{path / WORDS}: lacks the id {missing}, which the graph emits; give the words.txt of this graph"
        )
    if scorer.dimension != config.features.dimension:
        raise UserError(
            f"{path}: {CONFIG} has {config.features.dimension} {config.features.kind} coefficients per frame; the"
            f" acoustic model expects {scorer.dimension}"
        )
    if not np.isfinite(scorer.log_prior).all():
        raise UserError(f"{path}: a state has a prior of zero or NaN; give --priors, a store of states or soft targets")
    if config.word_times == "emitted":
        return Model(path, config, scorer, graph, words, None)
    space, lexicon = StateSpace.load(path), read_lexicon(path / LEXICON, "plain")
    if space.num_states != scorer.num_states:
        raise UserError(
            f"{path}: states.yaml has {counted(space.num_states, 'state')}, but the acoustic model has"
            f" {scorer.num_states}; build the model again with the HMM folder of its training (--states-dir)"
        )
    if absent := lexicon.missing(sorted(set(used) - {UNKNOWN_WORD})):
        raise UserError(
            f"{path / LEXICON}: lacks {counted(len(absent), 'word')} of the graph, such as {absent[0]!r}; give"
            " --states-dir the HMM folder from which the graph was compiled"
        )
    return Model(path, config, scorer, graph, words, WordAligner(space, lexicon))


def _training(network: Path) -> dict[str, float]:
    """The frame accuracies in the ``summary.json`` that training left in a network's folder; empty without them."""
    path = network / "summary.json"
    if not path.exists():
        return {}
    try:
        summary = {name: value for name, value in json.loads(read_text(path)).items() if value is not None}
        return {name: float(summary[name]) for name in ("train_accuracy", "dev_accuracy") if name in summary}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the summary of a training run ({error}); restore it, or delete it") from None


def _shown(value: Any) -> Any:
    """A value of the provenance for display; frame accuracies become percentages."""
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{name.replace('_', ' ')} {100 * number:.2f} %" for name, number in value.items())


def _check_parts(parts: ModelParts) -> None:
    """Raise ``UserError`` for a missing part or other features, before a model in the folder to write is touched."""
    graph_advice = "give a folder from asr-kd graph compile or graph import"
    check_folder(parts.graph, GRAPH, "a graph folder", graph_advice)
    if parts.states is not None:
        StateSpace.load(parts.states)
    scorer, features = load_scorer(parts.kind, parts.acoustic_model), parts.features
    if scorer.dimension != features.dimension:
        raise UserError(
            f"--features: {features.dimension} {features.kind} coefficients per frame; {parts.acoustic_model} expects"
            f" {scorer.dimension}; give the features of its training"
        )


def _copy_acoustic_model(parts: ModelParts, out: Path) -> None:
    """Copy the files of the network or GMM."""
    if parts.kind == "network":
        from asr_kd.nets import copy_model

        copy_model(parts.acoustic_model, out)
        if parts.log_prior is not None:
            _set_prior(out, parts.log_prior)
        return
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(parts.acoustic_model / GMM, out / GMM)


def _set_prior(folder: Path, log_prior: np.ndarray) -> None:
    """Give the copied network in ``folder`` other priors."""
    import torch

    from asr_kd.nets import load_model, save_model

    network = load_model(folder)
    network.log_prior.copy_(torch.from_numpy(log_prior))
    save_model(network, folder)


def _names(folder: Path, kind: str, has_states: bool) -> tuple[str, ...]:
    """The files of a model folder beside model.yaml."""
    from asr_kd.nets import model_files

    acoustic = model_files(folder) if kind == "network" else (GMM,)
    states = ("states.yaml", "states.safetensors", LEXICON) if has_states else ()
    return (*acoustic, *states, GRAPH, WORDS)
