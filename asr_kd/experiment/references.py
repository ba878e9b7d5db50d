"""What the entries of a table name: each name must be that of another entry, and no entry may need itself."""

from collections.abc import Iterator

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.experiment.table import Calibrated, Ensemble, Gmm, Network, Specialists, System, Table
from asr_kd.experiment.template import Keys, Source


def seeds_of(system: System, systems: dict[str, System]) -> list[int]:
    """The seeds of a system of networks; empty for one without: an ensemble, a GMM, specialists."""
    if isinstance(system, Calibrated):
        system = systems[system.calibrate]
    if not isinstance(system, Network):
        return []
    return list(range(1, system.seeds + 1)) if isinstance(system.seeds, int) else list(system.seeds)


def can_be_tested(table: Table, system: System, score: str) -> bool:
    """Whether there is a test of a system by ``words``, which needs a graph, or by ``frames``, which needs networks."""
    if score == "frames":
        return isinstance(system, Network | Calibrated)
    return isinstance(system, Gmm) or (not isinstance(system, Calibrated) and bool(table.hmms[system.hmm].graph))


def network_folder(name: str, systems: dict[str, System]) -> str:
    """The folder of the network or ensemble that ``name`` stands for: a system, or ``SYSTEM/seedN``."""
    system = systems.get(name)
    if isinstance(system, Ensemble):
        return system.mean_of
    return name


def check_references(table: Table, source: Source) -> None:
    """Raise ``UserError``, with file and line, for a name that nothing has, and for a cycle."""
    for name, system in table.systems.items():
        _check_folder("systems", name, source)
        _check_system(table, name, system, source)
    for name, targets in table.targets.items():
        _check_folder("targets", name, source)
        keys: Keys = ("targets", name)
        _check_network(table, targets.teacher, source, (*keys, "teacher"))
        _check_known("HMM", targets.hmm, table.hmms, source, (*keys, "hmm"))
    for name, report in table.reports.items():
        for result in report.tables:
            for label, row in result.rows.items():
                row_keys: Keys = ("reports", name, "tables", "rows", label)
                _check_shown(table, row.system, source, row_keys)
                for test in row.tests:
                    _check_known("test", test, table.tests, source, row_keys)
                _check_tested(table, row.system, row.tests, source, row_keys)
            if result.gains_of is not None:
                gains_keys: Keys = ("reports", name, "tables", "gains_of")
                specialists = {other: each for other, each in table.systems.items() if isinstance(each, Specialists)}
                _check_known("system with specialists", result.gains_of, specialists, source, gains_keys)
                if len(result.pictures) != 1:
                    raise UserError(f"{source.where(*gains_keys)}: expected one picture with a caption (pictures)")
        for file, figure in report.figures.items():
            for line in (*figure.series.values(), *figure.levels.values()):
                for each in [line] if isinstance(line, str) else [point.system for point in line]:
                    _check_shown(table, each, source, ("reports", name, "figures", file))
                    if figure.kind == "against":
                        _check_tested(table, each, [], source, ("reports", name, "figures", file))
    _check_cycles(table, source)


def _check_folder(section: str, name: str, source: Source) -> None:
    """A name is a folder inside the working folder."""
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise UserError(f"{source.where(section, name)}: expected the path of a folder inside the working folder")


def _check_system(table: Table, name: str, system: System, source: Source) -> None:
    keys = ("systems", name)
    if isinstance(system, Network):
        _check_seeds(system, source, keys)
        _check_known("configuration", system.config, table.configs, source, (*keys, "config"))
        if system.targets is not None:
            for _, targets in per_seed(system.targets, seeds_of(system, table.systems)):
                _check_known("targets", targets, table.targets, source, (*keys, "targets"))
        if system.targets is not None and system.teacher is not None:
            raise UserError(f"{source.where(*keys)}: give targets or teacher, not both")
        if system.teacher is not None:
            for _, teacher in per_seed(system.teacher, seeds_of(system, table.systems)):
                _check_network(table, teacher, source, (*keys, "teacher"))
    if isinstance(system, Specialists):
        _check_network(table, system.generalist, source, (*keys, "generalist"))
        _check_known("configuration", system.config, table.configs, source, (*keys, "config"))
    if isinstance(system, Ensemble | Calibrated):
        base = system.mean_of if isinstance(system, Ensemble) else system.calibrate
        key = "mean_of" if isinstance(system, Ensemble) else "calibrate"
        networks = {other: value for other, value in table.systems.items() if isinstance(value, Network)}
        _check_known("system of networks", base, networks, source, (*keys, key))
        if isinstance(system, Calibrated) and system.teacher is not None:
            for _, teacher in per_seed(system.teacher, seeds_of(system, table.systems)):
                _check_network(table, teacher, source, (*keys, "teacher"))
    if isinstance(system, Network | Ensemble | Specialists):
        _check_known("HMM", system.hmm, table.hmms, source, (*keys, "hmm"))


def _check_seeds(system: Network, source: Source, keys: Keys) -> None:
    seeds = system.seeds
    whole = isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1
    listed = isinstance(seeds, list) and len(seeds) > 0 and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not (whole or (listed and len(set(seeds)) == len(seeds))):
        expected = "a whole number of seeds, or a list of different ones"
        raise UserError(f"{source.where(*keys, 'seeds')}: expected {expected}; found {shown(seeds)}")


def per_seed(text: str, seeds: list[int]) -> Iterator[tuple[int, str]]:
    """``text`` for each seed, with ``$seed`` replaced."""
    for seed in seeds:
        yield seed, text.replace("$seed", str(seed))


def _check_known(what: str, name: str, known: object, source: Source, keys: Keys) -> None:
    assert isinstance(known, dict)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise UserError(f"{source.where(*keys)}: no {what} {shown(name)}; the table has {listed}")


def _check_shown(table: Table, name: str, source: Source, keys: Keys) -> None:
    """What a table or figure shows: a system, or one seed's network."""
    if not _is_seed(table, name):
        _check_known("system", name, table.systems, source, keys)


def _check_tested(table: Table, name: str, tests: list[str], source: Source, keys: Keys) -> None:
    """Tests of a system that a report shows; the first of the table if none is named."""
    if not table.tests:
        raise UserError(f"{source.where(*keys)}: it shows a test, but the table has none; add a section tests")
    for test in tests or [next(iter(table.tests))]:
        score = table.tests[test].score
        system = table.systems.get(name) or table.systems[name.rpartition("/seed")[0]]
        if not can_be_tested(table, system, score):
            needs = "a decoding graph of its HMM" if score == "words" else "networks of its own"
            raise UserError(f"{source.where(*keys)}: {name} cannot have the test {test}: one by {score} needs {needs}")


def _is_seed(table: Table, name: str) -> bool:
    """Whether ``name`` is ``SYSTEM/seedN`` of a system with this seed."""
    system, _, seed = name.rpartition("/seed")
    return system in table.systems and seed.isdigit() and int(seed) in seeds_of(table.systems[system], table.systems)


def _check_network(table: Table, name: str, source: Source, keys: Keys) -> None:
    """A teacher or generalist: an ensemble, specialists, or one seed's network."""
    if name.startswith("/") or _is_seed(table, name):  # a network that exists already, or one seed's
        return
    if name not in table.systems:
        raise UserError(
            f"{source.where(*keys)}: no system {shown(name)}; the table has {', '.join(table.systems)}. For a"
            " network from elsewhere, give its absolute path"
        )
    if not isinstance(table.systems[name], Ensemble | Specialists):
        example = next(iter(seeds_of(table.systems[name], table.systems)), None)
        advice = f"name one, such as {name}/seed{example}" if example is not None else "name a system of networks"
        raise UserError(f"{source.where(*keys)}: {name} is not a single network or an ensemble; {advice}")


def _check_cycles(table: Table, source: Source) -> None:
    """Raise ``UserError`` for a system that needs itself, through its teacher or targets."""
    done: set[Keys] = set()

    def visit(entry: Keys, way: tuple[Keys, ...]) -> None:
        if entry in way:
            names = " -> ".join(keys[1] for keys in (*way[way.index(entry) :], entry))
            raise UserError(f"{source.where(*entry)}: cycle: {names}; each needs the next one first")
        if entry not in done:
            for other in _needs(table, entry):
                visit(other, (*way, entry))
            done.add(entry)

    for section, entries in (("systems", table.systems), ("targets", table.targets)):
        for name in entries:
            visit((section, name), ())


def _needs(table: Table, entry: Keys) -> Iterator[Keys]:
    section, name = entry
    if section == "targets":
        yield from _system_of(table, table.targets[name].teacher)
        return
    system = table.systems[name]
    if isinstance(system, Network):
        for seed in seeds_of(system, table.systems):
            if system.targets is not None:
                yield "targets", system.targets.replace("$seed", str(seed))
            if system.teacher is not None:
                yield from _system_of(table, system.teacher.replace("$seed", str(seed)))
    elif isinstance(system, Ensemble):
        yield "systems", system.mean_of
    elif isinstance(system, Specialists):
        yield from _system_of(table, system.generalist)
    elif isinstance(system, Calibrated):
        yield "systems", system.calibrate
        for seed in seeds_of(system, table.systems):
            if system.teacher is not None:
                yield from _system_of(table, system.teacher.replace("$seed", str(seed)))


def _system_of(table: Table, name: str) -> Iterator[Keys]:
    if name in table.systems:
        yield "systems", name
    elif name.rpartition("/seed")[0] in table.systems:
        yield "systems", name.rpartition("/seed")[0]
