"""Lists of utterances."""

from pathlib import Path

import pytest

from asr_kd.errors import UserError
from asr_kd.frames.utterance_list import read_utterance_list


def test_a_list_is_the_first_column_of_a_file_or_of_a_data_directory(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("u2\nu0 some words\n\n")
    (tmp_path / "utt2spk").write_text("u1 s\n")
    assert read_utterance_list(tmp_path / "list") == ["u2", "u0"]
    assert read_utterance_list(tmp_path) == ["u1"]


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n")
    with pytest.raises(UserError, match="lists no utterances"):
        read_utterance_list(tmp_path / "list")
