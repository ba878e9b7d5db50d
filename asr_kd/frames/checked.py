"""Typed access to untrusted JSON: each function returns a value of the right type or raises ``Damaged``."""

import math
import re
from collections.abc import Mapping
from typing import Any

from asr_kd.config import TYPES, shown

LARGEST = 1 << 53  # larger than any number of frames or bytes, and exact in every JSON reader
_DEPTH = 16  # of a configuration; those of this project need 3


class Damaged(Exception):
    """JSON that does not have the layout of a store; the message says which part, what was found and expected."""


def members(value: Any, what: str, types: Mapping[str, type]) -> list[Any]:
    """The members of an object that has exactly the keys of ``types``, in their order; a bool is no int."""
    if type(value) is not dict:
        raise Damaged(f"{what} is {shown(value)}, expected an object")
    found = [value.get(key) for key in types]
    if len(value) == len(types) and list(map(type, found)) == list(types.values()):  # nearly always
        return found
    if missing := types.keys() - value.keys():
        raise Damaged(f"{what} lacks {min(missing)!r}")
    if unknown := value.keys() - types.keys():
        raise Damaged(f"{what} has an unknown member {shown(min(unknown))}")
    for key, kind in types.items():
        if type(value[key]) is not kind:
            raise Damaged(f"{what}: {key} is {shown(value[key])}, expected {TYPES[kind]}")
    return [value[key] for key in types]


def count(value: Any, what: str, least: int = 0) -> int:
    """A whole number from ``least`` to ``LARGEST``."""
    if type(value) is not int or not least <= value <= LARGEST:
        raise Damaged(f"{what} is {shown(value)}, expected a whole number of at least {least}")
    return value


def counts(value: Any, what: str, least: int = 0) -> tuple[int, ...]:
    """A list of whole numbers."""
    if type(value) is not list:
        raise Damaged(f"{what} is {shown(value)}, expected a list")
    return tuple(count(item, what, least) for item in value)


def texts(value: Mapping[str, Any], what: str) -> dict[str, str]:
    """An object whose values are all strings."""
    for key, item in value.items():
        if type(item) is not str:
            raise Damaged(f"{what}: {shown(key)} is {shown(item)}, expected a string")
    return dict(value)


def digits(value: Any, what: str) -> str:
    """A hexadecimal SHA-256."""
    if type(value) is not str or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise Damaged(f"{what} is {shown(value)}, expected the 64 digits of a SHA-256")
    return value


def plain(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A configuration: finite numbers and values of any other type, not nested deeply."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > _DEPTH:
            raise Damaged(f"{what} is nested more than {_DEPTH} deep")
        if isinstance(item, float) and not math.isfinite(item):
            raise Damaged(f"{what} holds {item}, expected finite numbers")
        if isinstance(item, dict | list):
            waiting += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
    return dict(value)
