"""``asr-kd train`` from the command line: train, a subset, evaluate, and options that do not fit."""

import json
from pathlib import Path

import pytest

from asr_kd.cli import main
from asr_kd.config import save_config
from asr_kd.score.score_files import score_in
from tests.train.conftest import CONFIG, STATES, MakeData, speech, write_states


@pytest.fixture
def command(tmp_path: Path, make_data: MakeData) -> list[str]:
    data, dev = make_data([50] * 10), make_data([50] * 4, seed=1)
    assert data.states is not None
    assert dev.states is not None
    save_config(CONFIG, tmp_path / "conf.yaml")
    return [
        *["train", "--feats", str(data.features.path), "--states", str(data.states.path)],
        *["--dev-feats", str(dev.features.path), "--dev-states", str(dev.states.path)],
        *["--config", str(tmp_path / "conf.yaml"), "--out", str(tmp_path / "exp"), "--device", "cpu"],
    ]


def test_it_trains_and_evaluates(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--seed", "3", "--set", "net.width=8", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert "seed: 3" in (tmp_path / "exp" / "train.yaml").read_text()
    assert (
        main(["train", "--evaluate", str(tmp_path / "exp"), "--feats", command[6], "--states", command[8], "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["frame_accuracy"] == summary["dev_accuracy"]
    assert result["frames"] == 200


def test_only_the_listed_utterances_are_learnt_from(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "list").write_text("u1\nu7\n")
    assert main([*command, "--utterances", str(tmp_path / "list")]) == 0
    record = (tmp_path / "exp" / "train.yaml").read_text()
    assert "utterances: 2, " in record
    assert "frames: 100\n" in record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "epohcs=3"], "--set epohcs: unknown key; did you mean epochs?"),
        (["--set", "net.kind=rnn"], "--set net.kind: expected one of 'dnn', 'tdnn'; found 'rnn'"),
        (["--set", "learning_rate=fast"], "--set learning_rate: expected a number"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--feats", "absent"], "absent"),
        (["--set", "net.states=3"], "but the network has 3 outputs"),
    ],
)
def test_a_mistake_is_one_line(
    command: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *options]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("asr-kd train: error: ")
    assert message in error


def test_all_missing_options_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--feats", "x", "--dev-states", "y"]) == 1
    source = "one of --states (labels), --targets (soft targets) or --teacher"
    assert f"missing: --dev-feats, --out, {source}; asr-kd train --help" in capsys.readouterr().err
    assert main(["train", "--evaluate", "exp/dnn", "--feats", "x"]) == 1
    assert "missing: --states; " in capsys.readouterr().err


def test_the_printed_configuration_can_be_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-config", "--set", "net.width=77"]) == 0
    (tmp_path / "conf.yaml").write_text(capsys.readouterr().out)
    assert main(["train", "--print-config", "--config", str(tmp_path / "conf.yaml")]) == 0
    assert "width: 77" in capsys.readouterr().out


def test_two_lists_of_one_size_are_two_experiments(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, expected in (("u1", 0), ("u2", 1)):
        (tmp_path / "list").write_text(f"{name}\n")
        assert main([*command, "--utterances", str(tmp_path / "list")]) == expected
    assert "train.utterances" in capsys.readouterr().err


def test_errors_of_each_utterance_are_kept_beside_each_evaluated_model(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("1", "2"):
        assert main([*command, "--out", str(tmp_path / f"seed{seed}"), "--seed", seed]) == 0
    capsys.readouterr()
    models = [str(tmp_path / f"seed{seed}") for seed in ("1", "2")]
    stores = ["--feats", command[command.index("--feats") + 1], "--states", command[command.index("--states") + 1]]
    assert main(["train", "--evaluate", *models, *stores, "--out", "frames_test", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for model, result in zip(models, told, strict=True):
        total = score_in(Path(model) / "frames_test").total
        assert total.words == result["frames"]
        assert 1 - total.wer == pytest.approx(result["frame_accuracy"])


def test_what_cannot_be_evaluated_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--set", "epochs=1"]) == 0
    evaluated = ["train", "--evaluate", str(tmp_path / "exp"), "--feats", command[6], "--states"]
    for out in (str(tmp_path / "one"), "../one"):
        assert main([*evaluated, command[8], "--out", out]) == 1
        assert f"--out {out}: with --evaluate, give a folder inside that of each NETWORK" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()
    other = write_states(tmp_path / "other", speech([50] * 4, 1)[1], STATES - 1)
    assert main([*evaluated, str(other.path)]) == 1
    message = f"{other.path}: labels of {STATES - 1} states, but {tmp_path / 'exp'} has {STATES} outputs"
    assert message in capsys.readouterr().err
