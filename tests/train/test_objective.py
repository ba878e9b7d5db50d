"""The objective against double-precision formulas; masks."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from asr_kd.errors import UserError
from asr_kd.train.augment import augment
from asr_kd.train.objective import HardTargets
from asr_kd.train.reader import Batch, Layout, RankPart
from tests.train.conftest import CONFIG


def batch_of(labels: list[list[int]]) -> Batch:
    layout = Layout(["u0"], np.array([9]), 0, 0, 0)
    found = torch.tensor(labels)
    part = RankPart(0, int((found >= 0).sum()), 1.0, 1.0)
    return Batch(torch.zeros(0), found, found >= 0, {}, 1.0, np.arange(len(labels)), layout, part)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_mean_over_labelled_frames(smoothing: float) -> None:
    labels = [[2, -1], [0, 4]]
    logits = torch.randn(4, 5) * 30
    target = np.full((4, 5), smoothing / 5)
    target[[0, 2, 3], [2, 0, 4]] += 1 - smoothing
    x = logits.double().numpy()
    log_probability = x - np.logaddexp.reduce(x, axis=1, keepdims=True)
    expected = -(target * log_probability).sum(1)[[0, 2, 3]].mean()
    assert float(HardTargets(smoothing)(logits, batch_of(labels))) == pytest.approx(expected, rel=1e-6)


def test_without_masks_features_are_as_they_were() -> None:
    features = torch.randn(3, 9, 4)
    assert augment(features, torch.zeros(4), CONFIG) is features


def test_masks_are_stretches_of_the_mean_within_their_width() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, frequency_masks=1, frequency_width=3, time_masks=1, time_width=4)
    features, mean = torch.randn(200, 20, 10), torch.arange(10.0)
    masked = augment(features, mean, config)
    hidden = masked == mean
    bands, stretches = hidden.all(1).sum(1), hidden.all(2).sum(1)
    assert set(bands.tolist()) == {0, 1, 2, 3}
    assert set(stretches.tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(hidden, hidden.all(1)[:, None, :] | hidden.all(2)[:, :, None])
    assert torch.equal(masked[~hidden], features[~hidden])
    edges = hidden.all(1).int().diff(dim=1).abs().sum(1)
    assert edges.max() <= 2
    assert hidden.all(1).any(0).all()


def test_splices_go_on_as_other_examples_at_the_same_frames() -> None:
    torch.manual_seed(0)
    features = torch.arange(30.0)[:, None, None] * 100 + torch.arange(20.0)[:, None].expand(30, 20, 1)
    once = augment(features, torch.zeros(1), dataclasses.replace(CONFIG, splices=1))[:, :, 0]
    assert torch.equal(once % 100, features[:, :, 0] % 100)
    speech = (once // 100).long()
    changes = speech.diff(dim=1) != 0
    assert changes.sum(1).max() == 1
    assert changes.any(0).sum() > 10  # anywhere
    assert len(speech[:, -1].unique()) == 30
    thrice = augment(features, torch.zeros(1), dataclasses.replace(CONFIG, splices=3))[:, :, 0]
    assert ((thrice // 100).diff(dim=1) != 0).sum(1).max() >= 2


def test_images_are_moved_whole_and_alike_in_all_frames_of_an_example() -> None:
    torch.manual_seed(0)
    image = torch.zeros(5, 5)
    image[1:4, 2] = torch.tensor([1.0, 2.0, 3.0])
    moved = augment(image.view(1, 1, 25).expand(500, 2, 25), torch.ones(25), dataclasses.replace(CONFIG, jitter=2))
    assert torch.equal(moved[:, 0], moved[:, 1])
    places: set[tuple[int, int]] = set()
    for example in moved[:, 0].view(-1, 5, 5):
        found = [(a, b) for a in range(5) for b in range(5) if torch.equal(_cut(image, a, b), example)]
        assert len(found) == 1
        places |= set(found)
    assert len(places) == 25  # every place, from two pixels up and left to two down and right
    with pytest.raises(UserError, match="10 numbers per frame are not a square"):
        augment(torch.zeros(2, 1, 10), torch.zeros(10), dataclasses.replace(CONFIG, jitter=1))


def _cut(image: torch.Tensor, top: int, left: int) -> torch.Tensor:
    return functional.pad(image, (2, 2, 2, 2))[top : top + 5, left : left + 5]


def test_a_channel_adds_one_smooth_curve_to_all_frames_of_an_example() -> None:
    torch.manual_seed(0)
    features, mean = torch.randn(4000, 3, 40), torch.zeros(40)
    added = augment(features, mean, dataclasses.replace(CONFIG, channel=0.5)) - features
    torch.testing.assert_close(added, added[:, :1].expand_as(added), rtol=0, atol=1e-5)
    assert float(added.square().mean().sqrt()) == pytest.approx(0.5, rel=0.05)
    assert float(added[:, 0].diff(dim=1).abs().mean()) < 0.1
    assert float(added[:, 0].std(0).min()) > 0.2


def test_a_scale_multiplies_what_is_above_the_mean() -> None:
    torch.manual_seed(0)
    features, mean = torch.randn(4000, 3, 8), torch.arange(8.0)
    factor = (augment(features, mean, dataclasses.replace(CONFIG, scale=0.2)) - mean) / (features - mean)
    one = factor[:, 0, 0].log()
    assert float(one.std()) == pytest.approx(0.2, rel=0.1)
    assert float(one.mean()) == pytest.approx(0, abs=0.02)
    assert float((factor - factor[:, :1, :1]).abs().median()) < 1e-5
