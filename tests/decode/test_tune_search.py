"""The search for scale, penalty and beam on surfaces whose best setting is known."""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from asr_kd.decode.search import SearchOptions
from asr_kd.decode.tune_search import (
    BEAMS,
    FINE_PENALTIES,
    FINE_SCALES,
    MORE_ROUNDS,
    ROUNDS,
    SMOOTHING,
    STARTS,
    Evaluate,
    Point,
    Setting,
    Tuning,
    _grid,
    _smoothed,
    choose,
)
from tests.decode.first_tune_search import Errors, first_choose

WORDS = 10_000
START = SearchOptions(acoustic_scale=0.1, word_penalty=0.0, beam=13.0, max_active=7000)


def surface(errors: Callable[[SearchOptions], int], decoded: list[SearchOptions] | None = None) -> Evaluate:
    """Point by point what ``errors`` says; ``decoded`` gets one entry for each pass over the development set."""

    def evaluate(search: SearchOptions, grid: list[Setting]) -> tuple[Point, ...]:
        if decoded is not None:
            decoded.append(search)
        options = [dataclasses.replace(search, acoustic_scale=scale, word_penalty=term) for scale, term in grid]
        return tuple(Point(*at, search.beam, errors(o), WORDS) for at, o in zip(grid, options, strict=True))

    return evaluate


def valley(scale: float, penalty: float, beam: float = 8.0) -> Callable[[SearchOptions], int]:
    """Errors that grow with the distance from the best setting; a beam below ``beam`` costs 0.5 points a unit."""

    def errors(search: SearchOptions) -> int:
        octaves = np.log2(search.acoustic_scale / scale)
        lost = 50 * max(0.0, beam - search.beam)
        return round(500 + 40 * octaves**2 + 12 * (search.word_penalty - penalty) ** 2 + lost)

    return errors


def chosen(tuning: Tuning) -> tuple[float, float, float]:
    return tuning.best.acoustic_scale, tuning.best.word_penalty, tuning.best.beam


def _points(errors: Callable[[float, float], int]) -> list[Point]:
    grid = _grid(START, FINE_SCALES, FINE_PENALTIES)
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
    assert SMOOTHING.sum() == pytest.approx(1)


@pytest.mark.parametrize("penalty", [-20.0, -12.0, -7.0, -5.5, 5.5, 6.25, 7.0, 8.75, 10.0, 12.0, 15.0, 20.0])
def test_a_penalty_beyond_the_first_rounds_is_found(penalty: float) -> None:
    decoded: list[SearchOptions] = []
    tuning = choose(START, surface(valley(0.15, penalty), decoded))
    assert tuning.best.word_penalty == pytest.approx(penalty, abs=0.25)
    assert tuning.best.acoustic_scale == pytest.approx(0.15, rel=0.1)
    assert tuning.at_edge == ()
    assert len(tuning.rounds) <= ROUNDS + MORE_ROUNDS


@pytest.mark.parametrize("factor", [1 / 60, 1 / 30, 1 / 8, 30.0, 100.0, 300.0])
def test_a_scale_far_from_the_start_is_found(factor: float) -> None:
    tuning = choose(START, surface(valley(0.1 * factor, 0.0)))
    assert tuning.best.acoustic_scale == pytest.approx(0.1 * factor, rel=0.1)
    assert tuning.at_edge == ()


def test_a_scale_too_small_for_five_decimals_stays_above_zero() -> None:
    start = dataclasses.replace(START, acoustic_scale=2e-5)
    tuning = choose(start, surface(valley(1e-6, 0.0)))
    assert tuning.best.acoustic_scale == pytest.approx(1e-6, rel=0.1)


def test_a_scale_and_a_penalty_that_are_both_far_away_are_found() -> None:
    tuning = choose(START, surface(valley(3.0, 12.0)))
    assert chosen(tuning)[:2] == (pytest.approx(3.0, rel=0.1), pytest.approx(12.0, abs=0.25))
    assert tuning.at_edge == ()


@pytest.mark.parametrize(("needed", "beam"), [(24.0, 24.0), (30.0, 31.0), (31.0, 31.0), (38.0, 40.0)])
def test_a_beam_beyond_24_is_tried_while_it_helps(needed: float, beam: float) -> None:
    tuning = choose(START, surface(valley(0.1, 0.0, needed)))
    assert tuning.best.beam == beam
    assert tuning.at_edge == (("beam",) if beam == 40 else ())  # 41 could be better still


def test_what_still_improves_when_the_search_ends_is_named() -> None:
    runaway = choose(START, surface(lambda search: round(5000 - 10 * search.word_penalty)))
    assert runaway.at_edge == ("word_penalty",)
    assert runaway.best.word_penalty > 30
    scales = choose(START, surface(lambda search: round(5000 - 100 * np.log2(search.acoustic_scale))))
    assert scales.at_edge == ("acoustic_scale",)


def test_max_active_that_binds_is_named_and_not_changed() -> None:
    tuning = choose(START, surface(lambda search: 500 if search.max_active > 7000 else 600))
    assert (tuning.at_edge, tuning.limited, tuning.remark) == ((), True, ", limited by max_active")
    assert (tuning.best.errors, tuning.more_active.errors) == (600, 500)
    slack = choose(START, surface(lambda search: 590 if search.max_active > 7000 else 600))
    assert (slack.limited, slack.remark) == (False, "")  # 0.1 points are within what a faster search may cost


@pytest.mark.parametrize("errors", [0, 700])
def test_a_flat_surface_moves_nothing_but_the_beam(errors: int) -> None:
    decoded: list[SearchOptions] = []
    tuning = choose(START, surface(lambda search: errors, decoded))
    assert chosen(tuning) == (0.1, 0.0, BEAMS[-1])
    assert len(tuning.rounds) == 2
    assert tuning.at_edge == ()


@pytest.mark.parametrize("brink", [1.0, 4.0, 6.0, 9.0, 13.0])
def test_on_a_plateau_the_penalty_stays_near_its_brink(brink: float) -> None:
    tuning = choose(START, surface(lambda search: round(300 + 40 * max(0.0, brink - search.word_penalty))))
    assert brink - 0.25 <= tuning.best.word_penalty <= brink + 4.5
    assert tuning.at_edge == ()


def test_the_search_costs_at_most_twice_the_first_one() -> None:
    worst: list[SearchOptions] = []
    choose(START, surface(lambda search: round(5000 - 10 * search.word_penalty - 50 * search.beam), worst))
    first = len(STARTS) + ROUNDS + 1 + 3  # rounds, the last centre, beams 14, 18 and 20
    assert len(worst) <= 2 * first
    settled: list[SearchOptions] = []
    choose(START, surface(valley(0.15, 1.0), settled))
    assert len(settled) <= len(STARTS) + ROUNDS + 1 + 4 + 1


def _rough(seed: int) -> Errors:
    """A noisy valley with a random bottom, slope and need of a beam."""
    random = np.random.default_rng(seed)
    middle, penalty, beam = random.uniform(-2.5, 2.5), random.uniform(-4.5, 4.5), random.uniform(5, 24)
    steep, noise = random.uniform(5, 60, 2), random.choice([0, 1, 5, 30])

    def errors(scale: float, term: float, width: float) -> int:
        jitter = zlib.crc32(repr((seed, scale, term)).encode()) % (2 * noise + 1)
        octaves = np.log2(scale / 0.1) - middle
        return int(500 + steep[0] * octaves**2 + steep[1] * (term - penalty) ** 2 / 4 + jitter) + int(
            30 * max(0.0, beam - width)
        )

    return errors


def test_where_the_first_search_settled_inside_its_range_the_choice_is_the_same() -> None:
    same = 0
    for seed in range(300):
        errors = _rough(seed)
        first = first_choose(START, errors, WORDS)
        if not first.settled or first.beam == 24:
            continue

        def at(search: SearchOptions, errors: Errors = errors) -> int:
            return errors(search.acoustic_scale, search.word_penalty, search.beam)

        tuning = choose(START, surface(at))
        assert chosen(tuning) == (first.acoustic_scale, first.word_penalty, first.beam)
        assert tuning.at_edge == ()
        same += 1
    assert same > 100
