"""The map from Kaldi's transition-ids to pdfs: from a model (``final.mdl``) or a table."""

import re
import struct
from pathlib import Path

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import open_regular, read_lines
from asr_kd.limits import STATES, TRANSITION_BYTES, TRANSITION_IDS

Topology = dict[int, list[list[int]]]  # of each phone, for each HMM state, where its transitions lead

_WHOLE = re.compile(r"[0-9]{1,9}")
_SIGNED = re.compile(rb"-?[0-9]{1,9}")


def read_transitions(path: str | Path) -> np.ndarray:
    """The pdf of each transition-id, ``[transition-ids + 1]`` int32; entry 0 is -1, as transition-ids begin at 1.

    ``path`` is a Kaldi model, binary or text, which begins with its TransitionModel (the rest is not read), or a
    text file of lines ``TRANSITION-ID PDF``. Raises ``UserError`` for any other content.
    """
    with open_regular(path) as stream:
        content = stream.read(TRANSITION_BYTES)
    binary = content[:2] == b"\0B"
    if not binary and not content.lstrip().startswith(b"<TransitionModel>"):
        return _read_table(path)
    try:
        pdfs = _read_model(_Binary(content[2:]) if binary else _Text(content))
    except (_Malformed, StopIteration, IndexError, ValueError, struct.error) as error:
        raise UserError(f"{path}: not a complete Kaldi transition model: {error or 'it ends too early'}") from None
    return np.array(pdfs, np.int32)


def _read_table(path: str | Path) -> np.ndarray:
    pdfs: dict[int, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not all(map(_WHOLE.fullmatch, fields)) or int(fields[0]) in pdfs:
            raise UserError(f"{path}:{number}: expected TRANSITION-ID PDF, each id once; found {shown(line)}")
        pdfs[int(fields[0])] = int(fields[1])
        if int(fields[1]) >= STATES:
            raise UserError(f"{path}:{number}: pdf {fields[1]}; at most {STATES:,} are possible")
    pdfs.pop(0, None)
    if not pdfs or max(pdfs) != len(pdfs):
        raise UserError(f"{path}: {len(pdfs)} transition-ids; expected all numbers from 1 on, without a gap")
    return np.array([-1, *(pdfs[id] for id in range(1, len(pdfs) + 1))], np.int32)


class _Malformed(Exception):
    """The content is not what the format has at this place."""


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
    """Kaldi's text form: tokens and numbers with white space between them."""

    binary = False

    def __init__(self, content: bytes) -> None:
        self.words = (match[0] for match in re.finditer(rb"\S+", content))

    def token(self) -> str:
        return next(self.words).decode("latin-1")

    def integer(self) -> int:
        word = next(self.words)
        if not _SIGNED.fullmatch(word):
            raise _Malformed(f"expected a whole number, found {shown(word.decode('latin-1'))}")
        return int(word)

    def real(self) -> float:
        return float(next(self.words))


def _read_model(stream: _Binary | _Text) -> list[int]:
    """The pdf of each transition-id: ``TransitionModel::Read`` and ``ComputeDerived`` (src/hmm/transition-model.cc)."""
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
        if not (0 <= forward < STATES and 0 <= loop < STATES):
            raise _Malformed(f"state {state} of phone {phone} has the pdfs {forward} and {loop}")
        pdfs += [loop if target == state else forward for target in topology[phone][state]]
        if len(pdfs) > TRANSITION_IDS:
            raise _Malformed(f"it has more than {TRANSITION_IDS:,} transitions")
    _expect(stream, kind.replace("<", "</"))
    if len(pdfs) == 1:
        raise _Malformed("it has no transitions")
    return pdfs


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
    if any(not 0 <= phone < len(entry_of) or not 0 <= entry_of[phone] < len(entries) for phone in phones):
        raise _Malformed("a phone has no entry in the topology")
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
        raise _Malformed(f"expected {' or '.join(tokens)}, found {shown(found)}")
    return found
