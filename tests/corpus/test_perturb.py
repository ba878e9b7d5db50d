"""Speed perturbation moves length and frequency together, shifts drop less than a frame, and copies have names."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from asr_kd.cli import main
from asr_kd.corpus import perturb as perturb_module
from asr_kd.corpus.audio import load_audio, write_flac
from asr_kd.corpus.datadir import AudioSegment, DataDir, read_data_dir, write_data_dir
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
    cut = {"u1": AudioSegment("rec", 0.0, 0.25), "u2": AudioSegment("rec", 0.25, 1.0)}
    data = write_data_dir(whole.path, whole.wav, {}, {"u1": "s", "u2": "s"}, cut)
    one = perturb_speed(data, tmp_path / "one", [1.1], jobs=1)
    two = perturb_speed(data, tmp_path / "two", [1.1], jobs=2)
    assert one.text == {}
    assert len(load_audio(one, "sp1.1-u1", 16000)) == round(4000 / 1.1)
    for utt in one.utterances:
        assert Path(one.wav[utt]).read_bytes() == Path(two.wav[utt]).read_bytes()


def test_a_pool_has_a_copy_for_each_speed_and_shift(make_dir: MakeDir, tmp_path: Path) -> None:
    data = make_dir({"a-1": 0.2, "b-1": 0.2})
    pool = perturb_speed(data, tmp_path / "out", [0.9, 1.0, 1.1], [0.0, 0.25, 0.5])
    prefixes = [
        "sp0.9-",
        "sp0.9-sh0.25-",
        "sp0.9-sh0.5-",
        "sh0.25-",
        "sh0.5-",
        "sp1.1-",
        "sp1.1-sh0.25-",
        "sp1.1-sh0.5-",
    ]
    assert pool.utterances == tuple(sorted(prefix + utt for prefix in prefixes for utt in data.utterances))
    assert pool.speakers["a"] == ["sh0.25-a-1", "sh0.5-a-1"]
    assert pool.speakers["sp0.9-a"] == ["sp0.9-a-1", "sp0.9-sh0.25-a-1", "sp0.9-sh0.5-a-1"]
    assert list(pool.speakers) == ["a", "b", "sp0.9-a", "sp0.9-b", "sp1.1-a", "sp1.1-b"]
    assert set(pool.text) == set(pool.utterances)


@pytest.mark.parametrize(("rate", "dropped"), [(16000, 40), (22050, 55)])
def test_a_shifted_copy_is_the_tail_of_the_unshifted_audio(
    tmp_path: Path, tone: Callable[..., np.ndarray], rate: int, dropped: int
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.2, rate), rate)
    data = write_data_dir(tmp_path / "data", {"a": tmp_path / "a.wav"}, {}, {"a": "a"})
    pool = perturb_speed(data, tmp_path / "out", [1.0, 1.1], [0.0, 0.25])
    for held, whole, shifted in ((data, "a", "sh0.25-a"), (pool, "sp1.1-a", "sp1.1-sh0.25-a")):
        expected = load_audio(held, whole, rate)[dropped:]
        np.testing.assert_array_equal(load_audio(pool, shifted, rate), expected)


def test_shifts_leave_the_unshifted_copies_as_they_are(make_dir: MakeDir, tmp_path: Path) -> None:
    data = make_dir({"a-1": 0.2})
    plain, pool = (
        perturb_speed(data, tmp_path / "plain", [0.9]),
        perturb_speed(data, tmp_path / "pool", [0.9], [0.5, 0]),
    )
    assert Path(pool.wav["sp0.9-a-1"]).read_bytes() == Path(plain.wav["sp0.9-a-1"]).read_bytes()


def test_audio_is_resampled_once_for_each_speed(
    make_dir: MakeDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    resample = soxr.resample

    def counted(samples: np.ndarray, rate: float, wanted: float) -> np.ndarray:
        rates.append(rate)
        return resample(samples, rate, wanted)

    monkeypatch.setattr(soxr, "resample", counted)
    perturb_speed(make_dir({"a-1": 0.2}), tmp_path / "out", [0.5, 1.0, 1.5], [0.0, 0.25, 0.5])
    assert rates == [8000, 24000]


@pytest.mark.parametrize("speeds", [[], [1.0], [0.1], [3.0], [0.9, 0.9], [float("nan")]])
def test_useless_speeds_are_refused(make_dir: MakeDir, tmp_path: Path, speeds: list[float]) -> None:
    with pytest.raises(UserError, match="--speeds"):
        perturb_speed(make_dir({"a-1": 0.1}), tmp_path / "out", speeds)


@pytest.mark.parametrize("shifts", [[], [0.0], [1.0], [-0.25], [0.5, 0.5], [float("nan")]])
def test_useless_shifts_are_refused(make_dir: MakeDir, tmp_path: Path, shifts: list[float]) -> None:
    with pytest.raises(UserError, match="--shifts"):
        perturb_speed(make_dir({"a-1": 0.1}), tmp_path / "out", [1.0], shifts)


def test_an_utterance_of_which_a_shift_leaves_less_than_a_frame_is_named(make_dir: MakeDir, tmp_path: Path) -> None:
    data = make_dir({"a-1": 0.1, "a-2": 0.03})
    assert len(perturb_speed(data, tmp_path / "out", [1.0], [0.5]).utterances) == 2  # exactly one frame is left
    with pytest.raises(UserError, match=r"a-2 \(.*a-2.wav\): at speed 1 a shift of 0.75 leaves 360 samples"):
        perturb_speed(data, tmp_path / "out", [1.0], [0.75])


def test_two_copies_of_one_name_are_refused(make_dir: MakeDir, tmp_path: Path) -> None:
    data = make_dir({"a-1": 0.1, "sh0.5-a-1": 0.1})
    with pytest.raises(UserError, match="would both be called 'sp1.1-sh0.5-a-1'"):
        perturb_speed(data, tmp_path / "out", [1.1], [0.0, 0.5])


def test_the_command_s_speeds_are_1_where_only_shifts_are_given(make_dir: MakeDir, tmp_path: Path) -> None:
    command = ["corpus", "perturb", str(make_dir({"a-1": 0.1}).path), str(tmp_path / "out"), "--jobs", "1"]
    assert main([*command, "--shifts", "0,0.5"]) == 0
    assert read_data_dir(tmp_path / "out").utt2spk == {"sh0.5-a-1": "a"}
    assert main(command) == 0
    assert read_data_dir(tmp_path / "out").utt2spk == {"sp0.9-a-1": "sp0.9-a", "sp1.1-a-1": "sp1.1-a"}


@pytest.mark.parametrize("option", ["--speeds", "--shifts"])
def test_a_list_that_is_not_of_numbers_is_named(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "perturb", "data", "out", option, "0.9,fast"]) == 1
    assert f"{option} 0.9,fast: expected numbers separated by commas" in capsys.readouterr().err


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


def test_no_id_leads_out_of_the_folder(make_dir: MakeDir, tmp_path: Path) -> None:
    data = make_dir({"a-1": 0.2})
    name = "x/../../../../escaped"
    copies = perturb_speed(
        DataDir(data.path, {name: data.wav["a-1"]}, {}, {name: "s"}), tmp_path / "out" / "inner", [0.9]
    )
    (file,) = copies.wav.values()
    assert Path(file).parent == tmp_path / "out" / "inner" / "audio"
    assert not list(tmp_path.glob("escaped*"))
    assert len(load_audio(copies, f"sp0.9-{name}", 16000)) == pytest.approx(3200 / 0.9, abs=1)


def test_copies_of_the_same_content_are_kept_and_others_are_made_again(tmp_path: Path) -> None:
    write_flac(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32), 16000)
    datadir = write_data_dir(tmp_path / "in", {"a-1": tmp_path / "a.flac"}, {"a-1": ("hello",)}, {"a-1": "a"})
    out = tmp_path / "out"

    def made() -> int:
        perturb_speed(datadir, out, [0.9])
        return (out / "audio" / "sp0.9-a-1.flac").stat().st_ino

    first = made()
    assert made() == first
    write_flac(tmp_path / "a.flac", np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32), 16000)
    second = made()
    assert second != first
    (out / "made.json").unlink()  # as after a kill
    assert made() != second
