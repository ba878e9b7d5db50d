"""Fractions and unions of data directories."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.corpus import subset
from asr_kd.corpus.datadir import AudioSegment, DataDir, read_data_dir, write_data_dir
from asr_kd.corpus.perturb import perturb_speed
from asr_kd.corpus.subset import combine, contents, durations, take_fraction
from asr_kd.errors import UserError

MakeDir = Callable[..., DataDir]


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDir:
    """40 speakers of 5 to 44 utterances of 1 to 10 seconds, without audio files."""
    rng = np.random.default_rng(0)
    seconds = {f"s{s:02}-{n:03}": float(rng.uniform(1, 10)) for s in range(40) for n in range(5 + s)}
    monkeypatch.setattr(subset, "durations", lambda datadir: {utt: seconds[utt] for utt in datadir.utterances})
    speakers = {utt: utt[:3] for utt in seconds}
    return write_data_dir(tmp_path / "big", dict.fromkeys(seconds, "/x.wav"), {utt: ["A"] for utt in seconds}, speakers)


@pytest.mark.parametrize("fraction", [0.03, 0.25, 0.5, 0.9])
def test_a_fraction_is_met_by_duration_and_every_speaker_gives_its_share(
    big: DataDir, tmp_path: Path, fraction: float
) -> None:
    part, reached = take_fraction(big, tmp_path / "part", fraction, seed=1)
    assert reached == pytest.approx(fraction, abs=5 / 4600)  # half of the longest utterance
    for speaker, utts in big.speakers.items():
        assert abs(len(part.speakers.get(speaker, ())) - fraction * len(utts)) <= 1.5


def test_short_utterances_are_not_preferred(big: DataDir, tmp_path: Path) -> None:
    means = []
    for seed in range(20):
        part, _ = take_fraction(big, tmp_path / "part", 0.05, seed)
        means.append(np.mean(list(subset.durations(part).values())))
    assert np.mean(means) == pytest.approx(5.5, abs=0.25)


def test_the_seed_decides_and_smaller_fractions_are_nested(big: DataDir, tmp_path: Path) -> None:
    chosen = {
        (fraction, seed): set(take_fraction(big, tmp_path / "part", fraction, seed)[0].utterances)
        for fraction in (0.1, 0.3)
        for seed in (0, 0, 1)
    }
    assert chosen[0.1, 0] < chosen[0.3, 0]
    assert chosen[0.1, 0] != chosen[0.1, 1]
    assert set(take_fraction(big, tmp_path / "part", 0.1, 0)[0].utterances) == chosen[0.1, 0]


def test_a_tiny_fraction_is_one_utterance_and_the_whole_is_everything(big: DataDir, tmp_path: Path) -> None:
    assert len(take_fraction(big, tmp_path / "one", 1e-6)[0].utterances) == 1
    assert take_fraction(big, tmp_path / "all", 1.0)[0].text == big.text
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="--fraction"):
            take_fraction(big, tmp_path / "none", fraction)


def test_contents_are_counted(make_dir: MakeDir) -> None:
    held = contents(make_dir({"a-1": 0.5, "a-2": 0.25, "b-1": 1.0}))
    assert (held.utterances, held.speakers, held.words, held.vocabulary) == (3, 2, 6, 2)
    assert held.seconds == pytest.approx(1.75)


def test_a_union_holds_both_and_refuses_an_id_twice(make_dir: MakeDir, tmp_path: Path) -> None:
    first, second = make_dir({"a-1": 0.1}, "first"), make_dir({"b-1": 0.1}, "second")
    union = combine(tmp_path / "union", [first, second])
    assert union.utterances == ("a-1", "b-1")
    assert union.wav == first.wav | second.wav
    with pytest.raises(UserError, match=r"first: utterance 'a-1' is also in an earlier directory"):
        combine(tmp_path / "twice", [union, first])


def test_no_action_overwrites_its_input(make_dir: MakeDir) -> None:
    datadir = make_dir({"a-1": 0.1, "a-2": 0.1})
    for action in (
        lambda: take_fraction(datadir, datadir.path, 0.5),
        lambda: combine(datadir.path, [datadir]),
        lambda: perturb_speed(datadir, datadir.path / "." / "", [1.1]),
    ):
        with pytest.raises(UserError, match="is both an input and the output"):
            action()
    assert read_data_dir(datadir.path).utterances == datadir.utterances


def test_recordings_become_segments_beside_segments(make_dir: MakeDir, tmp_path: Path) -> None:
    whole, cut = make_dir({"a-1": 0.5}, "whole"), make_dir({"rec": 1.0}, "cut")
    cut = write_data_dir(cut.path, cut.wav, {"c-1": ["X"]}, {"c-1": "c"}, {"c-1": AudioSegment("rec", 0.25, 0.5)})
    union = combine(tmp_path / "union", [whole, cut])
    assert union.segments == {"a-1": AudioSegment("a-1", 0.0, 0.5), "c-1": AudioSegment("rec", 0.25, 0.5)}
    assert durations(union) == {"a-1": 0.5, "c-1": 0.25}


def test_the_command_prints_what_was_reached(
    make_dir: MakeDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_dir({"a-1": 0.5, "a-2": 0.5, "b-1": 1.0}).path
    assert main(["corpus", "subset", str(path), str(tmp_path / "half"), "--fraction", "0.5"]) == 0
    assert "50.000% of the duration" in capsys.readouterr().out
    assert main(["corpus", "info", str(tmp_path / "half")]) == 0
    assert "1.0 s" in capsys.readouterr().out
