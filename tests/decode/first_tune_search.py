"""The tuner's search as it was first published: four rounds, beams up to 24.

Where it settled inside its range, its successor must choose the same setting, so that published rows keep their values.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.ndimage

from asr_kd.decode.search import SearchOptions

Errors = Callable[[float, float, float], int]  # of scale, penalty, beam

COARSE_SCALES = [2.0**step for step in np.arange(-2, 2.01, 0.5).tolist()]
FINE_SCALES = [2.0**step for step in np.arange(-0.375, 0.376, 0.125).tolist()]
COARSE_PENALTIES = np.arange(-3.0, 3.01, 0.5).tolist()
FINE_PENALTIES = np.arange(-0.75, 0.76, 0.25).tolist()
BEAMS = (20.0, 18.0, 16.5, 15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What was chosen, and whether the search settled before its rounds ran out."""

    acoustic_scale: float
    word_penalty: float
    beam: float
    settled: bool


def first_choose(search: SearchOptions, errors: Errors, words: int) -> Chosen:
    """The setting that the first version chose on the surface ``errors``."""
    scale = min(
        (search.acoustic_scale * factor for factor in (1.0, 4.0, 0.25, 16.0)),
        key=lambda scale: errors(scale, search.word_penalty, search.beam),
    )
    penalty, settled = search.word_penalty, False
    for number in range(4):
        grid = _grid(scale, penalty, *((FINE_SCALES, FINE_PENALTIES) if number else (COARSE_SCALES, COARSE_PENALTIES)))
        best = grid[int(np.argmin(_smoothed(grid, [errors(*setting, 24.0) for setting in grid])))]
        if number and best == grid[0]:
            settled = True
            break
        scale, penalty = best
    widest, beam = errors(scale, penalty, 24.0), 24.0
    below, above = -1, len(BEAMS)
    while above - below > 1:
        middle = (below + above) // 2
        if 100 * errors(scale, penalty, BEAMS[middle]) / words <= 100 * widest / words + 0.2:
            beam, below = BEAMS[middle], middle
        else:
            above = middle
    return Chosen(scale, penalty, beam, settled)


def _grid(scale: float, penalty: float, scales: list[float], penalties: list[float]) -> list[tuple[float, float]]:
    steps = [(factor, term) for factor in scales for term in penalties]
    steps.sort(key=lambda step: (abs(np.log2(step[0])) * 4 + abs(step[1]) * 2, step))
    return [(round(scale * factor, 5), round(penalty + term, 4)) for factor, term in steps]


def _smoothed(grid: list[tuple[float, float]], errors: list[int]) -> np.ndarray:
    scales, rows = np.unique([scale for scale, _ in grid], return_inverse=True)
    penalties, columns = np.unique([penalty for _, penalty in grid], return_inverse=True)
    table = np.zeros((len(scales), len(penalties)))
    table[rows, columns] = errors
    for axis in (0, 1):
        table = scipy.ndimage.correlate1d(table, np.array([1, 2, 3, 2, 1]) / 9, axis, mode="nearest")
    return table[rows, columns].round(6)
