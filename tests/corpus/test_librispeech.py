"""LibriSpeech's layout and its split by speaker."""

from pathlib import Path

import pytest

from asr_kd.corpus.librispeech import prepare_language, prepare_librispeech
from asr_kd.errors import UserError


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """2 training speakers with FLAC, 8 evaluation speakers (1 to 4 women, 5 to 8 men) with Opus; the audio is empty."""
    root = tmp_path / "LibriSpeech"
    speakers = [("train-clean-5", "10", ".flac"), ("train-clean-5", "11", ".flac")]
    speakers += [("test-clean", str(n), ".opus") for n in range(1, 9)]
    for part, speaker, suffix in speakers:
        chapter = root / part / speaker / "77"
        chapter.mkdir(parents=True)
        names = [f"{speaker}-77-{n:04}" for n in range(2)]
        (chapter / f"{speaker}-77.trans.txt").write_text("".join(f"{name} IT'S A TEST\n" for name in names))
        for name in names:
            (chapter / f"{name}{suffix}").touch()
    sexes = [f"{n:<4} | {'F' if n in (1, 2, 3, 4, 10) else 'M'} | part | 1.0 | Name | x" for n in range(1, 12)]
    (root / "SPEAKERS.TXT").write_text("\n".join([";ID | SEX |", *sexes]) + "\n")
    return root


def test_dev_and_test_share_the_speakers_of_the_eval_part_balanced_by_sex(release: Path, tmp_path: Path) -> None:
    chosen = []
    for seed in range(4):
        parts = prepare_librispeech(release, tmp_path / str(seed), dev_speakers=4, seed=seed)
        dev, test = set(parts["dev"].speakers), set(parts["test"].speakers)
        assert len(dev & {"1", "2", "3", "4"}) == len(dev & {"5", "6", "7", "8"}) == 2
        assert dev | test == {str(n) for n in range(1, 9)}
        assert not dev & test
        chosen.append(dev)
    assert any(dev != chosen[0] for dev in chosen)


def test_ids_words_and_audio_are_the_releases(release: Path, tmp_path: Path) -> None:
    train = prepare_librispeech(release.parent, tmp_path / "out")["train"]
    assert train.utterances == ("10-77-0000", "10-77-0001", "11-77-0000", "11-77-0001")
    assert train.words("10-77-0000") == ["IT'S", "A", "TEST"]
    assert train.wav["10-77-0000"] == str(release / "train-clean-5" / "10" / "77" / "10-77-0000.flac")


def test_a_transcript_without_audio_and_the_reverse_are_named(release: Path, tmp_path: Path) -> None:
    chapter = release / "train-clean-5" / "10" / "77"
    (chapter / "10-77-0009.flac").touch()
    with pytest.raises(UserError, match=r"10-77-0009.flac: no transcript"):
        prepare_librispeech(release, tmp_path / "out")
    (chapter / "10-77-0001.flac").unlink()
    with pytest.raises(UserError, match=r"10-77.trans.txt:2: 10-77-0001 has no audio"):
        prepare_librispeech(release, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("train-clean-5/10/77/10-77.trans.txt", "\n", r"10-77\.trans\.txt:3: the line is empty"),
        ("SPEAKERS.TXT", "12 F\n", r"SPEAKERS\.TXT:13: expected SPEAKER"),
        ("SPEAKERS.TXT", "1 | X | part\n", r"SPEAKERS\.TXT:13: expected SPEAKER"),
    ],
)
def test_a_malformed_line_is_named(release: Path, tmp_path: Path, file: str, line: str, message: str) -> None:
    (release / file).write_text((release / file).read_text() + line)
    with pytest.raises(UserError, match=message):
        prepare_librispeech(release, tmp_path / "out")


def test_wrong_parts_and_counts_are_named(release: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no train-clean-100"):
        prepare_librispeech(release, tmp_path / "out", train_part="train-clean-100")
    with pytest.raises(UserError, match="dev-other: no such folder"):
        prepare_librispeech(release, tmp_path / "out", eval_part="dev-other")
    with pytest.raises(UserError, match="8 dev speakers requested, but the part has 8 in total"):
        prepare_librispeech(release, tmp_path / "out", dev_speakers=8)


def test_the_real_corpus_splits_into_6_and_14_speakers(corpora: Path, tmp_path: Path) -> None:
    parts = prepare_librispeech(corpora / "LibriSpeech", tmp_path)
    assert [len(parts[name].speakers) for name in ("train", "dev", "test")] == [28, 6, 14]
    assert len(parts["train"].utterances) == 1519


def test_language_has_phones_without_stress_and_the_model_unchanged(tmp_path: Path) -> None:
    (tmp_path / "librispeech-lexicon.txt").write_text("A\tAH0\nA\tAH1\nA\tEY1\nB2B\tB IY1\n")
    (tmp_path / "small.arpa.gz").write_bytes(b"model")
    prepare_language(tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "lexicon.txt").read_text() == "A AH\nA EY\nB2B B IY\n"
    assert (tmp_path / "out" / "lm.arpa.gz").read_bytes() == b"model"


def test_a_language_folder_with_two_models_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").write_text("A AH0\n")
    for name in ("large.arpa.gz", "small.arpa.gz"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="large.arpa.gz, small.arpa.gz"):
        prepare_language(tmp_path, tmp_path / "out")
