"""The reader: every frame once an epoch, with its own window, shuffled, in bounded memory, from any position on."""

import dataclasses
import itertools
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr_kd.frames.copy import copy_store
from asr_kd.nets import AcousticModel, NetConfig, pad_edges, save_model
from asr_kd.targets import TargetConfig, Teacher, write_targets
from asr_kd.train import TrainingData
from asr_kd.train.pools import Pool, PoolLoader
from asr_kd.train.reader import Batch, Reader
from tests.train.conftest import BINS, CONFIG, STATES, MakeData, speech, without_labels, write_states

LEFT, RIGHT = 3, 2
LENGTHS = [17, 40, 3, 1, 29, 60, 22, 8]


def reader(data: TrainingData, chunk: int = 1, ahead: bool = False, **settings: Any) -> Reader:
    """A reader over ``data`` with small batches; ``ahead``: as on a GPU, a thread reads the next pool."""
    config = dataclasses.replace(CONFIG, **{"batch_frames": 24, **settings})
    made = Reader(data, config, LEFT, RIGHT, chunk, torch.device("cpu"))
    made.ahead = made._loader.apart = ahead
    return made


def examples(batches: list[Batch], every: int = 1) -> list[tuple[bytes, int]]:
    """Each labelled output as its window's bytes and its label."""
    span = LEFT + 1 + RIGHT
    return [
        (window[i * every : i * every + span].numpy().tobytes(), int(label))
        for batch in batches
        for window, labels in zip(batch.features, batch.labels, strict=True)
        for i, label in enumerate(labels)
        if label >= 0
    ]


def windows(data: TrainingData) -> list[tuple[bytes, int]]:
    """What one epoch must hold: the window of each frame of each utterance, edges repeated, and its label."""
    found = []
    for utterance in data.utterances:
        frames = data.read(utterance)
        features, states = frames.features, frames.states
        assert states is not None
        padded = pad_edges(torch.tensor(features), LEFT, RIGHT).numpy()
        for t, state in enumerate(states):
            found.append((padded[t : t + LEFT + 1 + RIGHT].tobytes(), int(state)))
    return found


@pytest.mark.parametrize("pool_frames", [10**6, 70], ids=["one pool", "pools"])
@pytest.mark.parametrize("chunk", [1, 10])
def test_an_epoch_has_every_frame_once_with_its_window(make_data: MakeData, chunk: int, pool_frames: int) -> None:
    data = make_data(LENGTHS)
    found = examples(list(reader(data, chunk, pool_frames=pool_frames).epoch(0)))
    assert sorted(found) == sorted(windows(data))
    assert found != windows(data)


def test_three_phases_of_every_third_frame_are_parts_of_the_whole(make_data: MakeData) -> None:
    data = make_data(LENGTHS)
    whole = set(windows(data))
    seen: set[tuple[bytes, int]] = set()
    for epoch in range(12):
        found = examples(list(reader(data, 9, every=3).epoch(epoch)), every=3)
        assert abs(len(found) - len(whole) / 3) <= len(LENGTHS)
        assert set(found) <= whole
        seen |= set(found)
    assert seen == whole


def test_epochs_and_seeds_have_their_own_order_and_repeat_it(make_data: MakeData) -> None:
    data = make_data(LENGTHS)

    def order(epoch: int, seed: int) -> list[tuple[bytes, int]]:
        return examples(list(reader(data, seed=seed, pool_frames=70).epoch(epoch)))

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


@pytest.mark.parametrize("chunk", [1, 10])
def test_an_epoch_goes_on_at_any_batch(make_data: MakeData, chunk: int) -> None:
    data = make_data(LENGTHS)
    batches = list(reader(data, chunk, pool_frames=70).epoch(3))
    for skip in range(len(batches) + 1):
        rest = list(reader(data, chunk, pool_frames=70).epoch(3, skip))
        assert examples(rest) == examples(batches[skip:])
        assert [batch.fraction for batch in rest] == [batch.fraction for batch in batches[skip:]]


@pytest.mark.parametrize("chunk", [1, 10])
def test_blocks_are_drawn_whole_and_an_epoch_still_has_every_frame_once(make_data: MakeData, chunk: int) -> None:
    data = make_data([10] * 40)
    batches = list(reader(data, chunk, pool_frames=100, block_frames=50).epoch(0))
    assert sorted(examples(batches)) == sorted(windows(data))
    pools = list({id(batch.layout): batch.layout.utterances for batch in batches}.values())
    blocks = {utterance: number // 5 for number, utterance in enumerate(data.utterances)}
    drawn = [{blocks[utterance] for utterance in pool} for pool in pools]
    assert [len(pool) for pool in drawn] == [2] * 4
    assert sorted(set().union(*drawn)) == list(range(8))
    again = list(reader(data, chunk, pool_frames=100, block_frames=50).epoch(1))
    assert examples(again) != examples(batches)


def test_the_stores_know_the_next_pool_while_one_is_used(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASR_KD_CACHE", str(tmp_path / "cache"))
    local = make_data(LENGTHS)
    assert local.states
    features, states = (copy_store(s, f"memory://test/{s.kind}") for s in (local.features, local.states))
    remote = TrainingData(features, states)
    asked: list[list[str]] = []
    monkeypatch.setattr(remote.joined, "ahead", lambda utterances: asked.append(list(utterances)))
    batches = [batch for epoch in (0, 1) for batch in reader(remote, pool_frames=70, epochs=2).epoch(epoch)]
    pools = list({id(batch.layout): batch.layout.utterances for batch in batches}.values())
    assert asked == [*pools[1:], []]
    assert examples(batches[:3]) == examples(list(reader(local, pool_frames=70, epochs=2).epoch(0))[:3])


def test_batches_mix_utterances_and_are_of_one_size(make_data: MakeData) -> None:
    data = make_data([40] * 10)
    batches = list(reader(data).epoch(0))
    sizes = {len(batch.labels) for batch in batches}
    assert max(sizes) <= 24
    assert max(sizes) - min(sizes) <= 1
    assert all(len(batch.utterances) >= 5 for batch in batches)


def test_a_batch_knows_its_utterances_and_how_far_it_is(make_data: MakeData) -> None:
    data = make_data(LENGTHS)
    batches = list(reader(data, pool_frames=70).epoch(0))
    of_window = {w: u for u in data.utterances for w, _ in windows(TrainingData(data.features, data.states, [u]))}
    for batch in batches:
        assert batch.utterances == sorted({of_window[window] for window, _ in examples([batch])})
    fractions = [batch.fraction for batch in batches]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)


@pytest.mark.parametrize("ahead", [False, True])
def test_no_more_than_a_pool_is_in_memory_or_two_where_one_is_read_ahead(
    make_data: MakeData, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, pools, sizes, before = make_data([20] * 50), list[weakref.ref[Pool]](), list[int](), list[int]()
    name = "_read_apart" if ahead else "_read"
    read = getattr(PoolLoader, name)

    def note(self: PoolLoader, layout: Any) -> Pool:
        before.append(sum(pool() is not None for pool in pools))
        pool = read(self, layout)
        pools.append(weakref.ref(pool))
        sizes.append(len(pool.features))
        return pool

    monkeypatch.setattr(PoolLoader, name, note)
    batches = reader(data, ahead=ahead, pool_frames=100)
    assert sum(len(batch.labels) for epoch in range(2) for batch in batches.epoch(epoch)) == 2000
    assert len(pools) >= 20
    assert max(sizes) == 5 * (20 + LEFT + RIGHT)
    assert max(before) == int(ahead)


@pytest.mark.parametrize("pool_frames", [40, 10_000])
@pytest.mark.parametrize("chunk", [1, 10])
def test_reading_ahead_changes_no_batch(tmp_path: Path, make_data: MakeData, chunk: int, pool_frames: int) -> None:
    data = make_data(LENGTHS)
    save_model(AcousticModel(NetConfig(bins=BINS, states=STATES, width=8, layers=1)), tmp_path / "teacher")
    targets = write_targets(Teacher(tmp_path / "teacher", data.features), tmp_path / "targets", TargetConfig(k=3))
    _, states = speech(LENGTHS)
    some = write_states(tmp_path / "some", without_labels(states, "u1", "u4"))

    def contents(data: TrainingData, ahead: bool) -> list[tuple[object, ...]]:
        batches = reader(data, chunk, ahead=ahead, pool_frames=pool_frames, epochs=3)
        found = [*batches.epoch(0, 3), *batches.epoch(1), *itertools.islice(batches.epoch(2), 2), *batches.epoch(2, 2)]
        return [
            (
                *(each.numpy().tobytes() for each in (b.features, b.labels, b.valid, *b.targets.values())),
                *(each.dtype for each in (b.features, b.labels, b.valid, *b.targets.values())),
                *(list(b.targets), b.fraction, b.utterances, b.part),
            )
            for b in found
        ]

    for labels in (data.states, some, None):
        whole = TrainingData(data.features, labels, None, targets)
        assert contents(whole, ahead=True) == contents(whole, ahead=False)


def test_an_error_while_reading_is_raised_to_the_loop(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(LENGTHS)

    def fail(_: str) -> tuple[np.ndarray, np.ndarray]:
        raise OSError("the disk is gone")

    monkeypatch.setattr(data.joined, "runs", fail)
    for ahead in (False, True):
        with pytest.raises(OSError, match="the disk is gone"):
            list(reader(data, ahead=ahead).epoch(0))
