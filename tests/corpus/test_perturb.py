"""Speed perturbation moves length and frequency together, and names its copies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.corpus import perturb as perturb_module
from asr_kd.corpus.audio import load_audio
from asr_kd.corpus.datadir import DataDir, read_data_dir, write_data_dir
from asr_kd.corpus.perturb import perturb_speed
from asr_kd.errors import UserError
from tests.killing import Killed, digests, killed_at

MakeDir = Callable[..., DataDir]


def test_a_faster_copy_is_shorter_and_higher(make_dir: MakeDir, tmp_path: Path) -> None:
    copies = perturb_speed(make_dir({"a-1": 1.0}), tmp_path / "out", [0.9, 1.0, 1.1])
    assert copies.utterances == ("sp0.9-a-1", "sp1.1-a-1")
    assert list(copies.speakers) == ["sp0.9-a", "sp1.1-a"]
    assert copies.words("sp1.1-a-1") == ["ONE", "TWO"]
    for speed in (0.9, 1.1):
        samples = load_audio(copies, f"sp{speed}-a-1", 16000)
        assert len(samples) == pytest.approx(16000 / speed, abs=1)
        peak = np.abs(np.fft.rfft(samples)).argmax() * 16000 / len(samples)
        assert peak == pytest.approx(440 * speed, abs=1)


def test_segments_are_cut_and_jobs_do_not_matter(make_dir: MakeDir, tmp_path: Path) -> None:
    whole = make_dir({"rec": 1.0})
    cut = {"u1": ("rec", 0.0, 0.25), "u2": ("rec", 0.25, 1.0)}
    data = write_data_dir(whole.path, whole.wav, {}, {"u1": "s", "u2": "s"}, cut)
    one = perturb_speed(data, tmp_path / "one", [1.1], jobs=1)
    two = perturb_speed(data, tmp_path / "two", [1.1], jobs=2)
    assert one.text == {}
    assert len(load_audio(one, "sp1.1-u1", 16000)) == round(4000 / 1.1)
    for utt in one.utterances:
        assert Path(one.wav[utt]).read_bytes() == Path(two.wav[utt]).read_bytes()


@pytest.mark.parametrize("speeds", [[], [1.0], [0.1], [3.0], [0.9, 0.9]])
def test_useless_speeds_are_refused(make_dir: MakeDir, tmp_path: Path, speeds: list[float]) -> None:
    with pytest.raises(UserError, match="--speeds"):
        perturb_speed(make_dir({"a-1": 0.1}), tmp_path / "out", speeds)


def test_the_commands_make_and_join_copies(make_dir: MakeDir, tmp_path: Path) -> None:
    path, out, both = make_dir({"a-1": 0.1}).path, tmp_path / "sp", tmp_path / "both"
    assert main(["corpus", "perturb", str(path), str(out), "--speeds", "0.9,1.1", "--jobs", "1"]) == 0
    assert main(["corpus", "combine", str(both), str(path), str(out)]) == 0
    assert read_data_dir(both).utterances == ("a-1", "sp0.9-a-1", "sp1.1-a-1")


def test_perturbation_that_was_killed_ends_with_the_same_copies(
    make_dir: MakeDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_dir({"a-1": 0.2, "a-2": 0.2, "b-1": 0.2}), tmp_path / "out"
    whole = digests(perturb_speed(data, out, [0.9, 1.1]).path)
    shutil.rmtree(out)
    with monkeypatch.context() as patch:
        patch.setattr(perturb_module, "write_flac", killed_at(perturb_module.write_flac, 4))
        with pytest.raises(Killed):
            perturb_speed(data, out, [0.9, 1.1])
    with pytest.raises(UserError, match=r"wav\.scp: no such file"):
        read_data_dir(out)
    assert digests(perturb_speed(data, out, [0.9, 1.1]).path) == whole
