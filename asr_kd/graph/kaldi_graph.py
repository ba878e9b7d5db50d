"""Decoding graphs from Kaldi: transition-ids become tied states."""

from pathlib import Path

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import read_lines, read_text, write_text
from asr_kd.graph.compile import GRAPH, INFO, WORDS
from asr_kd.graph.fst import Fst


def import_graph(graph: str | Path, words: str | Path, out: str | Path, transitions: np.ndarray | None = None) -> Fst:
    """Write the folder ``out`` with Kaldi's ``HCLG.fst`` and ``words.txt``, input labels made state + 1.

    ``transitions`` ``[transition-ids + 1]`` (``asr_kd.hmm.kaldi_transitions.read_transitions``) is the pdf of each
    transition-id; without it, the labels are pdf-ids + 1 already. Costs stay as they are.
    Raises ``UserError`` for a graph that is damaged or empty, and for labels that the transitions or ``words`` lack.
    """
    fst = Fst.read(graph)
    highest = max(_read_ids(words))
    limit = None if transitions is None else len(transitions) - 1
    fst.check(graph, max_ilabel=limit, max_olabel=highest)
    if transitions is not None:
        labels = np.where(fst.ilabel > 0, transitions[fst.ilabel] + 1, 0)
        fst = Fst.from_arcs(fst.start, fst.final, fst.source, labels, fst.olabel, fst.weight, fst.nextstate)
    (Path(out) / INFO).unlink(missing_ok=True)
    write_text(Path(out) / WORDS, read_text(words))
    fst.write(Path(out) / GRAPH)
    return fst


def _read_ids(path: str | Path) -> list[int]:
    ids = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdigit():
            raise UserError(f"{path}:{number}: expected WORD ID, found {line!r}")
        ids.append(int(fields[1]))
    if not ids or len(set(ids)) < len(ids):
        raise UserError(f"{path}: {'two words have one id' if ids else 'empty; expected lines of WORD ID'}")
    return ids
