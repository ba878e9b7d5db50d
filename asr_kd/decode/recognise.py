"""Features -> words: one utterance at a time in a process, many processes side by side."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from asr_kd.decode.model_folder import Model, load_model_folder
from asr_kd.decode.scorer import frames_right
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.decode.sources import Source
from asr_kd.errors import UserError
from asr_kd.features.config import FRAME_SHIFT
from asr_kd.frames import FrameStore
from asr_kd.parallel import parallel_map


@dataclasses.dataclass(frozen=True)
class Word:
    """A word with its begin and end in seconds, and the probability that it was said."""

    text: str
    begin: float
    end: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """What was recognised in one utterance.

    ``cost`` is that of the best path (negative natural log, scaled); ``complete`` is false where the audio ended
    within a word; ``timed`` and ``nbest`` (distinct word sequences and costs, best first) are empty unless asked for.
    ``cpu`` is the computing time in seconds; ``right_frames`` counts the frames whose state the model found.
    """

    name: str
    words: tuple[str, ...]
    cost: float
    complete: bool
    frames: int
    cpu: float
    timed: tuple[Word, ...] = ()
    nbest: tuple[tuple[tuple[str, ...], float], ...] = ()
    right_frames: int | None = None

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.frames * FRAME_SHIFT


@dataclasses.dataclass(frozen=True)
class Bad:
    """An utterance that could not be decoded, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to find out beside the best words: times and confidences, how many n-best, frames right against a store."""

    timed: bool = False
    nbest: int = 0
    states: FrameStore | None = None


class Recogniser:
    """A loaded model that turns sources into hypotheses, on one thread."""

    def __init__(self, model: Model, search: SearchOptions | None = None, wanted: Wanted | None = None) -> None:
        self.model, self.wanted = model, wanted or Wanted()
        lattice = self.wanted.timed or self.wanted.nbest > 0
        self.decoder = Decoder(model.graph, search or model.config.search, lattice=lattice)

    def recognise(self, source: Source) -> Iterator[Hypothesis | Bad]:
        """The hypothesis of each of the source's utterances, or why there is none."""
        started = time.process_time()
        for name, features in source.features(self.model.config.features):
            try:
                if isinstance(features, UserError):
                    raise features
                yield self._decode(name, features, started)
            except UserError as error:
                yield Bad(name, str(error) if name in str(error) else f"{name}: {error}")
            started = time.process_time()

    def _decode(self, name: str, features: np.ndarray, started: float) -> Hypothesis:
        if not np.isfinite(features).all():
            raise UserError(f"frame {int((~np.isfinite(features)).any(1).argmax())} of the features is NaN or infinite")
        right = self._search(features, self._reference(name, len(features)))
        path = self.decoder.path()
        words = tuple(self.model.words[index] for index in path.words)
        result = Hypothesis(name, words, path.cost, path.complete, len(path.states), 0.0, right_frames=right)
        if self.wanted.timed or self.wanted.nbest:
            lattice = self.decoder.lattice()
            nbest = lattice.nbest(self.wanted.nbest) if self.wanted.nbest else []
            named = tuple((tuple(self.model.words[index] for index in ids), cost) for ids, cost in nbest)
            result = dataclasses.replace(result, nbest=named)
        if self.wanted.timed:
            aligner = self.model.aligner
            emitted = [(frame, frame + 1) for frame in path.frames]
            spans = aligner.frames(path, words) if aligner else emitted
            rows = zip(words, spans, lattice.confidences(path.words, path.frames), strict=True)
            timed = tuple(Word(word, begin * FRAME_SHIFT, end * FRAME_SHIFT, sure) for word, (begin, end), sure in rows)
            result = dataclasses.replace(result, timed=timed)
        return dataclasses.replace(result, cpu=time.process_time() - started)

    def _search(self, features: np.ndarray, reference: np.ndarray | None) -> int | None:
        """Pass the utterance through model and search, block by block; returns the number of right frames."""
        self.decoder.start()
        done = right = 0
        for block in self.model.scorer.blocks(features):
            self.decoder.advance(block)
            if reference is not None:
                right += frames_right(block, self.model.scorer, reference[done : done + len(block)])
            done += len(block)
        return right if reference is not None else None

    def _reference(self, name: str, frames: int) -> np.ndarray | None:
        if self.wanted.states is None or name not in self.wanted.states:
            return None  # an utterance that could not be aligned counts for no accuracy
        states = self.wanted.states.read(name)["state"]
        if len(states) != frames:
            raise UserError(
                f"{name}: {frames} frames of features, {len(states)} of states in {self.wanted.states.path}"
            )
        return states


def recognise_all(
    model: Model,
    sources: Sequence[Source],
    search: SearchOptions | None = None,
    wanted: Wanted | None = None,
    jobs: int = 1,
) -> Iterator[Hypothesis | Bad]:
    """The results of every source, in their order, computed by ``jobs`` processes that map the same graph."""
    arguments = (model if jobs <= 1 else model.path, search or model.config.search, wanted or Wanted())
    for results in parallel_map(_recognise, sources, jobs, _start, arguments):
        yield from results


def in_order(results: Iterable[Hypothesis | Bad], names: Iterable[str]) -> Iterator[Hypothesis | Bad]:
    """``results`` in the order of ``names``, each as soon as those before it are there; a name may come twice."""
    waiting: dict[str, list[Hypothesis | Bad]] = {}
    coming = iter(results)
    for name in names:
        while not waiting.get(name):
            result = next(coming)
            waiting.setdefault(result.name, []).append(result)
        yield waiting[name].pop(0)


_recogniser: Recogniser | None = None


def _start(model: Model | str, search: SearchOptions, wanted: Wanted) -> None:
    import torch

    global _recogniser
    torch.set_num_threads(1)
    opened = model if isinstance(model, Model) else load_model_folder(model, verify=False)
    _recogniser = Recogniser(opened, search, wanted)


def _recognise(source: Source) -> list[Hypothesis | Bad]:
    assert _recogniser is not None, "_start runs first in every process"
    return list(_recogniser.recognise(source))
