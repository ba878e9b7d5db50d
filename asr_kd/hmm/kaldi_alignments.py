"""From Kaldi: the map from transition-ids to pdfs (a ``final.mdl``), and alignments."""

import contextlib
import gzip
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import read_lines
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays
from asr_kd.frames.kaldi_archives import read_kaldi

Topology = dict[int, list[list[int]]]  # of each phone, for each HMM state, where its transitions lead


def read_transitions(path: str | Path) -> np.ndarray:
    """The pdf of each transition-id, ``[transition-ids + 1]`` int32; entry 0 is -1, as transition-ids begin at 1.

    ``path`` is a Kaldi model, binary or text, which begins with its TransitionModel (what follows is not read), or a
    text file of lines ``TRANSITION-ID PDF``. Raises ``UserError`` for any other content.
    """
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; expected Kaldi's final.mdl, or lines of TRANSITION-ID PDF") from None
    binary = content[:2] == b"\0B"
    if not binary and not content.lstrip().startswith(b"<TransitionModel>"):
        return _read_table(path)
    try:
        return _read_model(_Binary(content[2:]) if binary else _Text(content))
    except (_Malformed, IndexError, ValueError, struct.error) as error:
        raise UserError(f"{path}: not a whole Kaldi transition model: {error}") from None


def import_alignment(
    sources: Sequence[str | Path],
    out: str | Path,
    kind: Literal["pdf", "transition"] = "pdf",
    transitions: np.ndarray | None = None,
    features: FrameStore | None = None,
    num_states: int | None = None,
    skip_bad: bool = False,
    force: bool = False,
) -> FrameStore:
    """Write Kaldi alignments (``ali.*.gz``, ``.ark`` or ``.scp`` of integer vectors) as a store of states.

    ``kind`` says what the integers are; ``transitions`` (from ``read_transitions``) maps transition-ids. There are
    ``num_states`` states, by default those of the map, else up to the highest found. Where ``features`` are given,
    an utterance must be among them with as many frames; ``skip_bad`` leaves out others, which the store lists.
    Raises ``UserError`` for an utterance twice, a label out of range, or no utterance.
    """
    if (kind == "transition") != (transitions is not None):
        raise UserError("transition-ids need the model they are of (final.mdl), and pdf-ids need none")
    states: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for source in sources:
        for utt, labels in _read_archive(source):
            if utt in states or utt in left_out:
                raise UserError(f"{source}: utterance {utt} occurs twice")
            states[utt] = labels if transitions is None else _map(labels, transitions, f"{source}: utterance {utt}")
            if problem := _mismatch(utt, len(labels), features):
                if not skip_bad:
                    raise UserError(f"{source}: utterance {utt} {problem}; --skip-bad leaves such out")
                left_out[utt] = problem
                del states[utt]
    if not states:
        raise UserError(f"{', '.join(map(str, sources))}: no utterance to import")
    low, high = min(int(s.min(initial=0)) for s in states.values()), max(int(s.max(initial=0)) for s in states.values())
    count = num_states or (high + 1 if transitions is None else int(transitions.max()) + 1)
    if low < 0 or high >= count:
        raise UserError(f"{sources[0]}: state {low if low < 0 else high} is outside 0..{count - 1}")
    dtype = "uint16" if count <= 1 << 16 else "int32"
    spec = {"state": TensorSpec(dtype, (), "tied HMM state of the frame, from 0 (Kaldi's pdf-id)")}
    arrays = {utt: {"state": values.astype(dtype)} for utt, values in states.items()}
    content = StoreContent("states", spec, {"num_states": count}, left_out=left_out)
    return write_arrays(out, content, arrays, WriteOptions(force=force))


def _mismatch(utt: str, frames: int, features: FrameStore | None) -> str:
    if features is None:
        return ""
    if utt not in features.frame_counts:
        return f"is not in {features.path}"
    expected = features.frame_counts[utt]
    return "" if frames == expected else f"has {frames} frames, {features.path} {expected}"


def _map(labels: np.ndarray, transitions: np.ndarray, where: str) -> np.ndarray:
    if len(labels) and not 1 <= labels.min() <= labels.max() < len(transitions):
        bad = labels.min() if labels.min() < 1 else labels.max()
        raise UserError(f"{where}: transition-id {bad} is outside 1..{len(transitions) - 1}; is the model another one?")
    return transitions[labels]


def _read_archive(source: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    with contextlib.ExitStack() as stack:
        if str(source).endswith(".gz"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            unpacked = Path(folder) / f"{Path(source).stem}.ark"
            try:
                unpacked.write_bytes(gzip.decompress(Path(source).read_bytes()))
            except FileNotFoundError:
                raise UserError(f"{source}: no such file; expected an archive of alignments") from None
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise UserError(f"{source}: not a whole gzip file: {error}") from None
            source = unpacked
        yield from read_kaldi(source, integers=True)


def _read_table(path: str | Path) -> np.ndarray:
    pdfs: dict[int, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[0]) in pdfs:
            raise UserError(f"{path}:{number}: expected TRANSITION-ID PDF, each id once; found {line!r}")
        pdfs[int(fields[0])] = int(fields[1])
    pdfs.pop(0, None)
    if sorted(pdfs) != list(range(1, len(pdfs) + 1)) or not pdfs:
        raise UserError(f"{path}: {len(pdfs)} transition-ids; expected every one from 1 on")
    return np.array([-1, *(pdfs[id] for id in range(1, len(pdfs) + 1))], np.int32)


class _Malformed(Exception):
    """Something else than the format has at this place."""


class _Binary:
    """Kaldi's binary streams: a token ends with a space; a number has its size before it."""

    binary = True

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def token(self) -> str:
        end = self.content.index(b" ", self.at, self.at + 100)
        token = self.content[self.at : end].decode("latin-1")
        self.at = end + 1
        return token

    def integer(self) -> int:
        return int(self._number("<i"))

    def real(self) -> float:
        return float(self._number("<d" if self.content[self.at] == 8 else "<f"))

    def integers(self) -> list[int]:
        size, count = struct.unpack_from("<bi", self.content, self.at)
        if size != 4 or count < 0:
            raise _Malformed(f"no vector of integers at byte {self.at + 2}")
        self.at += 5 + 4 * count
        return list(struct.unpack_from(f"<{count}i", self.content, self.at - 4 * count))

    def _number(self, form: str) -> float:
        size = struct.calcsize(form)
        if self.content[self.at] != size:
            raise _Malformed(f"no number of {size} bytes at byte {self.at + 2}")
        self.at += 1 + size
        return float(struct.unpack_from(form, self.content, self.at - size)[0])


class _Text:
    """Kaldi's text form: all is apart by white space."""

    binary = False

    def __init__(self, content: bytes) -> None:
        self.words = content.decode("latin-1").split()[::-1]

    def token(self) -> str:
        return self.words.pop()

    def integer(self) -> int:
        return int(self.words.pop())

    def real(self) -> float:
        return float(self.words.pop())


def _read_model(stream: _Binary | _Text) -> np.ndarray:
    """Kaldi's ``TransitionModel::Read`` and ``ComputeDerived`` (src/hmm/transition-model.cc)."""
    _expect(stream, "<TransitionModel>")
    _expect(stream, "<Topology>")
    topology = _read_binary_topology(stream) if isinstance(stream, _Binary) else _read_text_topology(stream)
    kind = _expect(stream, "<Triples>", "<Tuples>")
    pdfs = [-1]
    for _ in range(stream.integer()):
        phone, state, forward = stream.integer(), stream.integer(), stream.integer()
        loop = stream.integer() if kind == "<Tuples>" else forward
        if phone not in topology or not 0 <= state < len(topology[phone]):
            raise _Malformed(f"phone {phone} has no HMM state {state} in the topology")
        pdfs += [loop if target == state else forward for target in topology[phone][state]]
    _expect(stream, kind.replace("<", "</"))
    if len(pdfs) == 1:
        raise _Malformed("it has no transitions")
    return np.array(pdfs, np.int32)


def _read_binary_topology(stream: _Binary) -> Topology:
    phones, entry_of = stream.integers(), stream.integers()
    count = stream.integer()
    separate_loops = count == -1  # a topology whose self-loops have pdfs of their own says so first
    if separate_loops:
        count = stream.integer()
    entries = []
    for _ in range(count):
        entry = []
        for _ in range(stream.integer()):
            for _ in range(2 if separate_loops else 1):
                stream.integer()  # pdf class
            entry.append([(stream.integer(), stream.real())[0] for _ in range(stream.integer())])
        entries.append(entry)
    _expect(stream, "</Topology>")
    return {phone: entries[entry_of[phone]] for phone in phones}


def _read_text_topology(stream: _Text) -> Topology:
    topology: Topology = {}
    while _expect(stream, "<TopologyEntry>", "</Topology>") == "<TopologyEntry>":
        _expect(stream, "<ForPhones>")
        phones = []
        while (word := stream.token()) != "</ForPhones>":
            phones.append(int(word))
        entry: list[list[int]] = []
        while _expect(stream, "<State>", "</TopologyEntry>") == "<State>":
            stream.integer()
            entry.append([])
            while (word := stream.token()) != "</State>":
                if word == "<Transition>":
                    entry[-1].append(stream.integer())
                    stream.real()
                else:  # <PdfClass>, or <ForwardPdfClass> and <SelfLoopPdfClass>
                    stream.integer()
        topology |= dict.fromkeys(phones, entry)
    return topology


def _expect(stream: _Binary | _Text, *tokens: str) -> str:
    found = stream.token()
    if found not in tokens:
        raise _Malformed(f"expected {' or '.join(tokens)}, found {found!r}")
    return found
