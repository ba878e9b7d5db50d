"""Tuning of the acoustic scale, the word penalty and the beam on a development set."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

from asr_kd.config import save_config
from asr_kd.decode.model_folder import CONFIG, TUNING, Model, load_model_folder, read_model_config
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.decode.sources import Source
from asr_kd.errors import UserError
from asr_kd.files import write_text
from asr_kd.parallel import Workers

LATTICE_BEAM = 10.0
STARTS = (1.0, 4.0, 0.25, 16.0)  # times the present scale; the coarse round reaches from one to the next
COARSE_SCALES = tuple(2.0**step for step in np.arange(-2, 2.01, 0.5).tolist())  # times the present scale
FINE_SCALES = tuple(2.0**step for step in np.arange(-0.375, 0.376, 0.125).tolist())
COARSE_PENALTIES = tuple(np.arange(-3.0, 3.01, 0.5).tolist())  # plus the present penalty
FINE_PENALTIES = tuple(np.arange(-0.75, 0.76, 0.25).tolist())
SMOOTHING = np.array([1, 2, 3, 2, 1]) / 9  # weights of neighbouring settings
ROUNDS = 4  # coarse, then fine until nothing moves
WIDEST = 24.0  # the beam while scale and penalty are chosen: a good beam grows with the scale
BEAMS = (20.0, 18.0, 16.5, 15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0)
TOLERATED = 0.2  # points of WER that a narrower, faster beam may cost


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting and the word errors it makes on the development set."""

    acoustic_scale: float
    word_penalty: float
    beam: float
    errors: int
    words: int

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100 * self.errors / self.words


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The setting chosen, every round's grid, of which the first point is searched in full, the beams tried, and the
    scales of which the best was the first round's centre."""

    best: Point
    rounds: tuple[tuple[Point, ...], ...]
    beams: tuple[Point, ...]
    starts: tuple[Point, ...]


def tune(
    model: Model, sources: Sequence[Source], references: Mapping[str, Sequence[str]], tuned_on: str, jobs: int = 1
) -> Tuning:
    """Choose acoustic scale and word penalty by word errors, then the narrowest beam that hardly adds any.

    They are stored in the model folder, with ``tune.json``. The rounds start at the best of ``STARTS``, since the
    lattices of a bad scale hold no good words. Each round decodes once, at the best setting so far, and rescores the
    lattices at a grid around it: coarse first, then fine, until the centre stays the best: the setting with the fewest
    errors averaged over those around it. Ties go to the setting nearest the centre, then the smaller numbers, so the
    result is the same every time. Raises ``UserError`` for an utterance that cannot be decoded or has no words.
    """
    names = [name for source in sources for name in source.names]
    if missing := [name for name in names if not references.get(name)]:
        raise UserError(f"no words of {missing[0]!r} to tune on ({len(missing)} of {len(names)} utterances have none)")
    with Workers(jobs, _start, (str(model.path), dict(references))) as workers:
        tuning = _choose(model.config.search, _Dev(workers, sources, sum(len(references[name]) for name in names)))
    _store(model.path, tuning, tuned_on)
    return tuning


@dataclasses.dataclass(frozen=True)
class _Dev:
    """The development set, spread over processes."""

    workers: Workers
    sources: Sequence[Source]
    words: int

    def evaluate(self, search: SearchOptions, grid: list[tuple[float, float]]) -> tuple[Point, ...]:
        """Search once with ``search``; the word errors of the lattices at each scale and penalty of ``grid``."""
        errors = np.zeros(len(grid), np.int64)
        for part in self.workers.map(_rescore, [(source, search, grid) for source in self.sources]):
            errors += part
        return tuple(
            Point(*setting, search.beam, int(count), self.words) for setting, count in zip(grid, errors, strict=True)
        )

    def at(self, search: SearchOptions) -> Point:
        """The word errors of ``search`` itself."""
        return self.evaluate(search, [(search.acoustic_scale, search.word_penalty)])[0]


def _choose(search: SearchOptions, dev: _Dev) -> Tuning:
    starts = [dev.at(dataclasses.replace(search, acoustic_scale=search.acoustic_scale * factor)) for factor in STARTS]
    search = dataclasses.replace(search, acoustic_scale=min(starts, key=lambda point: point.errors).acoustic_scale)
    search = dataclasses.replace(search, beam=WIDEST, lattice_beam=LATTICE_BEAM)
    rounds: list[tuple[Point, ...]] = []
    for number in range(ROUNDS):
        scales, penalties = (FINE_SCALES, FINE_PENALTIES) if number else (COARSE_SCALES, COARSE_PENALTIES)
        rounds.append(dev.evaluate(search, _grid(search, scales, penalties)))
        best = rounds[-1][int(np.argmin(_smoothed(rounds[-1])))]  # the first of equals: the nearest to the centre
        if number and best is rounds[-1][0]:
            break
        search = dataclasses.replace(search, acoustic_scale=best.acoustic_scale, word_penalty=best.word_penalty)
    beams = _beams(search, dev, rounds[-1][0])
    return Tuning(beams[-1], tuple(rounds), beams, tuple(starts))


def _beams(search: SearchOptions, dev: _Dev, last: Point) -> tuple[Point, ...]:
    """The beams tried that cost no more than is tolerated, widest first, found by halving the list of ``BEAMS``."""
    centre = (search.acoustic_scale, search.word_penalty)
    searched = (last.acoustic_scale, last.word_penalty) == centre
    widest = last if searched else dev.at(search)
    good, below, above = [widest], -1, len(BEAMS)  # BEAMS[below] is good, BEAMS[above] is not
    while above - below > 1:
        middle = (below + above) // 2
        point = dev.at(dataclasses.replace(search, beam=BEAMS[middle]))
        if point.wer <= widest.wer + TOLERATED:
            good.append(point)
            below = middle
        else:
            above = middle
    return tuple(good)


def _smoothed(points: Sequence[Point]) -> np.ndarray:
    """Word errors ``[points]`` of a full grid, each averaged with those of the settings around it.

    The fewest errors of a noisy surface are mostly luck, which does not carry over to another set; the middle of a
    valley does.
    """
    scales, rows = np.unique([point.acoustic_scale for point in points], return_inverse=True)
    penalties, columns = np.unique([point.word_penalty for point in points], return_inverse=True)
    errors = np.zeros((len(scales), len(penalties)))
    errors[rows, columns] = [point.errors for point in points]
    for axis in (0, 1):
        errors = scipy.ndimage.correlate1d(errors, SMOOTHING, axis, mode="nearest")
    return errors[rows, columns].round(6)


def _grid(search: SearchOptions, scales: Sequence[float], penalties: Sequence[float]) -> list[tuple[float, float]]:
    """Settings around the present one, nearest first."""
    steps = [(factor, term) for factor in scales for term in penalties]
    steps.sort(key=lambda step: (abs(np.log2(step[0])) * 4 + abs(step[1]) * 2, step))
    return [(round(search.acoustic_scale * factor, 5), round(search.word_penalty + term, 4)) for factor, term in steps]


@dataclasses.dataclass(frozen=True)
class _Worker:
    model: Model
    references: dict[str, Sequence[str]]

    def errors(self, name: str, features: np.ndarray, decoder: Decoder, grid: list[tuple[float, float]]) -> np.ndarray:
        """Word errors of one utterance at each setting of the grid."""
        decoder.start()
        for block in self.model.scorer.blocks(features):
            decoder.advance(block)
        decoder.path()
        lattice = decoder.lattice()
        memory: dict[tuple[int, ...], int] = {}  # most settings give the same words
        counts = []
        for scale, penalty in grid:
            rescored = lattice.rescored(scale - decoder.options.acoustic_scale, penalty - decoder.options.word_penalty)
            words = rescored.best()
            if words not in memory:
                memory[words] = _word_errors(self.references[name], [self.model.words[index] for index in words])
            counts.append(memory[words])
        return np.array(counts)


_worker: _Worker | None = None


def _start(path: str, references: dict[str, Sequence[str]]) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    _worker = _Worker(load_model_folder(path, verify=False), references)


def _rescore(task: tuple[Source, SearchOptions, list[tuple[float, float]]]) -> np.ndarray:
    assert _worker is not None, "_start runs first in every process"
    source, search, grid = task
    decoder = Decoder(_worker.model.graph, search, lattice=True)
    total = np.zeros(len(grid), np.int64)
    for name, features in source.features(_worker.model.config.features):
        if isinstance(features, UserError):
            raise features
        total += _worker.errors(name, features, decoder, grid)
    return total


def _word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    import jiwer

    output = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return output.substitutions + output.deletions + output.insertions


def _store(path: Path, tuning: Tuning, tuned_on: str) -> None:
    config = read_model_config(path)
    chosen = {name: getattr(tuning.best, name) for name in ("acoustic_scale", "word_penalty", "beam")}

    def rows(points: Sequence[Point]) -> list[dict[str, Any]]:
        return [{**dataclasses.asdict(point), "wer": round(point.wer, 3)} for point in points]

    (best,) = rows([tuning.best])
    content = {
        "tuned_on": tuned_on,
        "best": best,
        "rounds": [rows(points) for points in tuning.rounds],
        "beams": rows(tuning.beams),
        "starts": rows(tuning.starts),
    }
    write_text(path / TUNING, json.dumps(content, indent=1) + "\n")
    search = dataclasses.replace(config.search, **chosen)
    save_config(dataclasses.replace(config, search=search, tuned_on=tuned_on), path / CONFIG)
