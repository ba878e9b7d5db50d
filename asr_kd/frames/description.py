"""What a frame store holds and where it came from: the part that the index and every shard repeat."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One tensor of a store: numpy ``dtype`` name, ``shape`` of one frame (``()`` for a scalar), and its meaning."""

    dtype: str
    shape: tuple[int, ...] = ()
    meaning: str = ""

    @property
    def bytes_per_frame(self) -> int:
        """Bytes that one frame takes."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Description:
    """``kind`` (features, states, targets), tensors, shard plan (hash and number of shards) and provenance.

    ``inputs`` maps what was read to its hash, ``left_out`` the utterances outside the plan to the reason.
    """

    kind: str
    tensors: dict[str, TensorSpec]
    plan: str
    num_shards: int
    config: dict[str, Any]
    inputs: dict[str, str]
    left_out: dict[str, str]
    version: str
    schema: int = SCHEMA

    @property
    def bytes_per_frame(self) -> int:
        """Bytes that one frame takes in all tensors."""
        return sum(spec.bytes_per_frame for spec in self.tensors.values())

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, equal to what reading their JSON gives."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Description":
        """The inverse of ``to_json``; ``KeyError`` or ``TypeError`` for anything else."""
        specs = {
            name: TensorSpec(spec["dtype"], tuple(spec["shape"]), spec["meaning"])
            for name, spec in values["tensors"].items()
        }
        return cls(**{**values, "tensors": specs})

    def differences(self, wanted: "Description") -> list[str]:
        """How ``wanted`` differs from this one, a phrase each; the project's version may differ."""
        here, there = (_flat({**d.to_json(), "version": None}) for d in (self, wanted))
        phrases = []
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                label = "utterances, frame counts or shard size" if key == "plan" else key
                phrases.append(f"{label}: {_short(here.get(key))} there, {_short(there.get(key))} asked for")
        return phrases


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {k: v for key, inner in values.items() for k, v in _flat(inner, f"{prefix}.{key}".lstrip(".")).items()}


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
