"""Data directories, models and single files at URLs: read as if they lay here, and clear errors where they do not."""

import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import torch

from asr_kd import storage
from asr_kd.cli import main
from asr_kd.corpus.datadir import read_data_dir, write_data_dir
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.feature_store import write_features
from asr_kd.files import read_text
from asr_kd.frames import FrameStore
from asr_kd.frames.utterance_list import read_utterance_list
from asr_kd.hmm.states import StateSpace
from asr_kd.nets import AcousticModel, NetConfig, load_model, model_hash, open_model, save_ensemble, save_model
from tests.object_storage import Fault, Server


def put(folder: Path, url: str) -> None:
    """Copy a folder or a file to a URL."""
    files = fsspec.filesystem("s3")
    for path in [folder] if folder.is_file() else filter(Path.is_file, folder.rglob("*")):
        name = "" if folder.is_file() else f"/{path.relative_to(folder)}"
        files.pipe_file(f"{url}{name}", path.read_bytes())


@pytest.fixture
def data(server: Server, tmp_path: Path) -> tuple[str, str]:
    """A data directory with its audio, here and in the bucket."""
    rng = np.random.default_rng(0)
    names = [f"u{number}" for number in range(4)]
    (tmp_path / "audio").mkdir()
    for name in names:
        soundfile.write(tmp_path / "audio" / f"{name}.flac", rng.normal(scale=0.1, size=8000), 16000)
    put(tmp_path / "audio", "s3://bucket/audio")
    speakers, words = {name: f"s{name[1] < '2'}" for name in names}, {name: ["a"] for name in names}
    for folder, place in (("here", tmp_path / "audio"), ("there", "s3://bucket/audio")):
        wav = {name: f"{place}/{name}.flac" for name in names}
        write_data_dir(tmp_path / folder, wav, words, speakers)
    put(tmp_path / "there", "s3://bucket/data")
    return str(tmp_path / "here"), "s3://bucket/data"


@pytest.mark.parametrize("mode", ["none", "speaker"])
def test_features_come_from_audio_and_tables_in_object_storage(data: tuple[str, str], mode: str) -> None:
    config = FeatureConfig(normalise=mode)  # type: ignore[arg-type]
    here, there = (read_data_dir(path) for path in data)
    expected = write_features(here, "memory://expected", config, force=True)
    found = write_features(there, "s3://bucket/feats", config)
    assert found.content_hash == expected.content_hash
    assert [path.rpartition("/")[2] for path in fsspec.filesystem("s3").find("bucket/feats")] == [
        "index.json", "shard-00000.safetensors"
    ]  # fmt: skip
    assert FrameStore("s3://bucket/feats").inputs == expected.inputs


def test_only_the_tables_of_a_data_directory_are_fetched(server: Server, data: tuple[str, str], tmp_path: Path) -> None:
    put(tmp_path / "audio", "s3://bucket/data/audio")
    server.requests.clear()
    assert read_data_dir(data[1]).utterances == read_data_dir(data[0]).utterances
    assert server.counted("GET", ".flac") == 0
    assert read_utterance_list(data[1]) == read_utterance_list(data[0])


def test_the_command_line_takes_urls(data: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feats", data[1], "s3://bucket/feats", "--jobs", "2"]) == 0
    assert main(["frames", "info", "s3://bucket/feats"]) == 0
    assert "4 utterances" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["s3://bucket/x", "s3:/bucket/x", "gs://bucket/x"])
def test_an_output_that_is_no_store_is_refused_at_a_url(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--feats", "f", "--dev-feats", "f", "--dev-states", "s", "--out", place]) == 1
    assert f"{place}: only frame stores are written to a URL" in capsys.readouterr().err


def test_networks_and_ensembles_are_opened_at_a_url(server: Server, tmp_path: Path) -> None:
    for seed in ("seed1", "seed2"):
        torch.manual_seed(int(seed[-1]))
        save_model(AcousticModel(NetConfig(bins=4, states=3, width=8, layers=1)), tmp_path / "net" / seed)
    save_ensemble(tmp_path / "net", [tmp_path / "net" / seed for seed in ("seed1", "seed2")])
    put(tmp_path / "net", "s3://bucket/net")
    features = torch.randn(1, 30, 4)
    for name in ("", "/seed1"):
        here, there = (open_model(f"{place}{name}") for place in (tmp_path / "net", "s3://bucket/net"))
        torch.testing.assert_close(there(features), here(features), rtol=0, atol=0)
        assert model_hash(f"s3://bucket/net{name}") == model_hash(f"{tmp_path}/net{name}")
    with pytest.raises(UserError, match="s3://bucket/none: no such file or folder"):
        load_model("s3://bucket/none")


def test_an_hmm_folder_and_a_single_file_are_read_at_a_url(server: Server, tmp_path: Path) -> None:
    table, loops = np.zeros((2, 2, 2, 1), np.int32), np.full(1, -0.5, np.float32)
    space = StateSpace(("sil", "a"), ("sil",), np.ones(2, np.int64), table, loops)
    space.save(tmp_path / "hmm")
    put(tmp_path / "hmm", "s3://bucket/hmm")
    assert StateSpace.load("s3://bucket/hmm").phones == space.phones
    assert read_text("s3://bucket/hmm/states.yaml") == read_text(tmp_path / "hmm" / "states.yaml")
    with pytest.raises(UserError, match="s3://bucket/hmm/none.yaml: no such file, folder or bucket"):
        read_text("s3://bucket/hmm/none.yaml")
    with pytest.raises(UserError, match="s3://bucket/hmm: is a folder; expected a file"):
        read_text("s3://bucket/hmm")
    with pytest.raises(UserError, match="file:///dev/zero: is a device or a named pipe; expected a file"):
        read_text("file:///dev/zero")


def test_what_changed_at_the_url_is_fetched_again_by_the_next_process(server: Server, tmp_path: Path) -> None:
    files = fsspec.filesystem("s3")
    for text in ("one", "two"):
        files.pipe_file("bucket/folder/file", text.encode())
        storage._copied.cache_clear()
        assert (storage.local("s3://bucket/folder") / "file").read_text() == text
    files.pipe_file("bucket/folder/file", b"three")
    assert (storage.local("s3://bucket/folder") / "file").read_text() == "two"  # one process, one state
    assert len(list((tmp_path / "cache" / "folders").iterdir())) == 2


def test_a_copy_that_was_not_used_for_a_month_is_deleted(server: Server, tmp_path: Path) -> None:
    import os

    files = fsspec.filesystem("s3")
    for name in ("old", "new"):
        files.pipe_file(f"bucket/{name}/file", b"text")
        copy = storage.local(f"s3://bucket/{name}")
        os.utime(copy.parent, (0, 0))
    assert [path.name for path in sorted((tmp_path / "cache" / "folders").iterdir())] == [copy.parent.name]


def test_a_folder_that_is_no_model_is_not_downloaded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FOLDER_FILES", 2)
    for number in range(3):
        fsspec.filesystem("s3").pipe_file(f"bucket/corpus/{number}", b"audio")
    with pytest.raises(UserError, match="s3://bucket/corpus: 3 files, 15 bytes in total: too large for a data"):
        storage.local("s3://bucket/corpus")


def test_a_lasting_failure_names_the_file(server: Server) -> None:
    fsspec.filesystem("s3").pipe_file("bucket/net/config.yaml", b"width: 8")
    with server.failing(Fault("500", ".yaml")), pytest.raises(UserError, match="s3://bucket/net/config.yaml: the stor"):
        storage.local("s3://bucket/net")


def test_a_missing_library_is_named_with_the_extra_that_installs_it() -> None:
    program = (
        "import sys; sys.modules['s3fs'] = None\nfrom asr_kd.cli import main\n"
        "sys.exit(main(['frames', 'info', 's3://bucket/store']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install 'asr_kd[s3]'" in result.stderr
    assert "Traceback" not in result.stderr
