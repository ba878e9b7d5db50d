"""Data directory to feature store: right values, same bytes, bad audio named."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.config import to_dict
from asr_kd.corpus.audio import load_audio
from asr_kd.corpus.datadir import AudioSegment, DataDir, read_data_dir, write_data_dir
from asr_kd.errors import UserError
from asr_kd.features import feature_store as store_module
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import compute_features
from asr_kd.features.feature_store import write_features
from asr_kd.features.normalise import normalise, speaker_means
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, write_arrays


def files_of(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.mark.parametrize("kind", ["fbank", "mfcc"])
@pytest.mark.parametrize("mode", ["none", "utterance", "speaker", "online"])
def test_store_holds_each_utterances_normalised_features(
    datadir: DataDir, tmp_path: Path, kind: str, mode: str
) -> None:
    config = FeatureConfig(kind=kind, normalise=mode)  # type: ignore[arg-type]
    store = write_features(datadir, tmp_path / "s", config, shard_frames=300)
    assert store.utterances == datadir.utterances
    config = FeatureConfig(**{**store.config, "global_mean": tuple(store.config["global_mean"])})
    raw = {u: compute_features(load_audio(datadir, u, 16000), config) for u in datadir.utterances}
    means = speaker_means(((datadir.utt2spk[u], features) for u, features in raw.items()), config)
    for utterance, features in raw.items():
        expected = normalise(features, config, means[datadir.utt2spk[utterance]] if mode == "speaker" else None)
        found = store.read(utterance)[kind]
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    if mode == "online":
        audible = [features for utterance, features in raw.items() if utterance != "utt06"]  # that one is silent
        np.testing.assert_allclose(config.global_mean, np.concatenate(audible).mean(axis=0), rtol=1e-4)
    assert sorted(path.name for path in Path(store.path).iterdir())[0] == "index.json"
    assert not (Path(store.path) / "raw").exists()


def test_bytes_do_not_depend_on_jobs_nor_on_where_the_audio_lies(datadir: DataDir, tmp_path: Path) -> None:
    one = write_features(datadir, tmp_path / "one", FeatureConfig(), shard_frames=300)
    (tmp_path / "audio").rename(tmp_path / "moved")
    wav = {u: path.replace("/audio/", "/moved/") for u, path in datadir.wav.items()}
    moved = write_data_dir(tmp_path / "data2", wav, datadir.text, datadir.utt2spk)
    two = write_features(moved, tmp_path / "two", FeatureConfig(), jobs=2, shard_frames=300)
    assert files_of(one.path) == files_of(two.path)


def test_a_second_run_decodes_nothing(datadir: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = files_of(write_features(datadir, tmp_path / "s", FeatureConfig()).path)
    monkeypatch.setattr(store_module, "load_audio", lambda *_: pytest.fail("audio was decoded again"))
    assert files_of(write_features(datadir, tmp_path / "s", FeatureConfig()).path) == first


def test_changed_audio_speakers_or_configuration_is_noticed(datadir: DataDir, tmp_path: Path) -> None:
    write_features(datadir, tmp_path / "s", FeatureConfig())
    with pytest.raises(UserError, match="config.bins: 40 stored, 23 requested"):
        write_features(datadir, tmp_path / "s", FeatureConfig(bins=23))
    one_speaker = dataclasses.replace(datadir, utt2spk=dict.fromkeys(datadir.utterances, "x"))
    with pytest.raises(UserError, match=r"inputs\.speakers"):
        write_features(one_speaker, tmp_path / "s", FeatureConfig())
    path = Path(datadir.wav["utt00"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"inputs\.audio"):
        write_features(datadir, tmp_path / "s", FeatureConfig())
    assert write_features(datadir, tmp_path / "s", FeatureConfig(bins=23), force=True).config["bins"] == 23


@pytest.mark.parametrize("stage", ["raw", "final"])
def test_killed_run_goes_on_to_the_same_bytes(datadir: DataDir, tmp_path: Path, stage: str) -> None:
    expected = files_of(write_features(datadir, tmp_path / "reference", FeatureConfig(), shard_frames=300).path)
    target = "_Extract" if stage == "raw" else "_SubtractSpeakerMeans"
    script = f"""
import os, signal, sys
from asr_kd.corpus.datadir import read_data_dir
from asr_kd.features import feature_store as store
from asr_kd.features.config import FeatureConfig
compute = store.{target}.__call__
def killed(self, utterances):
    if "utt08" in utterances:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(self, utterances)
store.{target}.__call__ = killed
store.write_features(read_data_dir(sys.argv[1]), sys.argv[2], FeatureConfig(), shard_frames=300)
"""
    command = [sys.executable, "-c", script, str(datadir.path), str(tmp_path / "s")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "s" / "raw").exists()
    assert not (tmp_path / "s" / "index.json").exists()
    assert files_of(write_features(datadir, tmp_path / "s", FeatureConfig(), shard_frames=300).path) == expected


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_run_says_so_in_one_line_and_goes_on(datadir: DataDir, tmp_path: Path, jobs: str) -> None:
    begun, quick = tmp_path / "begun", tmp_path / "quick"
    slow = {u: f"touch {begun}; [ -e {quick} ] || sleep 20; cat {path} |" for u, path in datadir.wav.items()}
    data = write_data_dir(tmp_path / "slow", slow, {}, datadir.utt2spk)
    command = ["feats", str(data.path), str(tmp_path / "s"), "--allow-pipes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asr_kd", *command, "--jobs", jobs],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: the worker processes get it too
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == 130
    assert errors == "asr-kd feats: interrupted; run the same command again to resume\n"
    quick.touch()
    assert main(command) == 0
    assert main(["feats", str(data.path), str(tmp_path / "whole"), "--allow-pipes"]) == 0
    assert files_of(tmp_path / "s") == files_of(tmp_path / "whole")


def _break(datadir: DataDir, utterance: str, how: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = Path(datadir.wav[utterance])
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "damaged":  # the header is whole, the samples are not: seen only when they are decoded
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        path.write_bytes(content)
    elif how == "one sample":
        soundfile.write(path, np.zeros(1), 8000)
    elif how == "nan":
        soundfile.write(path, np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT", format="WAV")
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else b"no audio at all" * 100)


@pytest.mark.parametrize("mode", ["utterance", "speaker"])
@pytest.mark.parametrize("how", ["truncated", "damaged", "one sample", "nan", "missing", "empty", "text"])
def test_bad_audio_is_named_or_skipped_and_listed(datadir: DataDir, tmp_path: Path, how: str, mode: str) -> None:
    _break(datadir, "utt01", how)
    config = FeatureConfig(normalise=mode)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="utterance utt01: "):
        write_features(datadir, tmp_path / "s", config)
    store = write_features(datadir, tmp_path / "s", config, skip_bad=True)
    assert list(store.skipped) == ["utt01"]
    assert len(store) == 11


def test_segments_are_cut_from_their_recording(datadir: DataDir, tmp_path: Path) -> None:
    recording = datadir.wav["utt00"]
    segments = {"a": AudioSegment("r", 0.0, 0.2), "b": AudioSegment("r", 0.2, 0.5)}
    parts = write_data_dir(tmp_path / "parts", {"r": recording}, {}, {"a": "x", "b": "y"}, segments)
    config = FeatureConfig(normalise="none")
    store = write_features(parts, tmp_path / "s", config)
    assert store.frame_counts == {"a": 18, "b": 28}
    whole = compute_features(load_audio(datadir, "utt00", 16000), config)
    np.testing.assert_allclose(store.read("b")["fbank"], whole[20:48], atol=1e-2)


def test_cli_writes_prints_and_copies_a_configuration(
    datadir: DataDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["feats", str(datadir.path), str(tmp_path / "s")]
    assert main([*command, "--set", "bins=23", "--set", "normalise=online"]) == 0
    shown = capsys.readouterr().out
    store = FrameStore(tmp_path / "s")
    assert f"12 utterances, 0.00 hours, {store.total_frames:,} frames" in shown
    assert "times real time" in shown
    assert main(["feats", str(datadir.path), str(tmp_path / "t"), "--like", str(tmp_path / "s")]) == 0
    assert FrameStore(tmp_path / "t").config == store.config
    assert FrameStore(tmp_path / "t").content_hash == store.content_hash
    assert main([*command, "--set", "bin=23"]) == 1
    assert "--set bin: unknown key; did you mean bins?" in capsys.readouterr().err
    _break(datadir, "utt03", "empty")
    assert main(["feats", str(datadir.path), str(tmp_path / "u"), "--skip-bad"]) == 0
    assert "skipped utt03: " in capsys.readouterr().out


def test_real_speech_in_flac_and_opus(corpora: Path, tmp_path: Path) -> None:
    audio = sorted((corpora / "an4").rglob("*.flac"))[:3] + sorted((corpora / "LibriSpeech").rglob("*.opus"))[:3]
    wav = {path.stem: str(path) for path in audio}
    write_data_dir(tmp_path / "data", wav, {}, {utterance: utterance[:4] for utterance in wav})
    store = write_features(read_data_dir(tmp_path / "data"), tmp_path / "s", FeatureConfig())
    assert store.config == {**to_dict(FeatureConfig()), "global_mean": []}
    frames = np.concatenate([shard.tensors["fbank"] for shard in store.shards()]).astype(np.float32)
    assert 1 < frames.std() < 5


def test_what_happens_to_the_audio_is_said_once(
    datadir: DataDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["feats", str(datadir.path), str(tmp_path / "s")]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: 2 of 12 utterances were recorded at 8,000 Hz and upsampled to 16,000 Hz: nothing above 4,000 Hz",
        "note: 1 of 12 utterances has several channels, which are averaged",
    ]
    segments = {"a": AudioSegment("utt00", 0.1, 0.9)}  # of a recording of 0.5 s
    data = write_data_dir(tmp_path / "cut", {"utt00": datadir.wav["utt00"]}, {}, {"a": "s"}, segments)
    assert main(["feats", str(data.path), str(tmp_path / "t")]) == 0
    assert "note: 1 of 1 segment ends after its recording and is truncated there" in capsys.readouterr().err
    assert FrameStore(tmp_path / "t").frame_counts == {"a": 38}


def test_the_configuration_is_printed_and_can_be_read_back(
    datadir: DataDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["feats", "--print-config", "--set", "bins=23"]) == 0
    (tmp_path / "feats.yaml").write_text(capsys.readouterr().out)
    store = tmp_path / "s"
    assert main(["feats", str(datadir.path), str(store), "--config", str(tmp_path / "feats.yaml")]) == 0
    assert FrameStore(store).config == {**to_dict(FeatureConfig(bins=23)), "global_mean": []}
    assert main(["feats", str(datadir.path)]) == 2
    assert "expected DATA and STORE" in capsys.readouterr().err


def test_features_of_a_wav_in_an_archive_are_those_of_the_file(datadir: DataDir, tmp_path: Path) -> None:
    content = Path(datadir.wav["utt00"]).read_bytes()
    (tmp_path / "wav.ark").write_bytes(b"x " + content + b"y " + content)
    wav = {"x": f"{tmp_path / 'wav.ark'}:2", "y": f"{tmp_path / 'wav.ark'}:{len(content) + 4}"}
    data = write_data_dir(tmp_path / "archive", wav, {}, {"x": "s", "y": "s"})
    store = write_features(data, tmp_path / "s", FeatureConfig(normalise="none"))
    alone = write_features(datadir, tmp_path / "alone", FeatureConfig(normalise="none")).read("utt00")["fbank"]
    for utterance in wav:
        np.testing.assert_array_equal(store.read(utterance)["fbank"], alone)


def test_features_that_record_no_configuration_give_none(
    datadir: DataDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = write_arrays(
        tmp_path / "imported",
        StoreContent("features", {"fbank": TensorSpec("float32", (40,))}),
        {"u": {"fbank": np.zeros((3, 40), np.float32)}},
    )
    assert main(["feats", str(datadir.path), str(tmp_path / "s"), "--like", str(imported.path)]) == 1
    assert "imported: does not record how its features were computed" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_the_configuration_of_a_store_of_states_is_not_that_of_features(
    datadir: DataDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = StoreContent("states", {"state": TensorSpec("uint16")}, {"num_states": 2})
    write_arrays(tmp_path / "states", content, {"u": {"state": np.zeros(3, np.uint16)}})
    assert main(["feats", str(datadir.path), str(tmp_path / "s"), "--like", str(tmp_path / "states")]) == 1
    assert "states: holds states; expected features" in capsys.readouterr().err
