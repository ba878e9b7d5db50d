"""Features -> words, one utterance at a time in each process."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from asr_kd.decode.model_folder import Model
from asr_kd.decode.scorer import frames_right
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.decode.sources import Rates, Source
from asr_kd.errors import UserError, counted
from asr_kd.features.config import FRAME_CENTRE_OFFSET, FRAME_LENGTH, FRAME_SHIFT
from asr_kd.frames import FrameStore


@dataclasses.dataclass(frozen=True)
class Word:
    """A word, when it begins and ends in seconds, and the probability that it was said."""

    text: str
    begin: float
    end: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """What was recognised in one utterance.

    ``cost`` is that of the best path (negative natural log, scaled); ``complete`` is false where the audio ended
    within a word; ``timed`` and ``nbest`` (distinct word sequences and costs, best first) are empty unless requested.
    ``recorded_rate`` is the sample rate of the recording, unless the features were stored.
    ``cpu`` is the computing time in seconds; ``right_frames`` counts the frames whose most probable state is correct.
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
    recorded_rate: int | None = None

    @property
    def seconds(self) -> float:
        """Length of the audio, up to the end of the last frame."""
        return (self.frames - 1) * FRAME_SHIFT + FRAME_LENGTH


@dataclasses.dataclass(frozen=True)
class DecodingFailure:
    """An utterance that could not be decoded, and why."""

    name: str
    reason: str


Result = Hypothesis | DecodingFailure


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """What to compute besides the best words: times and confidences; an n-best list; correct frames, given states."""

    timed: bool = False
    nbest: int = 0
    states: FrameStore | None = None


class Recogniser:
    """A loaded model that turns sources into hypotheses, on one thread.

    ``on_audio`` is called with the seconds of audio, and of computing, since its last call.
    """

    def __init__(
        self,
        model: Model,
        search: SearchOptions | None = None,
        outputs: OutputOptions | None = None,
        on_audio: Callable[[float, float], None] = lambda audio, cpu: None,
    ) -> None:
        self.model, self.outputs, self._on_audio = model, outputs or OutputOptions(), on_audio
        lattice = self.outputs.timed or self.outputs.nbest > 0
        self.decoder = Decoder(model.graph, search or model.config.search, lattice=lattice)

    def recognise(self, source: Source) -> Iterator[Result]:
        """The hypothesis of each of the source's utterances, or why there is none."""
        started = time.process_time()
        rates: Rates = {}
        for name, features in source.features(self.model.config.features, rates):
            try:
                if isinstance(features, UserError):
                    raise features
                yield dataclasses.replace(self._decode(name, features, started), recorded_rate=rates.get(name))
            except UserError as error:
                yield DecodingFailure(name, str(error) if name in str(error) else f"{name}: {error}")
            started = time.process_time()

    def _decode(self, name: str, features: np.ndarray, started: float) -> Hypothesis:
        if not np.isfinite(features).all():
            raise UserError(f"frame {int((~np.isfinite(features)).any(1).argmax())} of the features is NaN or infinite")
        right = self._search(features, self._reference(name, len(features)), started)
        path = self.decoder.path()
        words = self._words(path.words)
        result = Hypothesis(name, words, path.cost, path.complete, len(path.states), 0.0, right_frames=right)
        if self.outputs.timed or self.outputs.nbest:
            lattice = self.decoder.lattice()
            nbest = lattice.nbest(self.outputs.nbest) if self.outputs.nbest else []
            result = dataclasses.replace(result, nbest=tuple((self._words(ids), cost) for ids, cost in nbest))
        if self.outputs.timed:
            aligner = self.model.aligner
            spans = aligner.frames(path, words) if aligner else [(frame, frame + 1) for frame in path.frames]
            rows = zip(words, spans, lattice.confidences(path.words, path.frames), strict=True)
            timed = tuple(Word(word, _time(begin), _time(end), sure) for word, (begin, end), sure in rows)
            result = dataclasses.replace(result, timed=timed)
        return dataclasses.replace(result, cpu=time.process_time() - started)

    def _words(self, ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.model.words[index] for index in ids)

    def _search(self, features: np.ndarray, reference: np.ndarray | None, started: float) -> int | None:
        """Pass the utterance through model and search, block by block; returns the number of correct frames."""
        self.decoder.start()
        done = right = 0
        for block in self.model.scorer.blocks(features):
            self.decoder.advance(block)
            if reference is not None:
                right += frames_right(block, self.model.scorer, reference[done : done + len(block)])
            done += len(block)
            now = time.process_time()
            self._on_audio(len(block) * FRAME_SHIFT, now - started)
            started = now
        return right if reference is not None else None

    def _reference(self, name: str, frames: int) -> np.ndarray | None:
        if self.outputs.states is None or name not in self.outputs.states:
            return None  # an utterance that could not be aligned does not count towards the accuracy
        states = self.outputs.states.read(name)["state"]
        if len(states) != frames:
            raise UserError(
                f"{name}: {counted(frames, 'frame')} of features, but {len(states):,} of states in"
                f" {self.outputs.states.path}; make both from the same audio"
            )
        return states


def _time(frame: int) -> float:
    """Seconds from the beginning of the audio to the beginning of ``frame``."""
    return frame * FRAME_SHIFT + FRAME_CENTRE_OFFSET


def in_order(results: Iterable[Result], names: Iterable[str]) -> Iterator[Result]:
    """``results`` in the order of ``names``, each as soon as those before it are there; a name may come twice."""
    waiting: dict[str, list[Result]] = {}
    coming = iter(results)
    for name in names:
        while not waiting.get(name):
            result = next(coming)
            waiting.setdefault(result.name, []).append(result)
        yield waiting[name].pop(0)
