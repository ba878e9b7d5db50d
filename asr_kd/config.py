"""Configurations: frozen dataclasses written as YAML, with unknown keys refused."""

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from asr_kd.errors import UserError
from asr_kd.files import read_text, write_text
from asr_kd.limits import CONFIG_BYTES

Config = TypeVar("Config")
INTEGERS = 2**63 - 1  # what numpy and torch take


def load_config(cls: type[Config], path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """A ``cls`` from a YAML file, or from its defaults, with ``key=value`` or ``outer.key=value`` overrides.

    Raises ``UserError`` for a key that ``cls`` lacks (with the most similar one) and for a value of another type.
    """
    values = read_mapping(path) if path is not None else {}
    for override in overrides:
        _override(values, override)
    return from_dict(cls, values, where=str(path) if path else "configuration")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file; ``UserError`` if it holds something else."""
    values = parse_yaml(read_text(path, CONFIG_BYTES), str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values; found {type(values).__name__}")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; ``where`` begins the message of the ``UserError`` if it is malformed.

    Aliases (``*name``) are refused, since a few lines of them can stand for gigabytes. So is a key that is given twice.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from None
    # Besides YAMLError: what the constructors of dates, numbers and explicit tags raise for an impossible value.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise UserError(f"{where}: not valid YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"{self.peek_event().start_mark}: aliases (*name) are not supported; write it out")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                raise yaml.YAMLError(f"{key.start_mark}: key {shown(key.value)} is given twice; remove one")
            keys.add((key.tag, str(key.value)))
        return node


def save_config(config: Any, path: str | Path) -> None:
    """Write a configuration dataclass as YAML, atomically, keys in the order of the class."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def from_dict(cls: type[Config], values: dict[str, Any], where: str = "configuration") -> Config:
    """The inverse of ``to_dict``; ``where`` begins the error messages."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key)[:100], names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(names)}"
            raise UserError(f"{where}: unknown key {shown(key)}{hint}")
    arguments = {key: _convert(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None


def _override(values: dict[str, Any], override: str) -> None:
    """Set ``outer.key=value`` in nested ``values``."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"override {shown(override)}: expected key=value")
    *outer, last = key.split(".")
    for name in outer:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(
                f"override {shown(override)}: {shown(name)} is {shown(values)}, which has no keys of its own"
            )
    values[last] = parse_yaml(text, f"override {shown(override)}")


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _convert(value, next(kind for kind in inner if kind is not type(None)), where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping, found {shown(value)}")
        return from_dict(typing.cast(type, hint), value, where)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, found {shown(value)}")
        return origin(_convert(item, inner[0], where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping, found {shown(value)}")
        for key in value:
            if not isinstance(key, inner[0]):
                raise UserError(f"{where}: expected keys of type {inner[0].__name__}, found {shown(key)}")
        return {key: _convert(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    if origin is typing.Literal:
        if not isinstance(value, str | int | float | bool | None) or value not in inner:
            raise UserError(f"{where}: expected one of {', '.join(map(repr, inner))}; found {shown(value)}")
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _number(value, where)
    if hint in (int, float, str, bool) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise UserError(f"{where}: expected {hint.__name__}, found {shown(value)}")
    if hint is int and abs(value) > INTEGERS:
        raise UserError(f"{where}: {shown(value)} is too large; expected at most {INTEGERS:,}")
    return value


def _number(value: float | str, where: str) -> float:
    try:
        number = float(value)  # YAML reads 1e-3 as a string
    except (ValueError, OverflowError):
        raise UserError(f"{where}: expected a number, found {shown(value)}") from None
    if not math.isfinite(number):
        raise UserError(f"{where}: expected a finite number, found {shown(value)}")
    return number


def shown(value: Any) -> str:
    """``repr(value)`` for an error message, cut to one short line whatever the value holds."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
