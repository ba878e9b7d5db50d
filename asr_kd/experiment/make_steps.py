"""A table of systems -> its steps: training, soft targets, ensembles, tests."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from asr_kd.errors import UserError
from asr_kd.experiment.references import can_be_tested, network_folder, seeds_of
from asr_kd.experiment.steps import Aside, Command, Config, Input, Jobs, Output, Step, Word
from asr_kd.experiment.table import Calibrated, Ensemble, Gmm, Network, Specialists, System, Table, Targets, Test

JOBS: tuple[Word, ...] = (Aside("--jobs"), Jobs())
CONFIGS = "experiment/configs"  # below the working folder: the configurations, complete


def make_steps(table: Table) -> dict[str, Step]:
    """All steps of a table but its reports, by name."""
    steps: dict[str, Step] = {}
    for name, system in table.systems.items():
        for step in _system_steps(table, name, system):
            if steps.setdefault(step.name, step) != step:  # specialists of both kinds share their clusters
                raise UserError(
                    f"{table.path}: system {name}: its clusters differ from those of another system in the"
                    " same folder; give it its own folder (clusters: NAME)"
                )
    for name, targets in table.targets.items():
        step = _write_targets(table, name, targets)
        steps[step.name] = step
    for name, system in table.systems.items():
        if any(test.score == "words" for test in table.tests.values()):
            steps |= {step.name: step for step in _models(table, name, system)}
        for key, test in table.tests.items():
            steps |= {step.name: step for step in _tests(table, name, system, key, test)}
    return steps


def tested_folders(table: Table, name: str, key: str) -> list[str]:
    """Where the results of a system's test are: one folder for each seed, or that of ``SYSTEM/seedN``."""
    places = (trained_folders(table, name) if name in table.systems else []) or [name]
    return [f"model/{place}/{key}" if table.tests[key].score == "words" else f"{place}/{key}" for place in places]


def trained_folders(table: Table, name: str) -> list[str]:
    """The folders of a system's networks, one for each seed."""
    return [f"{name}/seed{seed}" for seed in seeds_of(table.systems[name], table.systems)]


def features_of(table: Table, name: str) -> Input:
    """The store of a set's features."""
    return Input(table.features.replace("$set", name), store=True)


def states_of(table: Table, hmm: str, name: str) -> Input:
    """The store of a set's states, by an HMM."""
    return Input(table.hmms[hmm].states.replace("$set", name), store=True)


def _config(table: Table, name: str) -> Config:
    return Config(f"{CONFIGS}/{name}.yaml", yaml.safe_dump(table.configs[name], sort_keys=False))


def _option(name: str, value: Word | None) -> tuple[Word, ...]:
    return () if value is None else (name, value)


def _input(table: Table, path: str | None, seed: int | None = None) -> Input | None:
    path = path and path.replace("$seed", str(seed))
    return None if path is None else Input(path, store=table.is_store(path))


def _system_steps(table: Table, name: str, system: System) -> Iterator[Step]:
    match system:
        case Network():
            for seed in seeds_of(system, table.systems):
                yield _train(table, name, system, seed)
        case Ensemble():
            folder = system.mean_of
            members = [Input(member) for member in trained_folders(table, folder)]
            command: Command = ("model", "ensemble", Output(folder), *members)
            yield Step(f"ensemble {name}", (command,), f"{folder}/ensemble.yaml", here=True)
        case Specialists():
            yield from _specialists(table, name, system)
        case Calibrated():
            for seed in seeds_of(system, table.systems):
                yield _calibrate(table, name, system, seed)


def _train(table: Table, name: str, system: Network, seed: int) -> Step:
    teacher = system.teacher and network_folder(system.teacher.replace("$seed", str(seed)), table.systems)
    extra = [
        *_option("--targets", _input(table, system.targets, seed)),
        *_option("--teacher", _input(table, teacher)),
        *_option("--priors", _input(table, system.priors, seed)),
        *_option("--utterances", _input(table, system.utterances, seed)),
        *_option("--begin", _input(table, system.begin, seed)),
    ]
    folder = f"{name}/seed{seed}"
    command = (
        *_train_words(table, system.data, states_of(table, system.hmm, system.data), system.hmm, system.config),
        "--seed", str(seed), "--out", Output(folder), *extra, *_overrides({**table.quick, **system.set}),
    )  # fmt: skip
    return Step(f"train {folder}", (command,), f"{folder}/summary.json", device=True)


def _train_words(table: Table, on: str, states: Input, hmm: str, config: str) -> Command:
    """The beginning of a training command."""
    return (
        "train", "--feats", features_of(table, on), "--states", states,
        "--dev-feats", features_of(table, table.dev), "--dev-states", states_of(table, hmm, table.dev),
        "--config", _config(table, config), Aside("--threads"), Aside("1"),
    )  # fmt: skip


def _overrides(values: Mapping[str, Any], outer: str = "") -> list[str]:
    """``--set`` options of nested or dotted keys."""
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            words += _overrides(value, f"{outer}{key}.")
        else:
            words += ["--set", f"{outer}{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"]
    return words


def _write_targets(table: Table, name: str, targets: Targets) -> Step:
    command = (
        "targets", "write", Output(name, store=True),
        "--teacher", Input(network_folder(targets.teacher, table.systems)),
        "--feats", features_of(table, targets.data), "--states", states_of(table, targets.hmm, targets.data),
        "--form", targets.form, *_option("--k", None if targets.k is None else str(targets.k)),
        *_option("--temperatures", ",".join(f"{each:g}" for each in sorted(set(targets.temperatures))) or None),
        *_option("--utterances", _input(table, targets.utterances)), "--precision", targets.precision,
        *JOBS,
    )  # fmt: skip
    return Step(f"targets {name}", (command,), f"{name}/index.json", device=True)


def _calibrate(table: Table, name: str, system: Calibrated, seed: int) -> Step:
    teacher = system.teacher and network_folder(system.teacher.replace("$seed", str(seed)), table.systems)
    base = table.systems[system.calibrate]
    assert isinstance(base, Network)
    source = ("--teacher", Input(teacher)) if teacher else ("--states", states_of(table, base.hmm, system.data))
    folder = f"{name}/seed{seed}"
    command = (
        "model", "calibrate", Input(f"{system.calibrate}/seed{seed}"), Output(folder),
        "--classes", ",".join(map(str, system.classes)), "--feats", features_of(table, system.data),
        *_option("--utterances", _input(table, system.utterances, seed)), *source,
    )  # fmt: skip
    return Step(f"calibrate {folder}", (command,), f"{folder}/model.safetensors")


def _specialists(table: Table, name: str, system: Specialists) -> Iterator[Step]:
    """The clusters, and for each its specialist's labels and training; then the ensemble of all of them."""
    generalist = Input(network_folder(system.generalist, table.systems))
    folder, hmm = name.rpartition("/")[0] or f"{name}_members", table.hmms[system.hmm]
    cluster = (
        "specialists", "cluster", Output(system.clusters), "--network", generalist,
        "--feats", features_of(table, system.clusters_data), "--k", str(system.specialists),
        "--size", str(system.states), *_option("--states-dir", _input(table, hmm.model or None)),
    )  # fmt: skip
    yield Step(f"cluster {system.clusters}", (cluster,), f"{system.clusters}/clusters.yaml", device=True)
    dev = states_of(table, system.hmm, table.dev)
    members = [f"{folder}/{number}" for number in range(system.specialists)]
    for number, member in enumerate(members):
        kind: tuple[Word, ...] = ("--whole",) if system.whole else ("--dev-states", dev)
        prepare = (
            "specialists", "prepare", Output(member), "--clusters", Input(system.clusters), "--network", generalist,
            "--number", str(number), "--states", states_of(table, system.hmm, system.data), *kind,
        )  # fmt: skip
        yield Step(f"prepare {member}", (prepare,), f"{member}/states/index.json")
        begin: tuple[Word, ...] = ("--begin", Input(f"{member}/begin"), "--dev-states", Input(f"{member}/dev"))
        if system.whole:
            begin = ("--begin", generalist, "--teacher", generalist, "--dev-states", dev)
        train = (
            "train", "--feats", features_of(table, system.data), "--states", Input(f"{member}/states"),
            "--dev-feats", features_of(table, table.dev), *begin, "--config", _config(table, system.config),
            Aside("--threads"), Aside("1"), "--out", Output(f"{member}/net"), *_overrides(table.quick),
        )  # fmt: skip
        yield Step(f"train {member}/net", (train,), f"{member}/net/summary.json", device=True)
    join: Command = ("specialists", "join", Output(name), *map(Input, members), "--network", generalist)
    nets = tuple(Input(f"{member}/net") for member in members)
    yield Step(f"join {name}", (join,), f"{name}/ensemble.yaml", also=nets, here=True)


def _models(table: Table, name: str, system: System) -> Iterator[Step]:
    """Recognisers: a model folder for each network. Those of later seeds take the search options of the first."""
    if not can_be_tested(table, system, "words"):
        return
    first, *others = [f"model/{place}" for place in trained_folders(table, name) or [name]]
    yield _model(table, system, first, None)
    for model in others:
        yield _model(table, system, model, Input(first, content=f"{first}/model.yaml"))


def _model(table: Table, system: System, folder: str, like: Input | None) -> Step:
    """Build a model, and tune its search options unless they are those of the model ``like``."""
    model, tuning = Output(folder), table.tuning
    most = None if tuning.max_active is None else str(tuning.max_active)
    dev = _tested_features(table, system, tuning.data)
    build = (
        "model", "build", *_scorer(table, system, folder.removeprefix("model/")), *_option("--search-like", like),
        "--features", dev, model, *_option("--max-active", most),
    )  # fmt: skip
    tune = (
        "decode", model, Input(f"data/{tuning.data}"), "--tune", "--feats", dev,
        *_option("--utterances", _input(table, tuning.utterances)), *JOBS,
    )  # fmt: skip
    name = f"model {folder.removeprefix('model/')}"
    if like:
        return Step(name, (build,), f"{folder}/model.yaml", result="search ")
    return Step(name, (build, tune), f"{folder}/tune.json", device=True, result="acoustic scale ")


def _scorer(table: Table, system: System, place: str) -> Command:
    """What scores the frames, and the graph, as options of model build."""
    if isinstance(system, Gmm):
        return "--gmm", Input(system.gmm), "--graph", Input(system.graph)
    assert isinstance(system, Network | Ensemble | Specialists)
    hmm, priors = table.hmms[system.hmm], system.test_priors if isinstance(system, Network) else None
    return (
        "--network", Input(network_folder(place, table.systems)), "--states-dir", Input(hmm.model),
        "--graph", Input(hmm.graph), *_option("--priors", _input(table, priors)),
    )  # fmt: skip


def _tested_features(table: Table, system: System, name: str) -> Input:
    """The features of a set that a system takes."""
    if isinstance(system, Gmm):
        return Input(system.features.replace("$set", name), store=True)
    return features_of(table, name)


def _tests(table: Table, name: str, system: System, key: str, test: Test) -> Iterator[Step]:
    """A test of each network of a system; none if it cannot be tested so."""
    if can_be_tested(table, system, test.score):
        for place in trained_folders(table, name) or [name]:
            yield (_test_words if test.score == "words" else _test_frames)(table, system, place, key, test)


def _test_frames(table: Table, system: System, place: str, key: str, test: Test) -> Step:
    base = table.systems[system.calibrate] if isinstance(system, Calibrated) else system
    assert isinstance(base, Network)
    command = (
        "train", "--evaluate", Input(place), "--feats", features_of(table, test.data),
        "--states", states_of(table, base.hmm, test.data), *_option("--utterances", _input(table, test.utterances)),
        "--out", key,
    )  # fmt: skip
    written = (Output(f"{place}/{key}"),)
    return Step(f"test {place} {key}", (command,), f"{place}/{key}/frames.json", also=written, device=True)


def _test_words(table: Table, system: System, place: str, key: str, test: Test) -> Step:
    model, data, out = f"model/{place}", Input(f"data/{test.data}"), Output(f"model/{place}/{key}")
    states = None if isinstance(system, Gmm | Calibrated) else states_of(table, system.hmm, test.data)
    decode = (
        "decode", Input(model, content=f"{model}/model.yaml"), data,
        "--feats", _tested_features(table, system, test.data), *_option("--states", states),
        *_option("--utterances", _input(table, test.utterances)), "--no-times", "--output", out, *JOBS,
    )  # fmt: skip
    return Step(
        f"test {place} {key}", (decode, ("score", "--ref", data, "--hyp", out)), f"{out.path}/wer.json", device=True
    )
