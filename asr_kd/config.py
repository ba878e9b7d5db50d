"""Configurations: frozen dataclasses written as YAML, with unknown keys refused."""

import dataclasses
import difflib
import inspect
import math
import re
import reprlib
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from asr_kd.errors import UserError
from asr_kd.files import read_text, write_text
from asr_kd.limits import CONFIG_BYTES

Config = TypeVar("Config")
INTEGERS = 2**63 - 1  # what numpy and torch take
TYPES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def load_config(cls: type[Config], path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """A ``cls`` from a YAML file, or from its defaults, with ``key=value`` or ``outer.key=value`` overrides.

    Raises ``UserError`` for a key that ``cls`` lacks (with the most similar one) and for a value of another type.
    """
    values = read_mapping(path) if path is not None else {}
    given = {_override(values, override) for override in overrides}

    def opening(key: str) -> str:
        return f"{path}: {key}" if path is not None and key not in given else f"--set {key}"

    return _build(cls, values, opening)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file; ``UserError`` if it holds something else."""
    values = parse_yaml(read_text(path, CONFIG_BYTES), str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values; found {shown(values)}")
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
            raise yaml.YAMLError(
                f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not supported; write it out"
            )
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                raise yaml.YAMLError(
                    f"line {key.start_mark.line + 1}: key {shown(key.value)} is given twice; remove one"
                )
            keys.add((key.tag, str(key.value)))
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number; raises ``YAMLError`` for ``015`` and ``1:30``, which YAML 1.1 reads as 13 and 90."""
        if ":" in node.value or re.fullmatch("[-+]?0[0-7_]+", node.value):
            text = shown(node.value)
            raise yaml.YAMLError(
                f"{node.start_mark}: {text} is one number in YAML 1.1 and another one, or text, in YAML 1.2; write a"
                f" decimal number without leading zeros, or {text} in quotes if it is text"
            )
        if node.tag.endswith(":int"):
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, of each key of a YAML text that ``parse_yaml`` accepts: ("systems", "teacher") -> 12."""
    lines: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node | None, outer: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*outer, str(key.value))
                lines[inner] = key.start_mark.line + 1
                walk(value, inner)

    walk(yaml.compose(text, _Loader), ())
    return lines


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; mappings inside both are merged likewise."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def save_config(config: Any, path: str | Path) -> None:
    """Write a configuration dataclass as YAML, atomically, keys in the order of the class."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def explained(config: Any) -> str:
    """The YAML of ``config``, each key below a comment: what the docstring of its class says about it.

    The docstring lists the keys as ``- ``key``, ``key``: text``; keys that share a text must follow each other.
    """
    lines: list[str] = []
    comments = _comments(type(config))
    for field in dataclasses.fields(config):
        lines += comments.get(field.name, ())
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            lines += [f"{field.name}:", *(f"  {line}" for line in explained(value).splitlines())]
        else:
            lines += yaml.safe_dump({field.name: _plain(value)}).splitlines()
    return "".join(f"{line}\n" for line in lines)


def _comments(cls: type) -> dict[str, list[str]]:
    """The lines of the comment above each key of a configuration that has one."""
    _, *items = re.split(r"^- ", inspect.getdoc(cls) or "", flags=re.MULTILINE)
    comments = {}
    for item in items:
        keys, _, text = re.split(r"\n\n", item)[0].partition(":")
        names = re.findall(r"``(\w+)``", keys)
        about = f"{', '.join(names)}: " if len(names) > 1 else ""
        text = " ".join(f"{about}{text.strip()}".replace("``", "").split())
        comments[names[0]] = textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")
    return comments


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def from_dict(cls: type[Config], values: dict[str, Any], where: str | Callable[[str], str] = "configuration") -> Config:
    """The inverse of ``to_dict``; ``where``, or ``where(key)``, begins the error messages."""
    return _build(cls, values, where if callable(where) else lambda key: f"{where}: {key}")


def _build(cls: type[Config], values: dict[str, Any], opening: Callable[[str], str], outer: str = "") -> Config:
    """``from_dict`` for the values below the key ``outer``; ``opening(key)`` begins the messages about a key."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key)[:100], names, n=1)
            hint = f"did you mean {outer}{near[0]}?" if near else f"known keys: {', '.join(outer + n for n in names)}"
            raise UserError(f"{opening(outer + _key(key))}: unknown key; {hint}")
    arguments = {key: _convert(value, hints[key], opening, outer + key) for key, value in values.items()}
    required = [field.name for field in dataclasses.fields(cls) if _is_required(field)]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in arguments]:
        raise UserError(f"{opening(outer + missing[0])}: this key is missing")
    return cls(**arguments)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _key(key: object) -> str:
    """A key for an error message: as it is if it can be one, else short and quoted."""
    return key if isinstance(key, str) and re.fullmatch(r"\w{1,60}", key) else shown(key)


def _override(values: dict[str, Any], override: str) -> str:
    """Set ``outer.key=value`` in nested ``values``; the key."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {_short(override)}: expected KEY=VALUE")
    *outer, last = key.split(".")
    for name in outer:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {_short(override)}: {_key(name)} is {shown(values)}, which has no keys of its own")
    values[last] = parse_yaml(text, f"--set {_short(override)}")
    return key


def _short(override: str) -> str:
    return override if len(override) <= 80 and override.isprintable() else shown(override)


def _convert(value: Any, hint: Any, opening: Callable[[str], str], key: str) -> Any:
    """``value`` as ``hint`` says, for the dotted ``key``; ``opening(key)`` begins the message of a ``UserError``."""
    where = opening(key)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _convert(value, next(kind for kind in inner if kind is not type(None)), opening, key)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected keys and values, found {shown(value)}")
        return _build(typing.cast(type, hint), value, opening, f"{key}.")
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, found {shown(value)}")
        return origin(_convert(item, inner[0], opening, key) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected keys and values, found {shown(value)}")
        for name in value:
            if not isinstance(name, inner[0]):
                raise UserError(f"{where}: expected keys that are {TYPES[inner[0]]}, found {shown(name)}")
        return {name: _convert(item, inner[1], opening, f"{key}.{name}") for name, item in value.items()}
    if origin is typing.Literal:
        if not isinstance(value, str | int | float | bool | None) or value not in inner:
            raise UserError(f"{where}: expected one of {', '.join(map(repr, inner))}; found {shown(value)}")
        return value
    if hint is float:
        return _number(value, where)
    if hint in (int, str, bool) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise UserError(f"{where}: expected {TYPES[hint]}, found {shown(value)}")
    if hint is int and abs(value) > INTEGERS:
        raise UserError(f"{where}: {shown(value)} is too large; expected at most {INTEGERS:,}")
    return value


def _number(value: Any, where: str) -> float:
    try:
        if not isinstance(value, int | float | str) or isinstance(value, bool):
            raise ValueError
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
