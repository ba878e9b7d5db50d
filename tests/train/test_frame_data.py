"""Joining features with states: statistics, subsets, and stores that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.errors import UserError
from asr_kd.frames import Shard
from asr_kd.train import TrainingData
from tests.train.conftest import BINS, STATES, MakeData, speech, without_labels, write_features, write_states


def test_statistics_are_those_of_all_frames(make_data: MakeData) -> None:
    data = make_data([30, 50, 20])
    features = np.concatenate([data.read(u).features for u in data.utterances]).astype(np.float64)
    states = np.concatenate([data.read(u).states for u in data.utterances])
    found = data.statistics(STATES + 1)
    assert np.allclose(found.mean, features.mean(0), atol=1e-6)
    assert np.allclose(found.std, features.std(0), atol=1e-6)
    assert found.state_counts.tolist() == np.bincount(states, minlength=STATES + 1).tolist()
    assert found.state_counts[STATES] == 0
    assert np.isfinite(found.log_prior).all()
    assert np.isclose(np.exp(found.log_prior.astype(float)).sum(), 1)


def test_a_subset_has_the_named_utterances_only(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data([30, 50, 20])
    subset = TrainingData(data.features, data.states, ["u2", "u0"])
    assert subset.utterances == ["u0", "u2"]
    assert subset.total_frames == 50
    assert subset.statistics(STATES).state_counts.sum() == 50


def test_a_sample_is_about_as_long_as_asked_and_always_the_same(make_data: MakeData) -> None:
    data = make_data([10] * 40)
    sample = data.sample(100, seed=1)
    assert 100 <= sample.total_frames <= 120
    assert sample.utterances == data.sample(100, seed=1).utterances
    assert sample.utterances != data.sample(100, seed=2).utterances
    assert data.sample(10**6, seed=1).utterances == data.utterances


def test_a_sample_with_labels_leaves_out_utterances_that_have_none(tmp_path: Path) -> None:
    features, states = speech([20, 30, 10])
    states = without_labels(states, "u0", "u1")
    states["u1"][29] = 0
    data = TrainingData(write_features(tmp_path / "f", features), write_states(tmp_path / "s", states))
    assert data.sample(60, seed=1, labelled=True).utterances == ["u1", "u2"]
    assert data.sample(60, seed=1).utterances == ["u0", "u1", "u2"]


def test_another_frame_count_is_refused_with_both(tmp_path: Path) -> None:
    features, states = speech([20, 30])
    states["u1"] = states["u1"][:-2]
    with pytest.raises(UserError, match=r"u1.*30.*28"):
        TrainingData(write_features(tmp_path / "f", features), write_states(tmp_path / "s", states))


def test_a_missing_utterance_is_named(tmp_path: Path) -> None:
    features, states = speech([20, 30])
    del states["u1"]
    with pytest.raises(UserError, match="u1"):
        TrainingData(write_features(tmp_path / "f", features), write_states(tmp_path / "s", states))


def test_stores_in_the_wrong_places_are_refused(make_data: MakeData) -> None:
    data = make_data([20])
    assert data.states is not None
    with pytest.raises(UserError, match="holds states; expected features"):
        TrainingData(data.states, data.features)


def test_a_state_beyond_the_network_is_refused(make_data: MakeData) -> None:
    data = make_data([400])
    with pytest.raises(UserError, match=f"u0 has state {STATES - 1}, but the network has {STATES - 1} outputs"):
        data.statistics(STATES - 1)


def test_nan_in_features_is_refused_where_it_is(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data([20])
    features = np.zeros((20, BINS), np.float32)
    features[7, 2] = np.nan
    tensors = {"fbank": np.concatenate([np.zeros((5, BINS), np.float32), features]), "state": np.zeros(25, np.uint16)}
    run = Shard(("before", "u0"), np.array([0, 5, 25]), tensors)
    monkeypatch.setattr(data.joined, "runs", lambda _: iter([run]))
    with pytest.raises(UserError, match="utterance u0, frame 7, bin 2 is nan"):
        data.read("u0")
