"""Decoding graphs from Kaldi: transition-ids become tied states."""

import re
from pathlib import Path

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.files import read_lines, read_text, write_text
from asr_kd.graph.compile import GRAPH, INFO, WORDS
from asr_kd.graph.fst import Fst
from asr_kd.limits import WORD_ID

_ID = re.compile(r"[0-9]{1,18}")


def import_graph(graph: str | Path, words: str | Path, out: str | Path, transitions: np.ndarray | None = None) -> Fst:
    """Write the folder ``out`` with Kaldi's ``HCLG.fst`` and ``words.txt``; its input labels become state + 1.

    ``transitions`` ``[transition-ids + 1]`` (``asr_kd.hmm.kaldi_transitions.read_transitions``) is the pdf of each
    transition-id; without it, the labels are pdf-ids + 1 already. Costs stay unchanged.
    Raises ``UserError`` for a graph that is damaged or empty, and for labels that the transitions or ``words`` lack.
    """
    fst = Fst.read(graph)
    highest = _highest_id(words)
    limit = None if transitions is None else len(transitions) - 1
    fst.check(graph, max_ilabel=limit, max_olabel=highest)
    if transitions is not None:
        labels = np.where(fst.ilabel > 0, transitions[fst.ilabel] + 1, 0)
        fst = Fst.from_arcs(fst.start, fst.final, fst.source, labels, fst.olabel, fst.weight, fst.nextstate)
    (Path(out) / INFO).unlink(missing_ok=True)
    write_text(Path(out) / WORDS, read_text(words))
    fst.write(Path(out) / GRAPH)
    return fst


def _highest_id(path: str | Path) -> int:
    """The highest id of ``words.txt``; ``UserError`` by line for anything but a word and a unique id."""
    ids: set[int] = set()
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not _ID.fullmatch(fields[1]):
            raise UserError(f"{path}:{number}: expected WORD ID, found {shown(line)}")
        index = int(fields[1])
        if index > WORD_ID:
            raise UserError(
                f"{path}:{number}: the id of {fields[0]!r} is {index:,}; ids above {WORD_ID:,} are not supported"
            )
        if index in ids:
            raise UserError(f"{path}:{number}: {fields[0]!r} has the id {index} of another word")
        ids.add(index)
    if not ids:
        raise UserError(f"{path}: empty; expected lines of WORD ID")
    return max(ids)
