"""Decoding of many sources: by several processes, with progress, and resumed from a journal."""

import dataclasses
from collections.abc import Generator, Iterator, Sequence

from asr_kd.decode.journal import Journal
from asr_kd.decode.model_folder import Model, load_model_folder
from asr_kd.decode.recognise import Hypothesis, OutputOptions, Recogniser, Result
from asr_kd.decode.search import SearchOptions
from asr_kd.decode.sources import Source
from asr_kd.parallel import workers
from asr_kd.progress import Progress


@dataclasses.dataclass(frozen=True)
class Session:
    """A model with the search and output options of one run, for ``jobs`` processes that share the mapped graph."""

    model: Model
    search: SearchOptions
    outputs: OutputOptions = dataclasses.field(default_factory=OutputOptions)
    jobs: int = 1

    def decode(self, sources: Sequence[Source], journal: Journal | None = None) -> Generator[Result, None, None]:
        """The results of every source: first those in the ``journal``, then the others as they complete."""
        waiting = list(sources)
        prints: list[str] = []
        if journal is not None:
            waiting = []
            for source in sources:
                inputs = source.fingerprint()
                found = journal.find(inputs)
                if found is None:
                    waiting.append(source)
                    prints.append(inputs)
                else:
                    yield from found
        meter = _Meter(sum(len(source.names) for source in waiting))
        with meter.bar:
            for index, results in self._run(waiting, meter):
                if journal is not None:
                    journal.append(prints[index], results)
                meter.count(results, self.jobs > 1)
                yield from results

    def _run(self, sources: Sequence[Source], meter: "_Meter") -> Iterator[tuple[int, list[Result]]]:
        """The number and results of each source as it completes."""
        if self.jobs > 1 and len(sources) > 1:
            arguments = (str(self.model.path), self.model.scorer.device, self.search, self.outputs)
            with workers(min(self.jobs, len(sources)), _start, arguments) as pool:
                yield from pool.completed(_recognise, sources)
            return
        import torch

        torch.set_num_threads(1)
        recogniser = Recogniser(self.model, self.search, self.outputs, meter.advance)
        for index, source in enumerate(sources):
            yield index, list(recogniser.recognise(source))


class _Meter:
    """Progress in utterances, with the seconds of audio decoded and the real-time factor."""

    def __init__(self, utterances: int) -> None:
        self.bar = Progress(utterances, "decoding")
        self._audio = self._cpu = 0.0

    def advance(self, audio: float, cpu: float, utterances: int = 0) -> None:
        self._audio += audio
        self._cpu += cpu
        if self._audio:
            self.bar.note = f"{self._audio:,.0f} s of audio, real-time factor {self._cpu / self._audio:.4f}"
        self.bar.advance(utterances)

    def count(self, results: Sequence[Result], elsewhere: bool) -> None:
        """Count the utterances of a source, and their audio unless ``advance`` has counted it."""
        for result in results:
            if elsewhere and isinstance(result, Hypothesis):
                self.advance(result.seconds, result.cpu, 1)
            else:
                self.advance(0, 0, 1)


_recogniser: Recogniser | None = None


def _start(model: str, device: str, search: SearchOptions, outputs: OutputOptions) -> None:
    global _recogniser
    _recogniser = Recogniser(load_model_folder(model, verify=False, device=device), search, outputs)


def _recognise(source: Source) -> list[Result]:
    assert _recogniser is not None, "_start runs first in every process"
    return list(_recogniser.recognise(source))
