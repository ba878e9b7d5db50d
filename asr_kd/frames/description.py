"""What a frame store holds and where it came from. The index and every shard carry this description."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asr_kd import __version__
from asr_kd.config import shown
from asr_kd.frames.checked import Damaged, count, counts, digits, members, plain, texts
from asr_kd.frames.plan import PlannedShard, plan_hash

SCHEMAS = (1, 2)  # that can be read; a store of schema 1 has no hash of its content
SCHEMA = SCHEMAS[-1]
CODES = {  # numpy's names of dtypes -> safetensors'
    "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
}  # fmt: skip
_DIMENSIONS = 8  # of one frame; the project's own tensors have at most 2


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One tensor of a store: numpy ``dtype`` name, ``shape`` of one frame (``()`` for a scalar), and its meaning."""

    dtype: str
    shape: tuple[int, ...] = ()
    meaning: str = ""

    @property
    def bytes_per_frame(self) -> int:
        """Bytes per frame."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    @classmethod
    def from_json(cls, values: Any, what: str) -> "TensorSpec":
        """The inverse of ``dataclasses.asdict``; ``Damaged`` for anything else, ``what`` in its message."""
        dtype, shape, meaning = members(values, what, {"dtype": str, "shape": list, "meaning": str})
        if dtype not in CODES:
            raise Damaged(f"{what}: dtype {shown(dtype)}, expected one of {', '.join(CODES)}")
        if len(shape) > _DIMENSIONS:
            raise Damaged(f"{what} has {len(shape)} dimensions, expected at most {_DIMENSIONS}")
        return cls(dtype, counts(shape, f"{what}: shape", least=1), meaning)


@dataclasses.dataclass(frozen=True)
class StoreContent:
    """What a store holds and what it was made from. Writing the same content again resumes or does nothing.

    - ``kind``: ``features``, ``states`` or ``targets``; ``tensors`` by name.
    - ``config``: the settings that made the frames; ``inputs``: the hash of each input, by name.
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
        """The description of ``content`` in the shards of ``plan``, with the types that reading it back gives."""
        tensors, config = dict(content.tensors), dict(content.config)
        inputs, left_out = dict(content.inputs), dict(content.left_out)
        made = cls(content.kind, tensors, plan_hash(plan), len(plan), config, inputs, left_out, __version__)
        return cls.from_json(made.to_json())

    @property
    def bytes_per_frame(self) -> int:
        """Bytes per frame, of all tensors together."""
        return sum(spec.bytes_per_frame for spec in self.tensors.values())

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars: what ``json.loads(json.dumps(...))`` returns."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Any) -> "Description":
        """The inverse of ``to_json``; ``Damaged`` for anything that ``to_json`` cannot give."""
        types = {
            "kind": str, "tensors": dict, "plan": str, "num_shards": int, "config": dict, "inputs": dict,
            "left_out": dict, "version": str, "schema": int,
        }  # fmt: skip
        kind, tensors, plan, num_shards, config, inputs, left_out, version, schema = members(
            values, "the description", types
        )
        if not tensors:
            raise Damaged("the description has no tensors")
        return cls(
            kind,
            {name: TensorSpec.from_json(spec, f"tensor {shown(name)}") for name, spec in tensors.items()},
            digits(plan, "plan"),
            count(num_shards, "num_shards", least=1),
            plain(config, "config"),
            texts(inputs, "inputs"),
            texts(left_out, "left_out"),
            version,
            schema,
        )

    @functools.cached_property
    def opening(self) -> str:
        """The first characters of each shard's metadata."""
        return f'{{"store":{json.dumps(self.to_json(), separators=(",", ":"))},'

    def layout(self, frames: int) -> str:
        """The safetensors entries of a shard of ``frames`` frames, as JSON; the tensors follow one another."""
        template, factors = self._layout
        return template % tuple([frames * factor for factor in factors])

    @functools.cached_property
    def spans(self) -> list[tuple[str, int, int]]:
        """Each tensor's name, begin and end in the bytes of one frame; the largest items come first to align all."""
        spans, end = [], 0
        for name in sorted(self.tensors, key=lambda name: (-np.dtype(self.tensors[name].dtype).itemsize, name)):
            start, end = end, end + self.tensors[name].bytes_per_frame
            spans.append((name, start, end))
        return spans

    @functools.cached_property
    def _layout(self) -> tuple[str, list[int]]:
        """The template of ``layout``, and the factor of the number of frames for each of its fields."""
        entries, factors = [], []
        for name, start, end in self.spans:
            code, shape = CODES[self.tensors[name].dtype], "".join(f",{size}" for size in self.tensors[name].shape)
            key = json.dumps(name).replace("%", "%%")
            entries.append(f'{key}:{{"dtype":"{code}","shape":[%d{shape}],"data_offsets":[%d,%d]}}')
            factors += [1, start, end]
        return ",".join(entries), factors

    @property
    def identity(self) -> str:
        """A hash of everything but the versions of project and layout: equal where ``differences`` finds none."""
        text = json.dumps({**self.to_json(), "version": None, "schema": None}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, wanted: "Description") -> list[str]:
        """How ``wanted`` differs from this description, a phrase each, but for the versions of project and layout."""
        here, there = (_flat({**d.to_json(), "version": None, "schema": None}) for d in (self, wanted))
        phrases = []
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                label = "utterances, frame counts or shard size" if key == "plan" else key
                phrases.append(f"{label}: {_short(here.get(key))} stored, {_short(there.get(key))} requested")
        return phrases


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {k: v for key, inner in values.items() for k, v in _flat(inner, f"{prefix}.{key}".lstrip(".")).items()}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
