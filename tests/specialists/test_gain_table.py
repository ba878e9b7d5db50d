"""Clusters for people to read: names of tied states, and the command that uses them."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.hmm.states import StateSpace
from asr_kd.specialists import state_names, summaries
from tests.targets.conftest import network
from tests.train.conftest import BINS, STATES, speech, write_features

NAMES = ["S.1", "S-A.1", "A|B-A.1", "A.2", "B.1+S", "B.1+A|B"]


@pytest.fixture
def space() -> StateSpace:
    """Silence, A of two positions whose first depends on what is before, and B, which depends on what follows."""
    table = np.full((3, 3, 3, 2), -1, np.int32)
    table[:, 0, :, 0] = 0
    table[0, 1, :, 0], table[1:, 1, :, 0], table[:, 1, :, 1] = 1, 2, 3
    table[:, 2, 0, 0], table[:, 2, 1:, 0] = 4, 5
    return StateSpace(("S", "A", "B"), ("S",), np.array([1, 2, 1]), table, np.full(6, -0.7, np.float32))


def test_a_state_is_called_after_its_phone_position_and_contexts(space: StateSpace) -> None:
    assert state_names(space) == NAMES


def test_a_state_that_phones_share_names_them_and_one_that_none_has_is_unused(space: StateSpace) -> None:
    space.table[:, 2, :, 0] = 3
    assert state_names(space)[3:] == ["A.2 or B.1", "unused", "unused"]


def test_of_a_wide_context_the_first_phones_are_named() -> None:
    phones = tuple("SABCDEF")
    table = np.zeros((7, 7, 7, 1), np.int32)
    table[1:, 1] = 1
    space = StateSpace(phones, ("S",), np.ones(7, int), table, np.full(2, -0.7, np.float32))
    assert state_names(space)[1] == "A|B|C|D|+2-A.1"


def test_a_cluster_is_summed_up_by_its_phones_the_commonest_first(space: StateSpace) -> None:
    assert summaries(space, [np.array([0, 4, 5]), np.array([1, 2, 3, 4])]) == ["B(2) S", "A(3) B"]


def test_clusters_are_named_by_the_states_that_the_network_predicts(
    space: StateSpace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(tmp_path / "feats", speech([100] * 4)[0])
    space.save(tmp_path / "hmm")
    network(tmp_path / "g", bins=BINS, states=STATES)
    network(tmp_path / "other", bins=BINS, states=STATES + 1)
    command = ["specialists", "cluster", f"{tmp_path}/clusters", "--feats", f"{tmp_path}/feats", "--k", "2"]
    named = ["--states-dir", f"{tmp_path}/hmm"]
    assert main([*command, "--network", f"{tmp_path}/other", *named]) == 1
    assert f"hmm: 6 states, but {tmp_path}/other predicts 7; give the folder" in capsys.readouterr().err
    assert not (tmp_path / "clusters").exists()
    assert main([*command, "--network", f"{tmp_path}/g", *named]) == 0
    assert "phones (states)" in capsys.readouterr().out
    rows = [line.split("\t") for line in (tmp_path / "clusters" / "states.tsv").read_text().splitlines()[1:]]
    assert sorted((int(state), name) for _, state, name in rows) == list(enumerate(NAMES))
