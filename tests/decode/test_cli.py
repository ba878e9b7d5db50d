"""`asr-kd decode` and `asr-kd model`, from audio files to files of words."""

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from asr_kd.cli import main
from asr_kd.corpus.audio import read_audio
from asr_kd.decode import formats, journal, recognise
from asr_kd.decode.model_folder import Model, load_model_folder
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import compute_features
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, write_arrays
from asr_kd.nets import load_model
from asr_kd.score.score_files import score_in
from tests.decode.conftest import FORMATS
from tests.killing import Killed, killed_at


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_every_format_and_rate_gives_a_line_in_the_order_given(
    model: Model, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(audio / name) for name in reversed(FORMATS)]
    assert main(["decode", str(model.path), *files, files[0]]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == [*files, files[0]]
    assert "6 utterances" in captured.err
    assert re.search(r"real-time factor \d", captured.err)


def test_jobs_and_a_list_on_standard_input_change_nothing(
    model: Model, audio: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(audio / name) for name in FORMATS]
    assert main(["decode", str(model.path), *files]) == 0
    expected = lines(capsys)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(("\n".join(files) + "\n").encode())))
    assert main(["decode", str(model.path), "--list", "-", "--jobs", "2"]) == 0
    assert lines(capsys) == expected


def test_json_ctm_and_trn_agree(model: Model, audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["decode", str(model.path), str(audio / "a.wav"), "--word-penalty", "-5", "--format"]
    assert main([*command, "json", "--nbest", "4"]) == 0
    content = json.loads(lines(capsys)[0])
    words = content["text"].split()
    assert [word["word"] for word in content["words"]] == words
    assert words
    assert all(0 <= word["begin"] < word["end"] <= content["seconds"] + 1e-9 for word in content["words"])
    assert all(0 < word["confidence"] <= 1 for word in content["words"])
    assert content["nbest"][0] == {"text": content["text"], "cost": content["cost"]}
    assert len({entry["text"] for entry in content["nbest"]}) == 4
    assert main([*command, "ctm"]) == 0
    rows = [line.split() for line in lines(capsys)]
    assert [row[4] for row in rows] == words
    assert [float(row[2]) for row in rows] == [word["begin"] for word in content["words"]]
    assert main([*command, "trn"]) == 0
    assert lines(capsys) == [f"{content['text']} ({audio / 'a.wav'})"]
    assert main([*command, "text", "--nbest", "2"]) == 0
    assert [line.split()[0][-2:] for line in lines(capsys)] == ["-1", "-2"]


def test_a_bad_file_is_named_and_skipped_only_on_request(
    model: Model, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["decode", str(model.path)]
    for name in ("broken.wav", "short.wav", "absent.wav"):
        files = [str(audio / "a.wav"), str(audio / name), str(audio / "d.wav")]
        assert main([*command, *files]) == 1
        assert name in capsys.readouterr().err
        assert main([*command, *files, "--skip-bad"]) == 0
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == 2
        assert f"skipped: {audio / name}" in captured.err
        assert captured.err.splitlines()[-1].endswith("1 skipped")


def test_skipped_inputs_are_counted_and_listed_in_decode_json(
    model: Model, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [str(audio / name) for name in ("broken.wav", "short.wav", "absent.wav")]
    command = ["decode", str(model.path), bad[0], str(audio / "a.wav"), *bad[1:], "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert not (tmp_path / "out").exists()
    assert main([*command, "--skip-bad"]) == 0
    told = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert list(told["bad"]) == bad
    assert all(name in reason for name, reason in told["bad"].items())
    assert told["utterances"] == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("3 skipped")


def test_silent_constant_and_clipped_audio_are_decoded_not_dropped(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(size=16000)
    for name, samples in (("silent", noise * 0), ("constant", noise * 0 + 0.5), ("clipped", np.sign(noise))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
    files = [str(tmp_path / f"{name}.wav") for name in ("silent", "constant", "clipped")]
    assert main(["decode", str(model.path), *files, "--format", "json", "--nbest", "2"]) == 0
    found = [json.loads(line) for line in lines(capsys)]
    assert [entry["name"] for entry in found] == files
    assert all(np.isfinite(entry["cost"]) for entry in found)


def test_a_data_directory_is_decoded_into_a_folder(
    model: Model, datadir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", str(model.path), str(datadir), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "text").read_text()
    assert text.splitlines() == lines(capsys)
    assert [line.split()[0] for line in text.splitlines()] == ["u1", "u2", "u3"]
    ctm = (tmp_path / "out" / "ctm").read_text().splitlines()
    assert [line.split()[4] for line in ctm] == [word for line in text.splitlines() for word in line.split()[1:]]
    told = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert told["utterances"] == 3
    assert told["frames"] == 3 * 98
    assert told["real_time_factor"] > 0
    assert told["parameters"] == model.scorer.parameters
    assert told["frame_accuracy"] is None


def test_without_times_the_words_are_the_same(
    model: Model, datadir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["decode", str(model.path), str(datadir), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    text = (tmp_path / "out" / "text").read_text()
    assert main([*command, "--no-times"]) == 0
    assert (tmp_path / "out" / "text").read_text() == text
    assert not (tmp_path / "out" / "ctm").exists()  # nor that of the earlier words
    assert main([*command, "--no-times", "--format", "ctm"]) == 1
    assert "--no-times and --format ctm" in capsys.readouterr().err


def test_a_killed_decoding_leaves_no_summary_or_score_of_earlier_words(
    model: Model, datadir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["decode", str(model.path), str(datadir), "--output", str(out)]
    assert main(command) == 0
    assert main(["score", "--ref", str(datadir), "--hyp", str(out)]) == 0
    assert (out / "wer.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(formats, "write_text", killed_at(formats.write_text, 3))
        with pytest.raises(Killed):
            main([*command, "--word-penalty", "-3"])
    assert sorted(path.name for path in out.iterdir()) == [journal.NAME, "ctm", "text"]
    assert main(command) == 0
    assert json.loads((out / "decode.json").read_text())["word_penalty"] == 0


def test_stored_features_give_the_same_words_and_frame_accuracy(
    model: Model, datadir: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = model.config.features
    arrays = {
        name: {"fbank": compute_features(read_audio(path, 16000), config)}
        for name, path in (("u1", audio / "a.wav"), ("u3", audio / "d.wav"))
    }
    write_arrays(
        tmp_path / "feats", StoreContent("features", {"fbank": TensorSpec("float32", (13,), "log-mel")}), arrays
    )
    posteriors = {name: np.concatenate(list(model.scorer.blocks(x["fbank"]))) for name, x in arrays.items()}
    states = {
        name: {"state": (x + model.scorer.log_prior).argmax(1).astype(np.uint16)} for name, x in posteriors.items()
    }
    states["u3"]["state"][:49] += 1  # half of one utterance of two is wrong
    write_arrays(tmp_path / "ali", StoreContent("states", {"state": TensorSpec("uint16", (), "state")}), states)
    assert main(["decode", str(model.path), str(datadir)]) == 0
    expected = lines(capsys)
    with_data = ["decode", str(model.path), str(datadir), "--feats", str(tmp_path / "feats")]
    assert main(with_data) == 1
    assert "no utterance u2" in capsys.readouterr().err
    assert main([*with_data, "--skip-bad"]) == 0
    assert lines(capsys) == [expected[0], expected[2]]
    (tmp_path / "ids").write_text("u3\nu1\n")
    options = [
        "--feats",
        str(tmp_path / "feats"),
        "--utterances",
        str(tmp_path / "ids"),
        "--states",
        str(tmp_path / "ali"),
    ]
    assert main(["decode", str(model.path), *options, "--output", str(tmp_path / "out")]) == 0
    assert lines(capsys) == [expected[0], expected[2]]
    assert json.loads((tmp_path / "out" / "decode.json").read_text())["frame_accuracy"] == pytest.approx(0.75)
    judged = score_in(tmp_path / "out")
    assert (judged.unit, judged.utterances, judged.speakers) == ("frames", ("u1", "u3"), None)
    assert judged.errors.tolist() == [0, 49]
    command = ["decode", str(model.path), str(datadir), *options]
    assert main([*command, "--output", str(tmp_path / "by_speaker")]) == 0
    assert score_in(tmp_path / "by_speaker").speakers == ("z", "z")


def test_features_of_another_kind_or_with_nan_are_refused(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, bins in (("wide", 9), ("right", 13)):
        spec = {"fbank": TensorSpec("float32", (bins,), "log-mel")}
        frames = np.full((50, bins), 12.0, np.float32)
        write_arrays(tmp_path / name, StoreContent("features", spec), {"u1": {"fbank": frames}})
    assert main(["decode", str(model.path), "--feats", str(tmp_path / "wide")]) == 1
    assert "holds 9 fbank coefficients; this model needs 13 fbank" in capsys.readouterr().err
    assert main(["decode", str(model.path), "--feats", str(tmp_path / "right")]) == 0
    capsys.readouterr()
    frames[7, 3] = np.nan  # a writer refuses NaN, so a damaged store is played here
    monkeypatch.setattr(FrameStore, "read", lambda *_: {"fbank": frames})
    assert main(["decode", str(model.path), "--feats", str(tmp_path / "right")]) == 1
    error = capsys.readouterr().err
    assert "frame 7" in error
    assert "u1" in error


def test_impossible_requests_are_refused(
    model: Model, audio: Path, datadir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(audio / "a.wav")
    (tmp_path / "none").write_text("\n")
    for options, message in (
        ([], "nothing to decode"),
        ([file, "--feats", "x"], "INPUT must be a data directory"),
        ([file, "--format", "ctm", "--nbest", "2"], "--nbest 2 needs"),
        ([file, "--nbest", "-1"], "--nbest -1"),
        ([str(datadir), "--utterances", str(tmp_path / "none")], "none: lists no utterances"),
        ([file, "--tune"], "needs one data directory"),
        ([file, "--beam", "-1"], "--beam -1: expected more than 0"),
    ):
        assert main(["decode", str(model.path), *options]) == 1
        assert message in capsys.readouterr().err


def test_speaker_means_are_those_of_all_the_speakers_utterances(
    tmp_path: Path, parts: Path, datadir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feats.yaml").write_text("bins: 13\nnormalise: speaker\n")
    build = ["model", "build", "--network", str(parts / "network"), "--graph", str(parts / "graph")]
    build += ["--states", str(parts / "states"), "--features", str(tmp_path / "feats.yaml"), str(tmp_path / "m")]
    assert main(build) == 0
    assert main(["model", "info", str(tmp_path / "m")]) == 0
    assert "normalised: speaker" in capsys.readouterr().out
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.decode.sources import datadir_sources

    config = FeatureConfig(bins=13, normalise="speaker")
    found = {
        name: x for source in datadir_sources(read_data_dir(datadir), config) for name, x in source.features(config)
    }
    both = np.concatenate([found["u1"], found["u3"]])
    assert np.abs(both.mean(0)).max() < 1e-4
    assert np.abs(both[: len(both) // 2].mean(0)).max() > 1e-2


def test_tuning_lowers_the_errors_and_is_stored(
    model: Model, datadir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", str(model.path), str(datadir), "--tune"]) == 0
    assert "dev WER" in capsys.readouterr().out
    stored = yaml.safe_load((model.path / "model.yaml").read_text())
    tuned = json.loads((model.path / "tune.json").read_text())
    assert stored["tuned_on"] == f"{datadir.name} (3 utterances)"
    assert stored["search"]["word_penalty"] == tuned["best"]["word_penalty"]
    assert tuned["best"]["errors"] == tuned["beams"][0]["errors"]
    assert stored["search"]["beam"] == tuned["best"]["beam"] <= tuned["beams"][0]["beam"]
    assert tuned["best"]["errors"] <= tuned["rounds"][0][0]["errors"]
    assert tuned["best"]["words"] == 4
    output = ["--output", str(tmp_path / "out")]
    assert main(["decode", str(model.path), str(datadir), *output]) == 0
    said = [line.split()[1:] for line in lines(capsys)]
    import jiwer

    references = ["GO", "STOP ON", "NO"]
    counts = jiwer.process_words(references, [" ".join(words) for words in said])
    assert counts.substitutions + counts.deletions + counts.insertions == tuned["best"]["errors"]
    assert json.loads((tmp_path / "out" / "decode.json").read_text())["tuned_on"] == f"{datadir.name} (3 utterances)"


def test_a_network_may_be_built_with_other_priors(
    tmp_path: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feats.yaml").write_text("bins: 13\n")
    network = load_model(parts / "network")
    states = np.arange(network.num_states, dtype=np.uint16).repeat(np.arange(network.num_states) % 3 + 1)
    write_arrays(tmp_path / "ali", StoreContent("states", {"state": TensorSpec("uint16")}), {"u": {"state": states}})
    build = ["model", "build", "--graph", str(parts / "graph"), "--states", str(parts / "states")]
    build += ["--features", str(tmp_path / "feats.yaml"), "--priors", str(tmp_path / "ali"), str(tmp_path / "m")]
    assert main([*build, "--network", str(parts / "network")]) == 0
    built = load_model_folder(tmp_path / "m")
    counts = np.bincount(states) + 1
    np.testing.assert_allclose(np.exp(built.scorer.log_prior), counts / counts.sum(), rtol=1e-5)
    assert not np.allclose(network.log_prior, built.scorer.log_prior)  # the original keeps its own
    capsys.readouterr()
    assert main([*build, "--gmm", str(tmp_path / "gmm")]) == 1
    assert "only a single network" in capsys.readouterr().err


def test_a_file_name_that_is_not_utf8_is_named_before_anything_is_decoded(
    model: Model, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    latin = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    shutil.copy(audio / "a.wav", latin)
    good = str(audio / "d.wav")
    for given in ([good, latin], ["--list", str(tmp_path / "list")], ["--list", "-"]):
        listed = os.fsencode(f"{good}\n{latin}\n")
        (tmp_path / "list").write_bytes(listed)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
        assert main(["decode", str(model.path), *given]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert r"caf\xe9.wav: the file name is not UTF-8" in captured.err
    assert main(["decode", str(model.path), good, latin, "--skip-bad", "--output", str(tmp_path / "out")]) == 0
    assert [line.split()[0] for line in lines(capsys)] == [good]
    (name,) = json.loads((tmp_path / "out" / "decode.json").read_text())["bad"]
    assert name.endswith(r"caf\xe9.wav")


def test_a_folder_of_audio_files_is_explained(
    model: Model, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("x.wav", "sub/y.wav", "sub/z.flac"):
        shutil.copy(audio / "a.wav", tmp_path / "folder" / name)
    assert main(["decode", str(model.path), str(tmp_path / "folder")]) == 1
    error = capsys.readouterr().err
    assert "a folder without wav.scp" in error
    assert "holds 3 audio files" in error
    command = re.search(r"with (find .*) \| asr-kd decode MODEL_DIR --list -", error)
    assert command is not None
    found = subprocess.run(command[1], shell=True, capture_output=True, text=True, check=True).stdout
    assert len(found.splitlines()) == 3
    assert main(["decode", str(model.path), str(tmp_path / "empty")]) == 1
    assert "holds no audio files" in capsys.readouterr().err


def test_utterances_that_would_share_an_id_in_the_output_are_refused(
    model: Model, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a b.wav", "a_b.wav"):
        shutil.copy(audio / "a.wav", tmp_path / name)
    both = [str(tmp_path / "a b.wav"), str(tmp_path / "a_b.wav")]
    for files, message in ((both, "would get the same id"), ([both[0], both[0]], "is given twice")):
        assert main(["decode", str(model.path), *files]) == 0
        assert main(["decode", str(model.path), *files, "--output", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err


def test_audio_of_a_lower_rate_is_remarked_on_once(
    model: Model, audio: Path, datadir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for inputs in ([str(audio / "d.wav"), str(audio / "a.wav"), str(audio / "b.flac")], [str(datadir)]):
        assert main(["decode", str(model.path), *inputs]) == 0
        remarks = [line for line in capsys.readouterr().err.splitlines() if "Hz" in line]
        assert len(remarks) == 1
        assert "recorded at 8,000 Hz and upsampled to 16,000 Hz" in remarks[0]


def test_times_begin_where_a_frame_is_heard(
    model: Model, audio: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["decode", str(model.path), str(audio / "a.wav"), "--word-penalty", "-5", "--format", "json"]
    assert main(command) == 0
    offset = json.loads(lines(capsys)[0])
    monkeypatch.setattr(recognise, "FRAME_CENTRE_OFFSET", 0.0)
    assert main(command) == 0
    plain = json.loads(lines(capsys)[0])
    for edge in ("begin", "end"):
        shifts = [a[edge] - b[edge] for a, b in zip(offset["words"], plain["words"], strict=True)]
        assert shifts == pytest.approx([0.01] * len(shifts))
    assert offset["words"][-1]["end"] <= offset["seconds"]


@pytest.mark.parametrize("option", ["--beam", "--acoustic-scale", "--max-active"])
def test_a_search_option_out_of_range_is_named_as_it_was_given(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["model", "build", "--network", "n", "--graph", "g", "--features", "f", "m"]
    assert main([*command, option, "-1"]) == 1
    assert f"{option} -1: expected more than 0" in capsys.readouterr().err


def test_a_missing_file_is_named_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "no_model", "no.wav"]) == 1
    assert "no.wav: no such audio file or data directory (--skip-bad continues without it)" in capsys.readouterr().err


def test_only_the_model_is_a_required_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["decode"])
    assert capsys.readouterr().err.endswith("the following arguments are required: MODEL_DIR\n")
