"""Reproducible random choices that depend only on a seed and the ids, not on a library's generator."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from asr_kd.errors import UserError


def shuffled(ids: Iterable[str], seed: int) -> list[str]:
    """``ids`` in an order fixed by ``seed``; adding or removing an id does not reorder the others."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())


def hold_out(amounts: Mapping[str, float], fraction: float, seed: int) -> set[str]:
    """Speakers, taken in shuffled order until they hold at least ``fraction`` of the total of ``amounts``."""
    chosen: set[str] = set()
    held, total = 0.0, sum(amounts.values())
    for speaker in shuffled(amounts, seed):
        if held >= fraction * total:
            break
        chosen.add(speaker)
        held += amounts[speaker]
    return chosen


def find_root(corpus_dir: str | Path, marker: str, expected: str) -> Path:
    """``corpus_dir`` or its subfolder, whichever contains ``marker``; ``UserError`` if neither does."""
    corpus_dir = Path(corpus_dir)
    if not corpus_dir.is_dir():
        raise UserError(f"{corpus_dir}: no such folder; expected {expected}")
    inner = sorted(path for path in corpus_dir.iterdir() if path.is_dir())
    for folder in [corpus_dir, *inner]:
        if (folder / marker).exists():
            return folder
    raise UserError(f"{corpus_dir}: contains no {marker}; expected {expected}")
