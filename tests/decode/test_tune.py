from typing import Any

import numpy as np
import pytest

from asr_kd.decode import tune
from asr_kd.decode.search import SearchOptions
from asr_kd.decode.tune import FINE_PENALTIES, FINE_SCALES, Point, _grid, _smoothed


def _points(errors: Any) -> list[Point]:
    grid = _grid(SearchOptions(acoustic_scale=0.1, word_penalty=0.0), FINE_SCALES, FINE_PENALTIES)
    steps = [(round(8 * np.log2(scale / 0.1)) / 8, penalty) for scale, penalty in grid]  # the grid's scales are rounded
    return [Point(*setting, 24.0, errors(*step), 1000) for setting, step in zip(grid, steps, strict=True)]


def test_smoothing_keeps_the_bottom_of_a_valley() -> None:
    points = _points(lambda scale, penalty: round(1000 * ((scale - 0.125) ** 2 + (penalty + 0.25) ** 2)))
    best = points[int(np.argmin(_smoothed(points)))]
    assert best.acoustic_scale == pytest.approx(0.1 * 2**0.125, rel=1e-3)
    assert best.word_penalty == -0.25


def test_smoothing_passes_over_a_lucky_setting_beside_bad_ones() -> None:
    def errors(scale: float, penalty: float) -> int:
        lucky = scale == -0.25 and penalty == 0.75
        return 95 if lucky else 100 if scale > 0 else 120

    points = _points(errors)
    assert min(points, key=lambda point: point.errors).word_penalty == 0.75
    assert points[int(np.argmin(_smoothed(points)))].acoustic_scale > 0.1


def test_smoothed_is_the_weighted_mean_of_neighbours_whatever_the_order() -> None:
    points = _points(lambda scale, penalty: int(scale == 0 and penalty == 0) * 81)
    smoothed = dict(zip(((p.acoustic_scale, p.word_penalty) for p in points), _smoothed(points), strict=True))
    assert [smoothed[0.1, penalty] for penalty in (0.0, 0.25, 0.5, 0.75)] == [9, 6, 3, 0]
    assert smoothed == dict(
        zip(((p.acoustic_scale, p.word_penalty) for p in points[::-1]), _smoothed(points[::-1]), strict=True)
    )
    assert tune.SMOOTHING.sum() == pytest.approx(1)
