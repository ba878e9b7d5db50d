"""``asr-kd frames``: each action from the command line."""

from pathlib import Path

import pytest

from asr_kd.cli import main
from asr_kd.frames import FrameStore


def test_info_says_what_a_store_holds(store: FrameStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frames", "info", str(store.path)]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "features, 20 utterances",
        "fbank [frames, 4] float16, 8 bytes a frame: log-mel",
        store.content_hash,
    ):
        assert expected in shown


def test_verify_passes_fails_and_rebuilds(store: FrameStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frames", "verify", str(store.path)]) == 0
    (Path(store.path) / "index.json").unlink()
    assert main(["frames", "verify", str(store.path)]) == 1
    assert "--rebuild" in capsys.readouterr().err
    assert main(["frames", "verify", "--rebuild", str(store.path)]) == 0
    path = Path(store.headers[0].path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert main(["frames", "verify", str(store.path)]) == 1
    assert "shard-00000.safetensors: checksum" in capsys.readouterr().err
    assert main(["frames", "verify", "--rebuild", str(store.path)]) == 1


def test_copy_takes_a_part_in_other_shards(
    store: FrameStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text("utt03 some words\nutt11\n")
    command = ["frames", "copy", str(store.path), str(tmp_path / "part")]
    assert main([*command, "--utterances", str(tmp_path / "list"), "--shard-frames", "1"]) == 0
    part = FrameStore(tmp_path / "part")
    assert part.utterances == ("utt03", "utt11")
    assert len(part.headers) == 2
    assert all((part.read(u)["fbank"] == store.read(u)["fbank"]).all() for u in part.utterances)
    assert part.inputs["store"] == store.content_hash
    (tmp_path / "list").write_text("nobody\n")
    assert main([*command, "--utterances", str(tmp_path / "list")]) == 1
    assert "no utterance nobody" in capsys.readouterr().err


def test_export_and_import_are_inverse(store: FrameStore, tmp_path: Path) -> None:
    assert main(["frames", "export", str(store.path), str(tmp_path / "o.ark")]) == 0
    assert main(["frames", "import", str(tmp_path / "o.scp"), str(tmp_path / "back"), "--kind", "features"]) == 0
    back = FrameStore(tmp_path / "back")
    assert all((back.read(u)["fbank"] == store.read(u)["fbank"]).all() for u in store.utterances)


def test_what_a_kaldi_archive_holds_instead_is_named(
    store: FrameStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frames", "export", str(store.path), str(tmp_path / "o.ark")]) == 0
    assert main(["frames", "import", str(tmp_path / "o.scp"), str(tmp_path / "back"), "--kind", "states"]) == 1
    first = f"o.ark: utterance {store.utterances[0]}: a float matrix; expected an integer vector (--skip-bad"
    error = capsys.readouterr().err
    assert first in error
    assert error.count("utterance") == 1
    (tmp_path / "lm.arpa").write_text("\\data\\\nngram 1=60\n")
    assert main(["frames", "import", str(tmp_path / "lm.arpa"), str(tmp_path / "back"), "--kind", "features"]) == 1
    assert "not a Kaldi archive" in capsys.readouterr().err


def test_an_unknown_tensor_is_named_with_those_that_exist(
    store: FrameStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frames", "export", str(store.path), str(tmp_path / "o.ark"), "--tensor", "foo"]) == 1
    assert f"{store.path}: no tensor 'foo'; it holds: fbank" in capsys.readouterr().err
