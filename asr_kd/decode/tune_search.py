"""The search for acoustic scale, word penalty and beam over a surface of word errors."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.ndimage

from asr_kd.decode.search import SearchOptions

LATTICE_BEAM = 10.0
STARTS = (1.0, 4.0, 0.25, 16.0)  # times the present scale; the coarse round reaches from one to the next
COARSE_SCALES = tuple(2.0**step for step in np.arange(-2, 2.01, 0.5).tolist())  # times the present scale
FINE_SCALES = tuple(2.0**step for step in np.arange(-0.375, 0.376, 0.125).tolist())
COARSE_PENALTIES = tuple(np.arange(-3.0, 3.01, 0.5).tolist())  # plus the present penalty
FINE_PENALTIES = tuple(np.arange(-0.75, 0.76, 0.25).tolist())
SMOOTHING = np.array([1, 2, 3, 2, 1]) / 9  # weights of neighbouring settings
ROUNDS = 4  # one coarse, then fine ones until the centre stays the best
MORE_ROUNDS = 4  # where it still moved after ROUNDS: doubling the time at most
MOST_DOUBLINGS = 2  # of the penalties' step beyond the coarse one: up to 12 in one round
WIDEST = 24.0  # the beam while scale and penalty are chosen: a good beam grows with the scale
BEAMS = (20.0, 18.0, 16.5, 15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0)
WIDER_BEAMS = (31.0, 40.0)  # tried where every narrower beam costs words
TOLERATED = 0.2  # points of WER that a narrower, faster beam may cost

Setting = tuple[float, float]  # acoustic scale, word penalty


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting and its word errors on the development set."""

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
    """The chosen setting, and how the search arrived at it.

    - ``starts``: the scales tried first; the best of them is the centre of the first round.
    - ``rounds``: every round's grid; its first point is the centre, at which the search ran.
    - ``beams``: the beams accepted, the chosen one last.
    - ``more_active``: the chosen setting with twice ``max_active``, which is not tuned.
    - ``at_edge``: which of scale, penalty and beam may have their best value outside the searched range.
    """

    best: Point
    rounds: tuple[tuple[Point, ...], ...]
    beams: tuple[Point, ...]
    starts: tuple[Point, ...]
    more_active: Point
    at_edge: tuple[str, ...]

    @property
    def limited(self) -> bool:
        """Whether ``max_active`` limits the search: twice as many tokens lower the WER by more than ``TOLERATED``."""
        return _better(self.more_active, self.best)

    @property
    def remark(self) -> str:
        """What the search left open, to be added to the name of the development set; mostly empty."""
        names = ", ".join(name.replace("_", " ") for name in self.at_edge)
        edge = f", at the edge of the searched range: {names}" if names else ""
        return edge + (", limited by max_active" if self.limited else "")


Evaluate = Callable[[SearchOptions, list[Setting]], tuple[Point, ...]]
"""Decodes the development set once and rescores its lattices at each setting: one point for each."""


def choose(search: SearchOptions, evaluate: Evaluate) -> Tuning:
    """Choose scale and penalty by rounds of grids, then the narrowest beam that costs at most ``TOLERATED``.

    The first round is coarse, the others are fine, and the search has settled once a fine round's centre is its best.
    After ``ROUNDS`` it continues for up to ``MORE_ROUNDS``: with a grid that grows while the best lies at the edge of
    everything searched so far, and with fine ones once it does not. Ties go to the setting nearest the centre, so a
    flat surface does not move it.
    """
    starts = [_at(dataclasses.replace(search, acoustic_scale=search.acoustic_scale * by), evaluate) for by in STARTS]
    search = dataclasses.replace(search, acoustic_scale=min(starts, key=lambda point: point.errors).acoustic_scale)
    search = dataclasses.replace(search, beam=WIDEST, lattice_beam=LATTICE_BEAM)
    rounds: list[tuple[Point, ...]] = []
    at_edge: tuple[str, ...] = ()
    doublings = 0
    for number in range(ROUNDS + MORE_ROUNDS):
        scales, penalties = FINE_SCALES, FINE_PENALTIES
        if number >= ROUNDS and at_edge:
            doublings = min(doublings + 1, MOST_DOUBLINGS)
            scales, penalties = COARSE_SCALES, tuple(2**doublings * term for term in COARSE_PENALTIES)
        elif not number:
            scales, penalties = COARSE_SCALES, COARSE_PENALTIES
        rounds.append(evaluate(search, _grid(search, scales, penalties)))
        best = rounds[-1][int(np.argmin(_smoothed(rounds[-1])))]  # the first of equals: the nearest to the centre
        at_edge = _edges(best, rounds)
        if scales is FINE_SCALES and best is rounds[-1][0]:
            break
        search = dataclasses.replace(search, acoustic_scale=best.acoustic_scale, word_penalty=best.word_penalty)
    beams, widest_wins = _beams(search, evaluate, rounds[-1][0])
    search = dataclasses.replace(search, beam=beams[-1].beam, max_active=2 * search.max_active)
    at_edge += ("beam",) * widest_wins
    return Tuning(beams[-1], tuple(rounds), beams, tuple(starts), _at(search, evaluate), at_edge)


def _at(search: SearchOptions, evaluate: Evaluate) -> Point:
    """The word errors of ``search`` itself."""
    return evaluate(search, [(search.acoustic_scale, search.word_penalty)])[0]


def _better(point: Point, other: Point) -> bool:
    return point.wer < other.wer - TOLERATED


def _beams(search: SearchOptions, evaluate: Evaluate, last: Point) -> tuple[tuple[Point, ...], bool]:
    """The beams accepted, the chosen one last, and whether it is the widest of all and better than the one before.

    Halving the list of ``BEAMS`` finds the narrowest that is as good as ``WIDEST``. Where none is, wider ones follow
    while they help.
    """
    settled = (last.acoustic_scale, last.word_penalty) == (search.acoustic_scale, search.word_penalty)
    widest = last if settled else _at(search, evaluate)
    good, below, above = [widest], -1, len(BEAMS)  # BEAMS[below] is good, BEAMS[above] is not
    while above - below > 1:
        middle = (below + above) // 2
        point = _at(dataclasses.replace(search, beam=BEAMS[middle]), evaluate)
        if point.wer <= widest.wer + TOLERATED:
            good.append(point)
            below = middle
        else:
            above = middle
    if below >= 0:
        return tuple(good), False
    for beam in WIDER_BEAMS:
        point = _at(dataclasses.replace(search, beam=beam), evaluate)
        if not _better(point, good[-1]):
            return tuple(good), False
        good.append(point)
    return tuple(good), True


def _edges(best: Point, rounds: Sequence[Sequence[Point]]) -> tuple[str, ...]:
    """Which of scale and penalty in ``best`` are at the edge of all settings in ``rounds``."""
    found = []
    for name in ("acoustic_scale", "word_penalty"):
        values = [getattr(point, name) for points in rounds for point in points]
        if getattr(best, name) in (min(values), max(values)):
            found.append(name)
    return tuple(found)


def _smoothed(points: Sequence[Point]) -> np.ndarray:
    """Word errors ``[points]`` of a full grid, each averaged with those of the settings around it.

    The minimum of a noisy surface is mostly luck and does not carry over to another set; the middle of a
    valley does.
    """
    scales, rows = np.unique([point.acoustic_scale for point in points], return_inverse=True)
    penalties, columns = np.unique([point.word_penalty for point in points], return_inverse=True)
    errors = np.zeros((len(scales), len(penalties)))
    errors[rows, columns] = [point.errors for point in points]
    for axis in (0, 1):
        errors = scipy.ndimage.correlate1d(errors, SMOOTHING, axis, mode="nearest")
    return errors[rows, columns].round(6)


def _grid(search: SearchOptions, scales: Sequence[float], penalties: Sequence[float]) -> list[Setting]:
    """Settings around the present one, nearest first."""
    steps = [(factor, term) for factor in scales for term in penalties]
    steps.sort(key=lambda step: (abs(np.log2(step[0])) * 4 + abs(step[1]) * 2, step))
    return [(_rounded(search.acoustic_scale * factor), round(search.word_penalty + term, 4)) for factor, term in steps]


def _rounded(scale: float) -> float:
    """Five decimals; five significant digits for what is too small to keep them."""
    return round(scale, 5) if scale >= 0.001 else float(f"{scale:.5g}")
