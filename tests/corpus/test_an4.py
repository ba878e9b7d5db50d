"""AN4 from each official layout."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.corpus.an4 import prepare_an4
from asr_kd.corpus.audio import audio_info, read_audio
from asr_kd.errors import UserError

TRAIN = [(f"an4_clstk/s{speaker:02}", f"an{n}-s{speaker:02}-b") for speaker in range(20) for n in range(2)]
TEST = [("an4test_clstk/t01", "an7-t01-b")]


def samples(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(-3000, 3000, 1600).astype(np.int16)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """An AN4 of 41 utterances in the release's form: headerless big-endian ``.raw``."""
    root = tmp_path / "an4"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "an4.dic").write_text("ONE                  W AH N\nONE(2)  HH W AH N\nGO\tG OW\n")
    for part, files, line in [("train", TRAIN, "<s> GO ONE </s> ({})\n"), ("test", TEST, "ONE ({})\n")]:
        (root / "etc" / f"an4_{part}.fileids").write_text("".join(f"{folder}/{name}\n" for folder, name in files))
        (root / "etc" / f"an4_{part}.transcription").write_text("".join(line.format(name) for _, name in files))
        for folder, name in files:
            (root / "wav" / folder).mkdir(parents=True, exist_ok=True)
            (root / "wav" / folder / f"{name}.raw").write_bytes(samples(name).astype(">i2").tobytes())
    return root


def test_raw_is_read_as_big_endian(release: Path, tmp_path: Path) -> None:
    test = prepare_an4(release, tmp_path / "out")["test"]
    assert test.words("t01-an7-t01-b") == ["ONE"]
    path = test.wav["t01-an7-t01-b"]
    assert audio_info(path).sample_rate == 16000
    assert (read_audio(path, 16000) * 32768 == samples("an7-t01-b")).all()


@pytest.mark.parametrize(("suffix", "form"), [(".sph", "NIST"), (".wav", "WAV"), (".flac", "FLAC")])
def test_other_forms_are_used_where_they_lie(release: Path, tmp_path: Path, suffix: str, form: str) -> None:
    for raw in list(release.rglob("*.raw")):
        soundfile.write(raw.with_suffix(suffix), samples(raw.stem), 16000, format=form, subtype="PCM_16")
        raw.unlink()
    test = prepare_an4(release.parent, tmp_path / "out")["test"]
    assert test.wav["t01-an7-t01-b"] == str(release / "wav" / "an4test_clstk" / "t01" / f"an7-t01-b{suffix}")
    assert (read_audio(test.wav["t01-an7-t01-b"], 16000) * 32768 == samples("an7-t01-b")).all()


def test_dev_is_a_tenth_in_whole_speakers_and_the_seed_chooses_them(release: Path, tmp_path: Path) -> None:
    parts = prepare_an4(release, tmp_path / "out", seed=0)
    assert 2 <= len(parts["dev"].speakers) <= 3  # 40 utterances of equal length, 20 speakers
    assert not parts["dev"].speakers.keys() & parts["train"].speakers.keys()
    assert len(parts["dev"].utterances) + len(parts["train"].utterances) == len(TRAIN)
    assert parts["dev"].words(parts["dev"].utterances[0]) == ["GO", "ONE"]
    again = prepare_an4(release, tmp_path / "again", seed=0)["dev"].speakers
    others = [set(prepare_an4(release, tmp_path / "o", seed=seed)["dev"].speakers) for seed in (1, 2, 3)]
    assert again == parts["dev"].speakers
    assert any(other != set(again) for other in others)


def test_the_lexicon_keeps_every_pronunciation(release: Path, tmp_path: Path) -> None:
    prepare_an4(release, tmp_path)
    assert (tmp_path / "lexicon.txt").read_text() == "ONE W AH N\nONE(2) HH W AH N\nGO G OW\n"


def test_damage_is_named(release: Path, tmp_path: Path) -> None:
    raw = release / "wav" / "an4test_clstk" / "t01" / "an7-t01-b.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"an7-t01-b.raw: 3199 bytes"):
        prepare_an4(release, tmp_path / "out")
    raw.unlink()
    with pytest.raises(UserError, match=r"an7-t01-b: no audio"):
        prepare_an4(release, tmp_path / "out")
    (release / "etc" / "an4_test.transcription").write_text("ONE (an8-t01-b)\n")
    with pytest.raises(UserError, match=r"an4_test.transcription:1: expected WORDS \(an7-t01-b\)"):
        prepare_an4(release, tmp_path / "out")
    with pytest.raises(UserError, match=r"absent: no such folder; expected"):
        prepare_an4(tmp_path / "absent", tmp_path / "out2")
    with pytest.raises(UserError, match=r"contains no etc/an4.dic"):
        prepare_an4(tmp_path / "out", tmp_path / "out2")


def test_the_real_corpus_has_its_official_size(corpora: Path, tmp_path: Path) -> None:
    parts = prepare_an4(corpora / "an4", tmp_path)
    assert len(parts["train"].utterances) + len(parts["dev"].utterances) == 948
    assert len(parts["train"].speakers) + len(parts["dev"].speakers) == 74
    assert (len(parts["test"].utterances), len(parts["test"].speakers)) == (130, 10)
    words = {word for part in parts.values() for utt in part.utterances for word in part.words(utt)}
    listed = {line.split()[0] for line in (tmp_path / "lexicon.txt").read_text().splitlines()}
    assert words <= listed


def voice(name: str, loudness: float = 3000.0) -> np.ndarray:
    """Int16 samples as smooth as speech."""
    rng = np.random.default_rng(list(name.encode()))
    walk = np.convolve(rng.standard_normal(1800), np.hanning(200) / 10, "valid")
    return np.rint(walk[:1600] * loudness).astype(np.int16)


@pytest.mark.parametrize("loudness", [3.0, 30.0, 3000.0, 9000.0])
def test_the_byte_order_of_each_raw_file_is_found(release: Path, tmp_path: Path, loudness: float) -> None:
    files = sorted(release.rglob("*.raw"))
    for number, raw in enumerate(files):
        raw.write_bytes(voice(raw.stem, loudness).astype(("<i2", ">i2")[number % 2]).tobytes())
    for datadir in prepare_an4(release, tmp_path / "out").values():
        for utt, path in datadir.wav.items():
            assert np.array_equal(read_audio(path, 16000) * 32768, voice(utt.split("-", 1)[1], loudness))


def test_a_raw_file_whose_byte_order_cannot_be_told_is_refused(release: Path, tmp_path: Path) -> None:
    raw = sorted(release.rglob("*.raw"))[0]
    raw.write_bytes(np.random.default_rng(0).integers(-32768, 32768, 16000).astype("<i2").tobytes())
    with pytest.raises(UserError, match=rf"{raw.name}: the byte order cannot be determined"):
        prepare_an4(release, tmp_path / "out")


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_utterance_that_is_there_twice_is_refused(release: Path, tmp_path: Path, part: str) -> None:
    # in train and test: the audio of one would be that of the other
    fileids, transcription = (release / "etc" / f"an4_{part}.{kind}" for kind in ("fileids", "transcription"))
    folder, name = TRAIN[0]
    fileids.write_text(fileids.read_text() + f"{folder}/{name}\n")
    transcription.write_text(transcription.read_text() + f"GO ({name})\n")
    with pytest.raises(UserError, match=rf"transcription:[0-9]+: a second utterance '{name}' of the speaker 's00'"):
        prepare_an4(release, tmp_path / "out")
