"""What a frame store holds and where it came from: the part that the index and every shard repeat."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asr_kd import __version__
from asr_kd.frames.plan import PlannedShard, plan_hash

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
class StoreContent:
    """What a store holds and what it was made from; the same content is never written twice.

    - ``kind``: ``features``, ``states`` or ``targets``; ``tensors`` by name.
    - ``config``: the settings that made the frames; ``inputs``: the name and the hash of everything that was read.
    - ``left_out``: utterances that the store lacks, with the reason.
    """

    kind: str
    tensors: Mapping[str, TensorSpec]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Description:
    """A store's content (see ``StoreContent``), its shard plan (hash and number of shards) and the asr_kd version."""

    kind: str
    tensors: dict[str, TensorSpec]
    plan: str
    num_shards: int
    config: dict[str, Any]
    inputs: dict[str, str]
    left_out: dict[str, str]
    version: str
    schema: int = SCHEMA

    @classmethod
    def of(cls, content: StoreContent, plan: Sequence[PlannedShard]) -> "Description":
        """The description of ``content`` in the shards of ``plan``, as it is when read back."""
        tensors, config = dict(content.tensors), dict(content.config)
        inputs, left_out = dict(content.inputs), dict(content.left_out)
        made = cls(content.kind, tensors, plan_hash(plan), len(plan), config, inputs, left_out, __version__)
        return cls.from_json(made.to_json())

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
