"""FSDD: parts by index, words by digit."""

from pathlib import Path

import pytest

from asr_kd.corpus.fsdd import prepare_fsdd
from asr_kd.errors import UserError


def test_parts_go_by_index(tmp_path: Path) -> None:
    recordings = tmp_path / "fsdd-1.0" / "recordings"
    recordings.mkdir(parents=True)
    for index in (0, 4, 5, 9, 10, 49):
        (recordings / f"7_theo_{index}.wav").touch()
    parts = prepare_fsdd(tmp_path, tmp_path / "out")
    assert {name: part.utterances for name, part in parts.items()} == {
        "train": ("theo-7-10", "theo-7-49"),
        "dev": ("theo-7-5", "theo-7-9"),
        "test": ("theo-7-0", "theo-7-4"),
    }
    assert parts["dev"].words("theo-7-5") == ["SEVEN"]
    assert parts["dev"].wav["theo-7-5"] == str(recordings / "7_theo_5.wav")
    (recordings / "seven.wav").touch()
    with pytest.raises(UserError, match=r"seven.wav: expected a file name like"):
        prepare_fsdd(tmp_path, tmp_path / "out")


def test_the_real_corpus_has_its_official_size(corpora: Path, tmp_path: Path) -> None:
    parts = prepare_fsdd(corpora / "fsdd", tmp_path)
    assert [len(parts[name].utterances) for name in ("train", "dev", "test")] == [2400, 300, 300]
    words = {word for utt in parts["test"].utterances for word in parts["test"].words(utt)}
    assert words == {line.split()[0] for line in (tmp_path / "lexicon.txt").read_text().splitlines()}
    assert len(words) == 10
