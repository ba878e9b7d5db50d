"""The comparison of forms against plain loops in double precision, and what it must show."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_kd.errors import UserError
from asr_kd.nets import log_posteriors, open_model
from asr_kd.targets import form_comparison as compare_module
from asr_kd.targets.form_comparison import FormComparison, FormQuality, calibration_error, compare_forms
from asr_kd.targets.teacher import Teacher
from tests.targets.conftest import LENGTHS, STATES, Scene, network
from tests.train.conftest import without_labels, write_features, write_states

T, KS = 2.0, (3, 8)


def compared(scene: Scene, **options: object) -> FormComparison:
    return compare_forms(Teacher(scene.teacher, scene.features), **{"temperature": T, "ks": KS, **options})  # type: ignore[arg-type]


def rows_of(comparison: FormComparison) -> dict[tuple[str, int | None], FormQuality]:
    return {(row.form, row.k): row for row in comparison.rows}


def numbers_of(row: FormQuality) -> list[float]:
    return [value for value in dataclasses.astuple(row) if isinstance(value, float)]


def teacher_says(scene: Scene, temperature: float) -> np.ndarray:
    """p_T of every frame, float64 ``[frames, states]``."""
    model = open_model(scene.teacher)
    said = [log_posteriors(model, scene.features.read(u)["fbank"]).astype(np.float64) for u in sorted(LENGTHS)]
    prob = np.exp(np.concatenate(said) / temperature)
    return np.asarray(prob / prob.sum(1, keepdims=True))


def entropy(prob: np.ndarray) -> float:
    return float(-(prob * np.log(np.where(prob > 0, prob, 1))).sum(1).mean())


def test_top_k_is_measured_as_its_formulas_say(scene: Scene) -> None:
    p = teacher_says(scene, T)
    found = rows_of(compared(scene))
    for k in KS:
        kept, tail = p.copy(), []
        for frame in kept:
            others = np.argsort(-frame)[k:]
            tail.append(frame[others].sum())
            frame[others] = tail[-1] / (STATES - k)
        row = found["topk", k]
        assert row.lost_mass == pytest.approx(np.mean(tail), rel=1e-5)
        assert row.divergence == pytest.approx((p * np.log(p / kept)).sum(1).mean(), rel=5e-3)  # float16
        assert row.variation == pytest.approx(np.abs(p - kept).sum(1).mean() / 2, abs=2e-4)
        assert row.entropy == pytest.approx(entropy(kept), rel=1e-3)


def test_rounding_is_all_that_dense_targets_lose(scene: Scene) -> None:
    p, log_p = teacher_says(scene, T), np.log(teacher_says(scene, 1.0))
    kept = np.exp(log_p.astype(np.float16).astype(np.float64) / T)
    kept /= kept.sum(1, keepdims=True)
    found = rows_of(compared(scene))
    exact, dense = found["exact", None], found["dense", None]
    assert dense.divergence == pytest.approx((p * np.log(p / kept)).sum(1).mean(), rel=0.02)  # float32 beneath float16
    assert 0 < dense.divergence < 1e-5  # type: ignore[operator]
    assert (exact.divergence, exact.variation, exact.lost_mass, dense.lost_mass) == (0, 0, 0, 0)
    assert exact.entropy == pytest.approx(entropy(p), rel=1e-5)
    assert (exact.bytes_per_frame, dense.bytes_per_frame) == (4 * STATES, 2 * STATES)


def test_draws_vary_as_their_chances_say(scene: Scene) -> None:
    """A state below the threshold t is missed with 1 - p / t, an error of p, and else weighs t: 2 p (1 - p / t)."""
    p = teacher_says(scene, T)
    for k in KS:
        expected = []
        for frame in p:
            low, high = 0.0, 1.0
            for _ in range(60):
                t = (low + high) / 2
                low, high = (t, high) if np.minimum(frame / t, 1).sum() > k else (low, t)
            expected.append(np.where(frame < high, frame * (1 - frame / high), 0).sum())
        rows = [rows_of(compared(scene, seed=seed))["sampled", k] for seed in range(20)]
        assert np.mean([row.variation for row in rows]) == pytest.approx(np.mean(expected), rel=0.03)
        assert {(row.lost_mass, row.divergence) for row in rows} == {(0, None)}
        assert rows[0].entropy < entropy(p)


def test_blocks_change_no_number(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compared(scene, states=scene.states)
    monkeypatch.setattr(compare_module, "BLOCK", 3 * STATES)
    parts = compared(scene, states=scene.states)
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert numbers_of(one) == pytest.approx(numbers_of(other), rel=1e-9)


def test_more_states_lose_less_and_all_states_nothing(scene: Scene) -> None:
    found = rows_of(compared(scene, ks=(1, 3, 6, STATES)))
    for form in ("topk", "sampled"):
        variations = [found[form, k].variation for k in (1, 3, 6, STATES)]
        assert variations == sorted(variations, reverse=True)
        assert variations[-1] < 1e-3
        sizes = [found[form, k].bytes_per_frame for k in (1, 3, 6, STATES)]
        assert sizes == [4 * k + (2 if form == "topk" else 0) for k in (1, 3, 6, STATES)]
    whole = found["topk", STATES]
    assert whole.lost_mass == 0
    assert whole.divergence == pytest.approx(found["dense", None].divergence, rel=1e-6)


def test_calibration_is_of_the_best_state_at_temperature_one(scene: Scene) -> None:
    found = compared(scene, states=scene.states)
    model, confidence, right = open_model(scene.teacher), [], []
    for utterance in scene.states.utterances:
        prob = np.exp(log_posteriors(model, scene.features.read(utterance)["fbank"]))
        confidence += list(prob.max(1))
        right += list(prob.argmax(1) == scene.states.read(utterance)["state"])
    expected = calibration_error(np.array(confidence), np.array(right))
    rows = rows_of(found)
    for key in (("exact", None), ("dense", None), ("topk", 3), ("topk", 8)):
        assert rows[key].calibration_error == pytest.approx(expected, abs=2e-3)
        assert rows[key].frame_accuracy == np.mean(right)
    assert rows["sampled", 3].calibration_error is not None
    assert found.labelled == len(right) == found.frames - LENGTHS["u05"]
    assert {(row.frame_accuracy, row.calibration_error) for row in compared(scene).rows} == {(None, None)}


def test_frames_without_a_label_are_not_judged(scene: Scene, tmp_path: Path) -> None:
    labels = {utterance: scene.states.read(utterance)["state"] for utterance in scene.states.utterances}
    some = write_states(tmp_path / "some", without_labels(labels, "u02", "u07"), STATES)
    few = write_states(tmp_path / "few", {u: a for u, a in labels.items() if u not in ("u02", "u07")}, STATES)
    assert compared(scene, states=some) == compared(scene, states=few)
    none = compared(scene, states=write_states(tmp_path / "none", without_labels(labels), STATES))
    assert none == compared(scene)
    half = without_labels(labels, *(set(labels) - {"u01"}))
    half["u01"][::2] = -1
    found = compared(scene, states=write_states(tmp_path / "half", half, STATES))
    said = log_posteriors(open_model(scene.teacher), scene.features.read("u01")["fbank"]).argmax(1)
    assert found.labelled == len(said[1::2])
    assert found.rows[0].frame_accuracy == (said == labels["u01"])[1::2].mean()


@pytest.mark.parametrize("bins", [1, 3, 15])
def test_calibration_error_is_the_mean_gap_of_its_bins(bins: int) -> None:
    random = np.random.default_rng(0)
    confidence = random.random(61)
    right = random.random(61) < confidence**2
    pairs = sorted(zip(confidence, right, strict=True))
    total, begin = 0.0, 0
    for number in range(bins):
        size = 61 // bins + (number < 61 % bins)
        own, begin = pairs[begin : begin + size], begin + size
        total += size / 61 * abs(np.mean([c for c, _ in own]) - np.mean([r for _, r in own]))
    assert calibration_error(confidence, right, bins) == pytest.approx(total)


def test_a_calibrated_teacher_has_no_error_and_a_certain_one_that_is_wrong_all() -> None:
    right = np.arange(1000) % 4 == 0
    assert calibration_error(np.full(1000, 0.25), right, 10) == pytest.approx(0)
    assert calibration_error(np.ones(7), np.zeros(7, bool)) == 1


def test_the_sample_is_spread_over_the_transfer_set(scene: Scene) -> None:
    assert compared(scene).frames == sum(LENGTHS.values())
    few = compared(scene, frames=sum(LENGTHS.values()) // 3)
    assert few.frames == sum(LENGTHS[u] for u in sorted(LENGTHS)[::3])
    assert compared(scene, utterances=["u04"]).frames == LENGTHS["u04"]


def test_without_sizes_those_below_the_number_of_states_are_compared(scene: Scene) -> None:
    assert [row.k for row in compared(scene, ks=None).rows] == [None, None, 5, 10, 5, 10]


def test_mistakes_are_named(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--k 13: the teacher has 12 states"):
        compared(scene, ks=(13,))
    with pytest.raises(UserError, match="--frames 0: expected at least 1"):
        compared(scene, frames=0)
    with pytest.raises(UserError, match="--temperatures 0: expected positive numbers"):
        compared(scene, temperature=0.0)
    with pytest.raises(UserError, match="4 fbank coefficients per frame; the teacher .*wide expects 5"):
        compared(dataclasses.replace(scene, teacher=network(tmp_path / "wide", bins=5)))
    arrays = {"u0": np.full((3, 4), 3e38, np.float32)}
    with pytest.raises(UserError, match="utterance u0: .*of frame 0 are not finite"):
        compared(dataclasses.replace(scene, features=write_features(tmp_path / "huge", arrays)))


def test_probabilities_that_underflow_are_no_infinite_divergence() -> None:
    log_prob = torch.full((4, 30), -1e5)
    log_prob[:, 7] = 0
    log_prob[1:, 8:] = -math.inf

    class Certain:
        num_states = 30

        def sample(self, *_: object) -> Iterator[tuple[str, torch.Tensor, None]]:
            yield "u", log_prob, None

    for row in compare_forms(Certain(), 1.0, ks=(1, 4)).rows:  # type: ignore[arg-type]
        assert row.divergence in (None, 0)
        assert row.variation == pytest.approx(0, abs=1e-9)
        assert row.entropy == pytest.approx(0, abs=1e-9)
