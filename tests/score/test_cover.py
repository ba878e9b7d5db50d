"""What specialists add, against a count frame by frame; the verb that shows it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.nets import AcousticModel, Ensemble, open_model, save_ensemble, save_model
from asr_kd.score.cover import ALL, CONDITIONAL, CoverCounts, count_by_cover, cover_records, cover_row
from asr_kd.score.entries import read_rows
from asr_kd.score.provenance import provenance
from asr_kd.score.report import write_report
from asr_kd.train import TrainingData
from tests.train.conftest import BINS, NET, STATES, speech, write_features, write_states

OWN = [[1, 4], [1, 2]]  # covered by: 0, 2, 1, 0, 1, 0 specialists
COVER = np.array([0, 2, 1, 0, 1, 0])


@pytest.fixture
def joint(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    folders = []
    for number, states in enumerate((STATES, 3, 3)):
        model = AcousticModel(dataclasses.replace(NET, bins=BINS, states=states))
        save_model(model, tmp_path / f"net{number}")
        folders.append(tmp_path / f"net{number}")
    save_ensemble(tmp_path / "joint", folders, "joint", own=OWN, active=2)
    return tmp_path / "joint"


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    features, states = speech([70, 40, 40, 55], 2)
    return TrainingData(write_features(tmp_path / "feats", features), write_states(tmp_path / "states", states))


def test_it_counts_each_frame_where_it_belongs(joint: Path, data: TrainingData) -> None:
    model = open_model(joint)
    assert isinstance(model, Ensemble)
    found = count_by_cover(model, data)
    assert found.groups == (ALL, CONDITIONAL, 0, 1, 2)
    for utterance, counts in zip(found.utterances, found.counts, strict=True):
        read = data.read(utterance)
        padded = torch.from_numpy(read.features.astype(np.float32))[None]
        padded = torch.cat([padded[:, :1]] * model.left_context + [padded] + [padded[:, -1:]] * model.right_context, 1)
        with torch.inference_mode():
            general = model.members[0](padded[:, : len(padded[0])])
            both = model(padded)[0].numpy()
        trimmed = general[0, : len(both)].numpy()
        assert read.states is not None
        expected = {group: [0, 0, 0] for group in found.groups}
        for frame, label in enumerate(read.states.tolist()):
            answers = [int(trimmed[frame].argmax()), int(both[frame].argmax())]
            bound = [(1, 2, 4)[int(row[[1, 2, 4]].argmax())] for row in (trimmed[frame], both[frame])]
            groups = [(ALL, answers), (int(COVER[label]), answers), *([(CONDITIONAL, bound)] if COVER[label] else [])]
            for group, said in groups:
                expected[group][0] += 1
                expected[group][1] += said[0] == label
                expected[group][2] += said[1] == label
        assert counts.tolist() == [expected[group] for group in found.groups]


def counts(*rows: tuple[int, int, int], groups: tuple[int, ...] = (ALL,)) -> CoverCounts:
    table = np.array(rows).reshape(-1, len(groups), 3)
    return CoverCounts(tuple(f"u{n}" for n in range(len(table))), groups, table)


def test_gains_are_paired_and_relative() -> None:
    (record,) = cover_records(counts(*[(100, 50, 53)] * 12))
    assert (record["generalist"], record["joint"]) == (0.5, 0.53)
    assert record["gain"] == pytest.approx(0.03)
    assert record["gain_low"] == record["gain_high"] == pytest.approx(0.03)  # all utterances are the same
    assert record["relative"] == pytest.approx(0.06)
    assert record["p"] == pytest.approx(2 / 2**12)
    (noise,) = cover_records(counts(*[(100, 50, 53), (100, 53, 50)] * 6))
    assert noise["gain_low"] < 0 < noise["gain_high"]
    (by_speaker,) = cover_records(counts(*[(100, 50, 53)] * 12), {f"u{n}": f"s{n % 3}" for n in range(12)})
    assert by_speaker["p"] == 0.25  # of three speakers


def test_covers_that_are_rare_count_as_one() -> None:
    rows = {ALL: (1000, 500, 510), 0: (600, 300, 300), 1: (392, 190, 194), 2: (3, 3, 3), 3: (4, 1, 4), 5: (1, 0, 0)}
    records = cover_records(counts(*rows.values(), groups=tuple(rows)))
    shown = [(record["system"], record["frames"], record["more"]) for record in records]
    assert shown[1:] == [
        ("no specialists cover the state", 600, False),
        ("1 specialist covers the state", 392, False),
        ("2 or more specialists cover the state", 8, True),
    ]
    assert (records[-1]["generalist"], records[-1]["joint"]) == (4 / 8, 7 / 8)
    none_rare = cover_records(counts((9, 1, 2), (4, 1, 1), (5, 1, 1), groups=(ALL, 0, 2)))
    assert [record["more"] for record in none_rare] == [False] * 3


def test_the_command_prints_writes_rows_and_draws(
    joint: Path, data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "utt2spk").write_text("".join(f"{u} s{n % 2}\n" for n, u in enumerate(data.utterances)))
    given = ["--feats", f"{tmp_path}/feats", "--states", f"{tmp_path}/states", "--utt2spk", f"{tmp_path}/utt2spk"]
    command = ["specialists", "compare", str(joint), *given]
    assert main([*command, "--rows", f"{tmp_path}/r.jsonl", "--picture", f"{tmp_path}/c.png", "--title", "T"]) == 0
    assert "2 specialists cover the state" in capsys.readouterr().out
    assert (tmp_path / "c.png").stat().st_size > 5000
    report = ["report", "--title", "R", "--output", str(tmp_path), "--rows", f"{tmp_path}/r.jsonl"]
    assert main([*report, "--picture", f"{tmp_path}/c.png", "caption"]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| all "))
    assert f" {data.total_frames} |" in row
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["table"] == "T"


def test_other_models_and_missing_labels_are_refused(
    joint: Path, data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = open_model(joint)
    assert isinstance(model, Ensemble)
    with pytest.raises(UserError, match="no labels to compare with"):
        count_by_cover(model, TrainingData(FrameStore(tmp_path / "feats")))
    labels = speech([70, 40, 40, 55], 2)[1]
    with pytest.raises(UserError, match=f"labels of {STATES + 1} states, but the ensemble has {STATES} outputs"):
        count_by_cover(model, TrainingData(data.features, write_states(tmp_path / "more", labels, STATES + 1)))
    save_ensemble(tmp_path / "mean", [tmp_path / "net0", tmp_path / "net0"])
    stores = ["--feats", f"{tmp_path}/feats", "--states", f"{tmp_path}/states"]
    assert main(["specialists", "compare", f"{tmp_path}/mean", *stores]) == 1
    assert "mean: averages its members; expected an ensemble from asr-kd specialists join" in capsys.readouterr().err
    assert main(["specialists", "compare", f"{tmp_path}/net0", *stores]) == 1
    assert "net0: a single network; expected an ensemble" in capsys.readouterr().err
    with pytest.raises(UserError, match="no speaker in utt2spk for"):
        cover_records(count_by_cover(model, data), {"u0": "s"})


def test_a_report_shows_the_interval_of_the_gain(tmp_path: Path) -> None:
    record = {"system": "all frames", "cover": ALL, "frames": 40, "generalist": 0.7, "joint": 0.75, "gain": 0.05,
              "gain_low": 0.012, "gain_high": 0.08, "relative": 0.07, "p": 0.01}  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(cover_row(record, "Gains", "test")) + "\n")
    write_report(tmp_path, "T", read_rows(tmp_path / "rows.jsonl", "Gains"), provenance())
    page = (tmp_path / "RESULTS.md").read_text()
    assert "1.20 to 8.00" in page
    assert "paired permutation test" in page
