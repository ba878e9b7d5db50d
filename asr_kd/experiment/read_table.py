"""The reader of a table of systems: a YAML file (see ``table`` for its entries) -> ``Table``."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from asr_kd.config import from_dict, key_lines, merged, parse_yaml, shown
from asr_kd.errors import UserError
from asr_kd.experiment.references import check_references
from asr_kd.experiment.table import (
    KINDS,
    Figure,
    Hmm,
    Point,
    Report,
    ResultTable,
    Row,
    System,
    Table,
    Targets,
    Test,
    Tuning,
)  # fmt: skip
from asr_kd.experiment.template import Source, expand
from asr_kd.files import read_text
from asr_kd.limits import CONFIG_BYTES

Entry = TypeVar("Entry")
SECTIONS = (
    "values",
    "small",
    "defaults",
    "features",
    "dev",
    "hmms",
    "configs",
    "targets",
    "systems",
    "tuning",
    "tests",
    "reports",
)
SMALL = ("values", "set", "without", "tune_utterances")


def load_table(path: str | Path, overrides: Sequence[str] = (), small: bool = False) -> Table:
    """The table in a YAML file, with ``NAME=VALUE`` overrides of its ``values``; ``small``: with its section ``small``.

    Raises ``UserError``, with file, line and system, for what the table cannot hold: an unknown key, a system that is
    defined twice, a reference to one that is not defined, or a cycle.
    """
    text = read_text(path, CONFIG_BYTES)
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping with the keys {', '.join(SECTIONS)}; found {shown(content)}")
    source = Source(Path(path), key_lines(text))
    _check_keys(content, SECTIONS, source)
    quick = (content.get("small") or {}) if small else {}
    _check_keys(quick, SMALL, source, "small")
    values = merged(_mapping(content, "values", source), quick.get("values") or {})
    for override in overrides:
        _override(values, override, source)
    sections = {
        name: expand(content[name], values, source, (name,))
        for name in SECTIONS
        if name in content and name not in ("values", "small")
    }
    reader = _Reader(sections, source, set(quick.get("without") or ()))
    table = reader.table(quick.get("set") or {}, quick.get("tune_utterances"))
    check_references(table, source)
    return table


def _override(values: dict[str, Any], override: str, source: Source) -> None:
    name, equals, value = override.partition("=")
    if not equals or name not in values:
        problem = f"unknown name {shown(name)}" if equals else "expected NAME=VALUE"
        raise UserError(f"--set {override}: {problem}; the values of {source.path} are {', '.join(values) or 'none'}")
    values[name] = parse_yaml(value, f"--set {override}")


def _check_keys(content: Any, known: Sequence[str], source: Source, *outer: str) -> None:
    for key in content:
        if key not in known:
            place = source.line(*outer, str(key))
            raise UserError(f"{place}: unknown key {shown(key)}; known keys: {', '.join(known)}")


def _mapping(content: Mapping[str, Any], name: str, source: Source) -> dict[str, Any]:
    value = content.get(name)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{source.where(name)}: expected keys and values; found {shown(value)}")
    return value or {}


@dataclasses.dataclass(frozen=True)
class _Reader:
    """The sections of a file, expanded, and the systems that a small run leaves out."""

    sections: dict[str, Any]
    source: Source
    left_out: set[str]

    def table(self, quick: dict[str, Any], tune_utterances: str | None) -> Table:
        tuning = self.build(Tuning, self.section("tuning"), ("tuning",))
        if tune_utterances:
            tuning = dataclasses.replace(tuning, utterances=tune_utterances)
        return Table(
            path=self.source.path,
            features=self.sections.get("features", "feats/fbank/$set"),
            dev=self.sections.get("dev", "dev"),
            hmms=self.all_of(Hmm, "hmms"),
            configs=self.configs(),
            targets=self.all_of(Targets, "targets"),
            systems=self.systems(),
            tuning=tuning,
            tests=self.all_of(Test, "tests"),
            reports={name: self.report(("reports", name), value) for name, value in self.section("reports").items()},
            quick=quick,
        )

    def section(self, name: str) -> dict[str, Any]:
        return _mapping(self.sections, name, self.source)

    def all_of(self, cls: type[Entry], section: str) -> dict[str, Entry]:
        return {name: self.build(cls, value, (section, name)) for name, value in self.section(section).items()}

    def build(self, cls: type[Entry], value: Any, keys: tuple[str, ...]) -> Entry:
        """A ``cls`` from the value of nested keys."""
        if not isinstance(value, dict):
            raise UserError(f"{self.source.where(*keys)}: expected keys and values; found {shown(value)}")
        return from_dict(cls, value, lambda key: self.source.where(*keys, *key.split(".")))

    def configs(self) -> dict[str, dict[str, Any]]:
        """The configurations, each merged into the one that it is ``like``; the trainer knows all their keys."""
        from asr_kd.train.config import TrainConfig

        given = self.section("configs")

        def resolved(name: str, way: tuple[str, ...]) -> dict[str, Any]:
            if name not in given:
                raise UserError(f"{self.source.where('configs', way[-1], 'like')}: no configuration {shown(name)}")
            if name in way:
                raise UserError(f"{self.source.where('configs', name)}: cycle: {' -> '.join((*way, name))}")
            own = _mapping(given, name, self.source)
            rest = {key: value for key, value in own.items() if key != "like"}
            return merged(resolved(own["like"], (*way, name)), rest) if "like" in own else rest

        configs = {name: resolved(name, ()) for name in given}
        for name, config in configs.items():
            self.build(TrainConfig, config, ("configs", name))
        return configs

    def systems(self) -> dict[str, System]:
        """The systems that are not left out, with the defaults that their kind knows."""
        defaults = self.section("defaults")
        systems: dict[str, System] = {}
        for name, value in self.section("systems").items():
            kind = next((kind for kind in KINDS if isinstance(value, dict) and kind in value), None)
            if kind is None:
                expected = f"expected one of the keys {', '.join(KINDS)}, which say what kind of system it is"
                raise UserError(f"{self.source.where('systems', name)}: {expected}; found {shown(value)}")
            cls = KINDS[kind]
            known = {field.name for field in dataclasses.fields(cls)}
            usual = {key: default for key, default in defaults.items() if key in known}
            system = self.build(cls, {**usual, **value}, ("systems", name))
            if name not in self.left_out:
                systems[name] = system
        return systems

    def report(self, keys: tuple[str, ...], value: Any) -> Report:
        """A report, without the rows, points and pictures of systems that are left out."""
        rough = self.build(Report, {**value, "tables": [], "figures": {}} if isinstance(value, dict) else value, keys)
        figures = {
            file: self.figure((*keys, "figures", file), figure) for file, figure in (value.get("figures") or {}).items()
        }
        tables = [self.result_table((*keys, "tables"), table) for table in value.get("tables") or []]
        return dataclasses.replace(rough, tables=tables, figures=figures)

    def result_table(self, keys: tuple[str, ...], value: Any) -> ResultTable:
        table = self.build(ResultTable, value, keys)
        rows = {
            label: self.build(Row, {"system": row} if isinstance(row, str) else row, (*keys, "rows", label))
            for label, row in table.rows.items()
        }
        rows = {label: row for label, row in rows.items() if row.system not in self.left_out}
        for label in [*table.recovery, *filter(None, [table.difference])]:
            if label not in rows and label not in table.rows:
                raise UserError(
                    f"{self.source.where(*keys)}: {shown(label)} is not a row of the table {shown(table.title)}"
                )
        if table.recovery and len(table.recovery) != 2:
            raise UserError(f"{self.source.where(*keys, 'recovery')}: expected two rows, the worse first")
        return dataclasses.replace(table, rows=rows)

    def figure(self, keys: tuple[str, ...], value: Any) -> Figure:
        figure = self.build(Figure, value, keys)
        series: dict[str, Any] = {}
        for label, line in figure.series.items():
            if figure.kind == "against":
                points = line.get("points") if isinstance(line, dict) else line
                if not isinstance(points, list):
                    raise UserError(
                        f"{self.source.where(*keys, 'series')}: {label}: expected a list of points {{at, system}}"
                    )
                made = [self.build(Point, point, (*keys, "series", label)) for point in points]
                line = [point for point in made if point.system not in self.left_out]
            elif not isinstance(line, str):
                raise UserError(
                    f"{self.source.where(*keys, 'series')}: {label}: expected a system; found {shown(line)}"
                )
            if line and not (isinstance(line, str) and line in self.left_out):
                series[label] = line
        levels = {
            label: self.build(Row, {"system": row} if isinstance(row, str) else row, (*keys, "levels", label)).system
            for label, row in figure.levels.items()
        }
        return dataclasses.replace(figure, series=series, levels=levels)
