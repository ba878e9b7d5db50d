"""Kaldi archives in and out: ``ark`` and ``scp`` files of matrices, float vectors and integer vectors.

Names with ``|``, which Kaldi's own programs run as shell commands, are refused.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from asr_kd.compressed import open_compressed
from asr_kd.config import shown
from asr_kd.errors import UserError, counted
from asr_kd.files import atomic_write, open_regular, read_lines
from asr_kd.frames.description import StoreContent, TensorSpec
from asr_kd.frames.kaldi_objects import Malformed, OfOtherKind, read_array, read_id, write_array
from asr_kd.frames.store import FrameStore
from asr_kd.frames.writer import DEFAULT_OPTIONS, WriteOptions, write_store
from asr_kd.limits import EXPANSION_OF_LABELS
from asr_kd.storage import cache_folder, is_url

TENSORS = {"features": "fbank", "states": "state", "targets": "log_prob"}  # what an imported tensor is called


@dataclasses.dataclass(frozen=True)
class ScpEntry:
    """The place of an utterance's object: byte ``offset`` of ``file``."""

    utterance: str
    file: str
    offset: int


@dataclasses.dataclass(frozen=True)
class ArchiveSurvey:
    """The result of the first pass over an archive; ``entries`` tells the second pass where the objects are.

    ``frame_counts`` of the good utterances, whose frames all have ``shape``; ``bad`` utterances with the reason;
    ``largest`` value of integer vectors; ``digest``: a hash of ids and values, the same for ``.ark`` and ``.scp``.
    """

    entries: dict[str, ScpEntry]
    frame_counts: dict[str, int]
    bad: dict[str, str]
    shape: tuple[int, ...]
    largest: int
    digest: str


@dataclasses.dataclass(frozen=True)
class ReadTensor:
    """Reads the objects of a shard's utterances as tensor ``tensor``: the ``compute`` of ``write_store``."""

    entries: dict[str, ScpEntry]
    tensor: str
    integers: bool

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray] | UserError]]:
        entries = (self.entries[utterance] for utterance in utterances)
        for entry, found in _read_entries(entries, self.integers):
            yield entry.utterance, found if isinstance(found, UserError) else {self.tensor: found}


def read_kaldi(source: str | Path, integers: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``(utterance, array)`` from an ``.ark`` or ``.scp`` file, in the order of the file.

    Arrays are float ``[rows, columns]`` or ``[length]``; with ``integers`` the archive holds integer vectors
    (alignments), int32 ``[length]``. Raises ``UserError`` for a pipe, a missing file, or content of another form.
    """
    for entry, found in _scan(str(source), integers):
        if isinstance(found, UserError):
            raise found
        yield entry.utterance, found


@contextlib.contextmanager
def unpacked(source: str | Path, out: str | Path) -> Iterator[str]:
    """An archive that can be read in any order: ``source``, or a decompressed temporary copy in the folder of ``out``.

    An import reads objects in sorted order, which an ``.ark.gz`` does not allow. On Linux the copy has no name, so
    nothing is left behind if the process is killed.
    """
    form, name = _parse(str(source))
    if not name.endswith(".gz"):
        yield str(source)
        return
    if form == "scp":
        raise UserError(f"{source}: a compressed .scp; decompress it first (gunzip)")
    folder = cache_folder() if is_url(out) else Path(out).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    nameless = Path("/proc/self/fd").is_dir()
    with tempfile.TemporaryFile(dir=folder) if nameless else tempfile.NamedTemporaryFile(dir=folder) as plain:
        copy = f"/proc/{os.getpid()}/fd/{plain.fileno()}" if nameless else plain.name
        with open_compressed(name, EXPANSION_OF_LABELS) as packed:
            try:
                shutil.copyfileobj(packed, plain, 1 << 20)
                plain.flush()
            except OSError as error:
                raise UserError(f"{name}: cannot be decompressed to {folder}: {error.strerror}") from None
        try:
            yield f"ark:{copy}"
        except UserError as error:
            raise UserError(str(error).replace(f"ark:{copy}", name).replace(copy, name)) from None


def survey(source: str, integers: bool, skip_bad: bool, columns: int | None = None) -> ArchiveSurvey:
    """Read every object of an archive once.

    Raises ``UserError`` as ``read_kaldi`` does, and for an utterance that occurs twice or does not have ``columns``
    columns (by default those of the first), and for an archive without a good utterance. An utterance that has no
    frames, or whose ``.scp`` entry cannot be read, is an error too; with ``skip_bad`` it is listed in ``bad``.
    """
    entries: dict[str, ScpEntry] = {}
    counts: dict[str, int] = {}
    bad: dict[str, str] = {}
    shape = None if columns is None else (columns,)
    expected = "as in the first" if columns is None else "as requested"
    digest, largest = hashlib.sha256(), 0
    for entry, found in _scan(source, integers):
        utterance = entry.utterance
        if utterance in entries:
            raise UserError(f"{source}: utterance {utterance} occurs twice")
        entries[utterance] = entry
        if isinstance(found, UserError) or not len(found):
            reason = str(found) if isinstance(found, UserError) else "it has no frames"
            if not skip_bad:
                where = "" if f"utterance {utterance}: " in reason else f"{source}: utterance {utterance}: "
                raise UserError(f"{where}{reason} (--skip-bad leaves it out)")
            bad[utterance] = reason
            continue
        if shape not in (None, found.shape[1:]):
            what = counted(found.shape[1], "column") if found.ndim == 2 else "one column (a vector)"
            raise UserError(f"{source}: utterance {utterance} has {what}; expected {(*shape, 1)[0]}, {expected}")
        shape = found.shape[1:]
        largest = max(largest, int(found.max())) if integers else 0
        counts[utterance] = len(found)
        digest.update(f"{utterance} {found.dtype} {found.shape}\n".encode() + found.tobytes())
    if shape is None or not counts:
        first = "".join(f"; the first, {utterance}: {reason}" for utterance, reason in list(bad.items())[:1])
        raise UserError(f"{source}: holds no utterance that can be read{first}")
    return ArchiveSurvey(entries, counts, bad, shape, largest, digest.hexdigest())


def import_kaldi(
    source: str | Path,
    out: str | Path,
    kind: str,
    tensor: str | None = None,
    options: WriteOptions = DEFAULT_OPTIONS,
) -> FrameStore:
    """Store a Kaldi archive: ``states`` from integer vectors as u16 (i32 beyond), other kinds from matrices as f32.

    The archive, which may be an ``.ark.gz``, is read twice, so memory stays that of one shard. Raises ``UserError`` as
    ``survey`` and ``write_store`` do.
    """
    integers = kind == "states"
    name = tensor or TENSORS[kind]
    with unpacked(source, out) as archive:
        found = survey(archive, integers, options.skip_bad)
        dtype = "float32" if not integers else "uint16" if found.largest < 1 << 16 else "int32"
        spec = TensorSpec(dtype, found.shape, f"imported from Kaldi ({Path(source).name})")
        content = StoreContent(kind, {name: spec}, inputs={"archive": found.digest}, left_out=found.bad)
        return write_store(out, content, found.frame_counts, ReadTensor(found.entries, name, integers), options)


def export_kaldi(store: FrameStore, ark: str | Path, tensor: str | None = None) -> Path:
    """Write one tensor of a store as ``ark`` and as the ``.scp`` beside it, whose path is returned.

    ``[frames, n]`` becomes a float matrix, ``[frames]`` of integers an integer vector, of floats a float vector. Raises
    ``UserError`` for an id or a path that Kaldi would read as something else.
    """
    ark = Path(ark)
    scp = ark.with_suffix(".scp")
    if scp == ark:
        raise UserError(f"{ark}: name the archive .ark; the .scp is written beside it")
    if not re.fullmatch(r"[^\s|](?:[^\n\r\0|]*[^\s|])?", str(ark)):
        raise UserError(
            f"{shown(str(ark))}: an .scp cannot hold a path with a pipe, a line break, or leading or trailing white"
            " space; give another path"
        )
    name = tensor or next(iter(store.tensors))
    if name not in store.tensors:
        raise UserError(f"{store.path}: no tensor {name!r}; it holds: {', '.join(store.tensors)}")
    if tensor is None and len(store.tensors) > 1:
        raise UserError(f"{store.path}: holds the tensors {', '.join(store.tensors)}; choose one with --tensor")
    dtype = _kaldi_dtype(store, name)
    for utterance in store.utterances:
        if not utterance.isprintable() or re.search(r"[\s|]", utterance):
            raise UserError(
                f"{store.path}: utterance {shown(utterance)}: white space, a pipe or a control character in an id means"
                " something else in an .scp; rename it"
            )
    with atomic_write(ark, "wb") as stream, atomic_write(scp) as index:
        for utterance in store.utterances:
            stream.write(f"{utterance} ".encode())
            index.write(f"{utterance} {ark}:{stream.tell()}\n")
            write_array(stream, store.read(utterance)[name].astype(dtype))
    return scp


def _kaldi_dtype(store: FrameStore, name: str) -> str:
    spec = store.tensors[name]
    kind = np.dtype(spec.dtype).kind
    if kind == "f" and len(spec.shape) < 2:
        return "float32"
    if kind in "iu" and not spec.shape and np.can_cast(spec.dtype, "int64"):
        return "int32"
    raise UserError(
        f"{store.path}: {name} ({spec.dtype} {list(spec.shape)}) has no Kaldi equivalent; export another tensor"
        " (--tensor)"
    )


def _scan(source: str, integers: bool) -> Iterator[tuple[ScpEntry, np.ndarray | UserError]]:
    """Each object with its place, in the order of the file; an error for each .scp entry that cannot be read."""
    form, name = _parse(source)
    return _read_entries(_read_scp(name), integers) if form == "scp" else _scan_ark(name, integers)


def _parse(source: str) -> tuple[str, str]:
    _refuse_pipe(source, source)
    form, colon, name = source.partition(":")
    if colon and re.fullmatch(r"(ark|scp)(,\w+)*", form):
        return form[:3], name
    return ("scp" if source.endswith((".scp", ".scp.gz")) else "ark"), source


def _refuse_pipe(name: str, source: str) -> None:
    if name.strip().startswith("|") or name.strip().endswith("|"):
        raise UserError(
            f"{source}: {shown(name.strip())} is a pipe, which would run a command; write its output to a file"
        )


def _read_scp(path: str) -> Iterator[ScpEntry]:
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}:{number}"
        fields = line.strip(" \t\r\n\f\v")
        match = re.fullmatch(r"([^ \t\r\n\f\v]+)[ \t\r\n\f\v]+(.*)", fields, re.DOTALL)
        if not match:
            raise UserError(f"{where}: expected UTTERANCE FILE or UTTERANCE FILE:OFFSET, found {shown(line)}")
        utterance, place = match.groups()
        _refuse_pipe(place, where)
        if re.search(r"\[[^\]]*\]$", place):
            raise UserError(
                f"{where}: {shown(place)} selects a range; export the whole matrix with Kaldi's copy-feats first"
            )
        match = re.fullmatch(r"(.+?)(?::([0-9]+))?", place, re.DOTALL)
        assert match
        # An offset of more digits lies beyond the end of any file; Python refuses numbers of thousands of digits.
        yield ScpEntry(utterance, match[1], int((match[2] or "0")[:19]))


def _read_entries(entries: Iterable[ScpEntry], integers: bool) -> Iterator[tuple[ScpEntry, np.ndarray | UserError]]:
    with contextlib.ExitStack() as stack:
        name, stream = None, None
        for entry in entries:
            try:
                if stream is None or entry.file != name:
                    stack.close()
                    stream = None
                    name, stream = entry.file, stack.enter_context(_open(entry.file))
                if entry.offset >= os.fstat(stream.fileno()).st_size:
                    raise UserError(
                        f"{entry.file}: ends before byte {entry.offset:,}, where {entry.utterance} should be"
                    )
                stream.seek(entry.offset)
                yield entry, _read_object(stream, entry, integers)
            except UserError as error:
                yield entry, error


def _scan_ark(name: str, integers: bool) -> Iterator[tuple[ScpEntry, np.ndarray | UserError]]:
    with _open(name) as stream:
        while True:
            place = stream.tell()
            try:
                utterance = read_id(stream)
            except Malformed as error:
                raise UserError(
                    f"{name}: {error} at byte {place:,}; not a Kaldi archive of the requested kind"
                ) from None
            if utterance is None:
                return
            entry = ScpEntry(utterance, name, stream.tell())
            yield entry, _read_object(stream, entry, integers)  # after an error the next object cannot be found


def _open(name: str) -> io.BufferedReader:
    try:
        stream = open_regular(name)
    except UserError as error:
        relative = "; a relative path in an .scp starts at the current folder" if not Path(name).is_absolute() else ""
        raise UserError(f"{error}{relative}") from None
    if not stream.seekable():
        stream.close()
        raise UserError(f"{name}: is a pipe, but an archive must be seekable; write it to a file first")
    return stream


def _read_object(stream: IO[bytes], entry: ScpEntry, integers: bool) -> np.ndarray:
    try:
        return read_array(stream, integers)
    except OfOtherKind as error:
        raise UserError(f"{entry.file}: utterance {entry.utterance}: {error}") from None
    except Malformed as error:
        what = "integer vector" if integers else "matrix"
        where = f"{entry.file}: utterance {entry.utterance}"
        raise UserError(f"{where}: not a complete Kaldi {what}: {error}") from None
