"""A table of systems -> its steps: training, soft targets, ensembles, tests."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from asr_kd.errors import UserError
from asr_kd.experiment.references import network_folder, seeds_of
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


def _tests(table: Table, name: str, system: System, key: str, test: Test) -> Iterator[Step]:
    if test.score == "frames":
        for folder in trained_folders(table, name):
            base = system if not isinstance(system, Calibrated) else table.systems[system.calibrate]
            assert isinstance(base, Network)
            command = (
                "train", "--evaluate", Input(folder), "--feats", features_of(table, test.data),
                "--states", states_of(table, base.hmm, test.data),
                *_option("--utterances", _input(table, test.utterances)), "--out", key,
            )  # fmt: skip
            written = (Output(f"{folder}/{key}"),)
            yield Step(f"test {folder} {key}", (command,), f"{folder}/{key}/frames.json", also=written, device=True)
        return
    if isinstance(system, Gmm):
        yield _test_gmm(table, name, system, key, test)
        return
    if isinstance(system, Calibrated) or not table.hmms[system.hmm].graph:
        return
    seeds = seeds_of(system, table.systems)
    for place in [f"{name}/seed{seed}" for seed in seeds] or [name]:
        first = f"{name}/seed{seeds[0]}" if seeds else name
        yield _test_network(table, system, place, first, key)


def _test_gmm(table: Table, name: str, system: Gmm, key: str, test: Test) -> Step:
    model = Output(f"model/{name}")
    features = {part: Input(system.features.replace("$set", part), store=True) for part in (test.data, test.tune_data)}
    build = (
        "model", "build", "--gmm", Input(system.gmm), "--graph", Input(system.graph),
        "--features", features[test.data], model, *_limit(test),
    )  # fmt: skip
    commands = (build, _tune(table, model, test, features), *_decode(table, model, key, test, features))
    return Step(f"test {name}", commands, f"model/{name}/{key}/wer.json")


def _test_network(table: Table, system: Network | Ensemble | Specialists, place: str, first: str, key: str) -> Step:
    """Build, tune, decode and score the network of ``place``; all but the ``first`` take the search options of it."""
    test, hmm = table.tests[key], table.hmms[system.hmm]
    model = Output(f"model/{place}")
    features = {part: features_of(table, part) for part in (test.data, test.tune_data)}
    like = Input(f"model/{first}", content=f"model/{first}/model.yaml") if first != place else None
    priors = system.test_priors if isinstance(system, Network) else None
    build = (
        "model", "build", "--network", Input(network_folder(place, table.systems)), "--states-dir", Input(hmm.model),
        "--graph", Input(hmm.graph), *_option("--search-like", like), "--features", features[test.data], model,
        *_limit(test), *_option("--priors", _input(table, priors)),
    )  # fmt: skip
    tune = [] if like else [_tune(table, model, test, features)]
    commands = (build, *tune, *_decode(table, model, key, test, features, states_of(table, system.hmm, test.data)))
    return Step(f"test {place}", commands, f"model/{place}/{key}/wer.json", device=True)


def _limit(test: Test) -> tuple[Word, ...]:
    return _option("--max-active", None if test.max_active is None else str(test.max_active))


def _tune(table: Table, model: Output, test: Test, features: Mapping[str, Input]) -> Command:
    chosen = _option("--utterances", _input(table, test.tune_utterances))
    return (
        "decode",
        model,
        Input(f"data/{test.tune_data}"),
        "--tune",
        "--feats",
        features[test.tune_data],
        *chosen,
        *JOBS,
    )


def _decode(
    table: Table, model: Output, key: str, test: Test, features: Mapping[str, Input], states: Input | None = None
) -> tuple[Command, Command]:
    data, out = Input(f"data/{test.data}"), Output(f"{model.path}/{key}")
    chosen = _option("--utterances", _input(table, test.utterances))
    decode = (
        "decode", model, data, "--feats", features[test.data], *_option("--states", states), *chosen, "--no-times",
        "--output", out, *JOBS,
    )  # fmt: skip
    return decode, ("score", "--ref", data, "--hyp", out)
