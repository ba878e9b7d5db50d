"""Tensors of a safetensors file, checked against what a network expects before they are used."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import open_regular

_FLOATS = ("F32", "F16", "BF16", "F64")
_KINDS = {torch.int64: ("I64",)}  # of all others: _FLOATS


def read_tensors(path: str | Path, expected: Mapping[str, Tensor], by: str) -> dict[str, Tensor]:
    """The tensors at ``path``, on the CPU: exactly those of ``expected``, in its shapes, with finite numbers.

    Shapes and types are compared before memory is taken. Raises ``UserError`` naming the file, the tensor, and ``by``
    what it was expected.
    """
    open_regular(path).close()  # neither missing nor a named pipe
    try:
        with safetensors.safe_open(path, "pt") as stream:
            _check_header(path, stream, expected, by)
            tensors = {name: stream.get_tensor(name) for name in expected}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or truncated: {error}") from None
    for name, tensor in tensors.items():
        # The sum is one fast pass; it also overflows if finite numbers are huge.
        if not (tensor.sum().isfinite() or tensor.isfinite().all()):
            raise UserError(f"{path}: tensor {name!r} has a number that is NaN or infinite; the file cannot be used")
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; ``UserError`` if it is missing or not such a file."""
    open_regular(path).close()
    try:
        with safetensors.safe_open(path, "pt") as stream:
            return stream.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or truncated: {error}") from None


def _check_header(path: str | Path, stream: safetensors.safe_open, expected: Mapping[str, Tensor], by: str) -> None:
    names = set(stream.keys())
    for name in sorted(names | expected.keys()):
        header = stream.get_slice(name) if name in names else None
        found = tuple(header.get_shape()) if header else "nothing"
        wanted = tuple(expected[name].shape) if name in expected else "nothing"
        if found != wanted or header is None:
            raise UserError(f"{path}: tensor {shown(name)}: found {found}, but {by} expects {wanted}")
        kind, kinds = header.get_dtype(), _KINDS.get(expected[name].dtype, _FLOATS)
        if kind not in kinds:
            raise UserError(f"{path}: tensor {shown(name)}: found type {kind}, expected {' or '.join(kinds)}")
