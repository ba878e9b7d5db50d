"""Tables as dataclasses of numpy columns of equal length."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np


class Columns:
    """Base of a frozen dataclass whose fields are all arrays ``[rows]``."""

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all ``parts``, one after the other."""
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def take(self, rows: np.ndarray) -> Self:
        """The given rows, by number or by a boolean mask."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return type(self)(*(getattr(self, name)[rows] for name in names))
