"""Kaldi archives in and out: ``ark`` and ``scp`` files of matrices, float vectors and integer vectors.

kaldi_io parses and writes; it gets files that are opened here, because a name with ``|`` would run a shell command.
Compressed matrices (Kaldi's default for features), which kaldi_io 0.9.8 cannot read beside numpy 2, are decoded here.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import atomic_write, read_lines
from asr_kd.frames.description import StoreContent, TensorSpec
from asr_kd.frames.store import FrameStore
from asr_kd.frames.writer import DEFAULT_OPTIONS, WriteOptions, write_store

TENSORS = {"features": "fbank", "states": "state", "targets": "log_prob"}  # what an imported tensor is called


def read_kaldi(source: str | Path, integers: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``(utterance, array)`` from an ``.ark`` or ``.scp`` file: float ``[rows, columns]``, or int32 ``[length]``.

    ``integers`` says that the archive holds integer vectors (alignments). Raises ``UserError`` for a pipe, a missing
    file, or content that is not of this form.
    """
    for entry, array in scan(source, integers):
        yield entry.utterance, array


def import_kaldi(
    source: str | Path,
    out: str | Path,
    kind: str,
    tensor: str | None = None,
    options: WriteOptions = DEFAULT_OPTIONS,
) -> FrameStore:
    """Store a Kaldi archive: ``states`` from integer vectors as u16 (i32 beyond), other kinds from matrices as f32.

    The archive is read twice, so memory stays that of one shard. Raises ``UserError`` as ``read_kaldi`` and
    ``write_store`` do, and where utterances repeat or have different columns.
    """
    integers = kind == "states"
    name = tensor or TENSORS[kind]
    entries: dict[str, Entry] = {}
    digest = hashlib.sha256()
    shape: tuple[int, ...] | None = None
    largest = 0
    counts = {}
    for entry, array in scan(source, integers):
        utterance = entry.utterance
        if utterance in entries:
            raise UserError(f"{source}: utterance {utterance} occurs twice")
        if shape is not None and array.shape[1:] != shape:
            raise UserError(f"{source}: utterance {utterance} has frames of {array.shape[1:]}, the first {shape}")
        shape = array.shape[1:]
        largest = max(largest, int(array.max(initial=0))) if integers else 0
        entries[utterance], counts[utterance] = entry, len(array)
        digest.update(f"{utterance} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    dtype = "float32" if not integers else "uint16" if largest < 1 << 16 else "int32"
    spec = TensorSpec(dtype, shape or (), f"imported from Kaldi ({Path(source).name})")
    content = StoreContent(kind, {name: spec}, inputs={"archive": digest.hexdigest()})
    return write_store(out, content, counts, ReadTensor(entries, name, integers), options)


def export_kaldi(store: FrameStore, ark: str | Path, tensor: str | None = None) -> Path:
    """Write one tensor of a store as ``ark`` and as the ``.scp`` beside it, whose path is returned.

    ``[frames, n]`` becomes a float matrix, ``[frames]`` of integers an integer vector, of floats a float vector.
    """
    ark = Path(ark)
    scp = ark.with_suffix(".scp")
    if scp == ark:
        raise UserError(f"{ark}: name the archive .ark; the .scp is written beside it")
    name = tensor or next(iter(store.tensors))
    if name not in store.tensors or (tensor is None and len(store.tensors) > 1):
        raise UserError(f"{store.path}: holds the tensors {', '.join(store.tensors)}; say which one to export")
    write = _writer(store, name)
    with atomic_write(ark, "wb") as stream, atomic_write(scp) as index:
        for utterance in store.utterances:
            stream.write(f"{utterance} ".encode())
            index.write(f"{utterance} {ark}:{stream.tell()}\n")
            write(stream, store.read(utterance)[name])
    return scp


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where an utterance's object is."""

    utterance: str
    file: str
    offset: int


@dataclasses.dataclass(frozen=True)
class ReadTensor:
    """Reads the objects of a shard's utterances as tensor ``tensor``: the ``compute`` of ``write_store``."""

    entries: dict[str, Entry]
    tensor: str
    integers: bool

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        wanted = (self.entries[utterance] for utterance in utterances)
        return ((entry.utterance, {self.tensor: array}) for entry, array in _read_entries(wanted, self.integers))


def scan(source: str | Path, integers: bool) -> Iterator[tuple[Entry, np.ndarray]]:
    """Every object of an ``.ark`` or ``.scp`` file with its place, in the order of the file."""
    form, name = _parse(str(source))
    return _read_entries(_read_scp(name), integers) if form == "scp" else _scan_ark(name, integers)


def _parse(source: str) -> tuple[str, str]:
    _refuse_pipe(source, source)
    form, colon, name = source.partition(":")
    if colon and re.fullmatch(r"(ark|scp)(,\w+)*", form):
        return form[:3], name
    return ("scp" if source.endswith(".scp") else "ark"), source


def _refuse_pipe(name: str, source: str) -> None:
    if name.strip().startswith("|") or name.strip().endswith("|"):
        raise UserError(f"{source}: {name.strip()!r} is a pipe, which would run a shell command; write it to a file")


def _read_scp(path: str) -> Iterator[Entry]:
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}:{number}"
        utterance, _, place = line.strip().partition(" ")
        _refuse_pipe(place, where)
        if not place.strip():
            raise UserError(f"{where}: expected UTTERANCE FILE or UTTERANCE FILE:OFFSET, found {line!r}")
        if place.endswith("]"):
            raise UserError(
                f"{where}: {place!r} selects a range; export the whole matrix with Kaldi's copy-feats first"
            )
        match = re.fullmatch(r"(.+?)(?::(\d+))?", place.strip())
        assert match
        yield Entry(utterance, match[1], int(match[2] or 0))


def _read_entries(entries: Iterator[Entry], integers: bool) -> Iterator[tuple[Entry, np.ndarray]]:
    with contextlib.ExitStack() as stack:
        name, stream = None, None
        for entry in entries:
            if stream is None or entry.file != name:
                stack.close()
                name, stream = entry.file, stack.enter_context(_open(entry.file))
            stream.seek(entry.offset)
            yield entry, _read_object(stream, entry, integers)


def _scan_ark(name: str, integers: bool) -> Iterator[tuple[Entry, np.ndarray]]:
    with _open(name) as stream:
        while True:
            try:
                key = _kaldi_io().read_key(stream)
                utterance = key and key.encode("latin-1").decode()
            except (AssertionError, UnicodeDecodeError):
                raise UserError(f"{name}: no utterance id before byte {stream.tell():,}; not a Kaldi archive") from None
            if not utterance:
                return
            entry = Entry(utterance, name, stream.tell())
            yield entry, _read_object(stream, entry, integers)


def _open(name: str) -> IO[bytes]:
    try:
        return open(name, "rb")
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; a relative path in an scp starts at the current folder") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder; a Kaldi archive was expected") from None


def _read_object(stream: IO[bytes], entry: Entry, integers: bool) -> np.ndarray:
    kaldi_io = _kaldi_io()
    try:
        if integers:
            return np.ascontiguousarray(kaldi_io.read_vec_int(stream))
        opening = stream.read(5)
        if opening[:4] == b"\0BCM":
            return _read_compressed(stream, opening[4:])
        stream.seek(entry.offset)
        is_vector = opening[2:4] in (b"FV", b"DV")
        return np.asarray(kaldi_io.read_vec_flt(stream) if is_vector else kaldi_io.read_mat(stream))
    except Exception as error:  # kaldi_io fails in many ways on a file that is not what it expects
        what = "integer vector" if integers else "matrix"
        raise UserError(f"{entry.file}: utterance {entry.utterance}: not a whole Kaldi {what} ({error!r})") from None


def _read_compressed(stream: IO[bytes], form: bytes) -> np.ndarray:
    """A compressed matrix after its ``CM``, float32 ``[rows, columns]`` (Kaldi's compressed-matrix.h)."""
    if form in b"23":
        stream.read(1)  # the space after CM2 or CM3
    low, width = np.frombuffer(stream.read(8), "<f4")
    rows, columns = np.frombuffer(stream.read(8), "<i4")
    if form != b" ":  # CM2: 16 bits a value, CM3: 8 bits
        dtype = np.dtype("<u2" if form == b"2" else "u1")
        levels = np.frombuffer(stream.read(int(rows) * int(columns) * dtype.itemsize), dtype).reshape(rows, columns)
        return low + width * (levels.astype(np.float32) / np.iinfo(dtype).max)
    quartiles = low + width / 65535 * np.frombuffer(stream.read(8 * int(columns)), "<u2").reshape(columns, 4)
    levels = np.frombuffer(stream.read(int(rows) * int(columns)), "u1").reshape(columns, rows)
    knots = (0, 64, 192, 255)
    decoded = [np.interp(level, knots, values) for level, values in zip(levels, quartiles, strict=True)]
    return np.ascontiguousarray(np.array(decoded, np.float32).T)


def _writer(store: FrameStore, name: str) -> Callable[[IO[bytes], np.ndarray], None]:
    """What writes one utterance's array of tensor ``name`` to a stream."""
    kaldi_io = _kaldi_io()
    spec = store.tensors[name]
    kind = np.dtype(spec.dtype).kind
    if kind == "f" and len(spec.shape) < 2:
        write = kaldi_io.write_mat if spec.shape else kaldi_io.write_vec_flt
        return lambda stream, array: write(stream, array.astype(np.float32))
    if kind in "iu" and not spec.shape:
        return lambda stream, array: kaldi_io.write_vec_int(stream, array.astype(np.int32))
    raise UserError(f"{store.path}: {name} ({spec.dtype} {list(spec.shape)}) has no form in Kaldi")


@functools.cache
def _kaldi_io() -> ModuleType:
    """kaldi_io, imported without its warning about ``KALDI_ROOT`` and without its change of ``PATH``."""
    saved = {name: os.environ.get(name) for name in ("KALDI_ROOT", "PATH")}
    os.environ["KALDI_ROOT"] = os.sep
    try:
        import kaldi_io
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return kaldi_io
