from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_kd.corpus.datadir import read_data_dir
from asr_kd.decode import tune
from asr_kd.decode.model_folder import Model, load_model_folder
from asr_kd.decode.search import SearchOptions
from asr_kd.decode.sources import datadir_sources
from asr_kd.decode.tune import FINE_PENALTIES, FINE_SCALES, Point, _grid, _smoothed
from tests.killing import Killed, killed_at


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


@pytest.mark.parametrize("name", ["write_text", "save_config"])
def test_tuning_that_was_killed_leaves_a_model_that_works_and_the_rerun_tunes_it(
    model: Model, datadir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_data_dir(datadir)
    sources = datadir_sources(data, model.config.features)
    with monkeypatch.context() as patch:
        patch.setattr(tune, name, killed_at(getattr(tune, name), 1))
        with pytest.raises(Killed):
            tune.tune(model, sources, data.text, "dev")
    assert load_model_folder(model.path).config == model.config
    best = tune.tune(model, sources, data.text, "dev").best
    assert load_model_folder(model.path).config.search.word_penalty == best.word_penalty
