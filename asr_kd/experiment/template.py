"""Copies and names in a table of systems: ``for`` copies an entry, and ``$t`` or ``${t}`` stands for a value."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asr_kd.config import shown
from asr_kd.errors import UserError

Keys = tuple[str, ...]
LATER = {"seed": "$seed", "set": "$set"}  # known only when the steps are made
_NAME = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_KINDS = {"systems": "system", "hmms": "HMM", "targets": "targets", "configs": "config", "tests": "test"}


@dataclasses.dataclass
class Source:
    """Where a table was read: its file, and the line of each of its nested keys, those of copies included."""

    path: Path
    lines: dict[Keys, int]

    def line(self, *keys: str) -> str:
        """``FILE:LINE`` of the innermost of nested keys that the file has."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.path}:{self.lines[keys]}" if keys else str(self.path)

    def where(self, *keys: str) -> str:
        """``FILE:LINE: system NAME: key``, the beginning of a message about nested keys."""
        section, *inner = keys
        named = [f"{_KINDS.get(section, section)} {inner[0]}", *inner[1:]] if inner else [section]
        return ": ".join([self.line(*keys), *(name for name in named if name)])


def expand(value: Any, values: Mapping[str, Any], source: Source, keys: Keys, copy: Keys | None = None) -> Any:
    """``value``, found at ``keys`` of the file, with ``for`` and ``$name`` resolved; ``copy``: the keys it gets.

    A mapping with the key ``for`` is copied once for each of its values: in a mapping its own key must differ between
    copies. A text that is nothing but ``$name`` becomes the value itself, whatever its type; a list in a list becomes
    part of it. ``UserError`` for a name that is not defined, a list inside a text, and two entries with one key.
    """
    copy = keys if copy is None else copy
    if isinstance(value, dict):
        result: dict[Any, Any] = {}
        for key, entry in value.items():
            for rest, own in _copies(entry, values, source, (*keys, str(key))):
                name = resolve(key, own, source.where(*keys, str(key)))
                if name in result:
                    raise UserError(f"{source.where(*keys, str(key))}: {name} is defined twice; rename one")
                if (*keys, str(key)) in source.lines:
                    source.lines.setdefault((*copy, str(name)), source.lines[*keys, str(key)])
                result[name] = expand(rest, own, source, (*keys, str(key)), (*copy, str(name)))
        return result
    if isinstance(value, list):
        items: list[Any] = []
        for item in value:
            for rest, own in _copies(item, values, source, keys):
                found = expand(rest, own, source, keys, copy)
                items += found if isinstance(item, str) and isinstance(found, list) else [found]
        return items
    return resolve(value, values, source.where(*keys))


def _copies(
    entry: Any, values: Mapping[str, Any], source: Source, keys: Keys
) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The entry without ``for``, and the values of each of its copies.

    ``for: {t: [1, 2], width: [30, 800]}`` makes a copy for each pair, ``[{t: 1, width: 30}, ...]`` one for each item.
    """
    if not (isinstance(entry, dict) and "for" in entry):
        yield entry, values
        return
    where = source.where(*keys, "for")
    request = entry["for"]
    if isinstance(request, dict):
        request = {name: resolve(item, values, where) for name, item in request.items()}
    else:
        request = resolve(request, values, where)
    if isinstance(request, list) and all(isinstance(item, dict) for item in request):
        copies = request
    elif isinstance(request, dict) and all(isinstance(item, list) for item in request.values()):
        copies = [dict(zip(request, chosen, strict=True)) for chosen in itertools.product(*request.values())]
    else:
        raise UserError(f"{where}: expected {{name: [value, ...]}} or [{{name: value}}, ...]; found {shown(request)}")
    rest = {key: value for key, value in entry.items() if key != "for"}
    for copy in copies:
        yield rest, {**values, **copy}


def resolve(value: Any, values: Mapping[str, Any], where: str) -> Any:
    """``value`` with each ``$name`` in it replaced, if it is text."""
    if not isinstance(value, str):
        return value
    if whole := _NAME.fullmatch(value):
        return _value(whole, values, where)
    return _NAME.sub(lambda match: _text(match, values, where), value)


def _value(match: re.Match[str], values: Mapping[str, Any], where: str) -> Any:
    name = match[1] or match[2]
    if name in LATER and name not in values:
        return LATER[name]
    if name not in values:
        raise UserError(f"{where}: ${name} is not defined; known values: {', '.join(f'${known}' for known in values)}")
    return values[name]


def _text(match: re.Match[str], values: Mapping[str, Any], where: str) -> str:
    value = _value(match, values, where)
    if isinstance(value, list | dict):
        raise UserError(f"{where}: {match[0]} is {shown(value)}, which cannot be inserted into a string")
    return f"{value:g}" if isinstance(value, float) else str(value)
