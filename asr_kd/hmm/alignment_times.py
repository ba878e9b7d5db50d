"""When words and phones begin and end in stored alignments, and the CTM files that say so."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from asr_kd.corpus.datadir import DataDir
from asr_kd.errors import UserError
from asr_kd.features.config import FRAME_CENTRE_OFFSET, FRAME_SHIFT
from asr_kd.files import atomic_write
from asr_kd.frames import FrameStore
from asr_kd.hmm.align import Aligner, Alignment, Segment
from asr_kd.hmm.graphs import build_graphs
from asr_kd.hmm.lexicon import Lexicon
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.training_data import known_words
from asr_kd.progress import progress

_ELSEWHERE = -1e4  # the log-likelihood of a state in a frame that the stored alignment gives to another state
_BATCH = 1000  # utterances whose graphs are held at once


def read_alignments(
    store: FrameStore, datadir: DataDir, space: StateSpace, lexicon: Lexicon
) -> Iterator[tuple[str, Alignment]]:
    """The words and phones in time of each utterance that is both in ``store`` (of ``hmm align``) and in ``datadir``.

    They are found by a search for the path through the utterance's words that has the stored states. Where several
    paths have them, it is the most probable one by the lexicon and the self-loops. Raises ``UserError`` where no path
    has the states: they are from another model, lexicon or transcript.
    """
    if store.kind != "states" or set(store.tensors) != {"state"}:
        raise UserError(f"{store.path}: holds {store.kind}; expected states (see asr-kd hmm align)")
    ids = [utt for utt in datadir.utterances if utt in store]
    if not ids:
        raise UserError(f"{store.path}: has none of the utterances of {datadir.path}")
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        words = [known_words(datadir.words(utt), lexicon) for utt in batch]
        aligner = Aligner(space, build_graphs(space, lexicon, words))
        for number, utt in enumerate(batch):
            yield utt, _alignment(aligner, number, store, utt, words[number])


def _alignment(aligner: Aligner, number: int, store: FrameStore, utt: str, words: Sequence[str]) -> Alignment:
    states = store.read(utt)["state"]
    scores = np.where(states[:, None] == aligner.states(number), np.float32(0), np.float32(_ELSEWHERE))
    with contextlib.suppress(UserError):  # fewer frames than the words need
        path, score = aligner.best_path(number, scores)
        if np.array_equal(aligner.node_states[path], states):
            return aligner.alignment(path, words, score)
    raise UserError(
        f"{store.path}: the states of {utt} are not those of its words; use the model, lexicon and text of the"
        " alignment"
    )


def write_ctm(
    alignments: Iterator[tuple[str, Alignment]], count: int, words: str | Path | None, phones: str | Path | None
) -> None:
    """Write the CTM files ``words`` and ``phones`` (None: not written) of ``count`` alignments.

    A line is ``UTTERANCE 1 BEGIN DURATION LABEL``, in seconds from the beginning of the utterance. Silences between
    words have lines among the phones only.
    """
    with contextlib.ExitStack() as stack:
        of_words, of_phones = (stack.enter_context(atomic_write(path)) if path else None for path in (words, phones))
        for utt, alignment in progress(alignments, count, "writing times"):
            for stream, segments in ((of_words, alignment.words), (of_phones, alignment.phones)):
                if stream:
                    stream.writelines(_line(utt, segment) for segment in segments)


def _line(utt: str, segment: Segment) -> str:
    begin = segment.start * FRAME_SHIFT + FRAME_CENTRE_OFFSET
    return f"{utt} 1 {begin:.2f} {(segment.end - segment.start) * FRAME_SHIFT:.2f} {segment.label}\n"
