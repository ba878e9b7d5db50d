"""A spreadsheet of transcripts becomes data directories."""

import re
from pathlib import Path

import numpy as np
import pytest

from asr_kd.cli import main
from asr_kd.corpus.audio import write_flac
from asr_kd.corpus.datadir import read_data_dir
from asr_kd.corpus.spreadsheet import normalised


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for name in ("one", "two words", "three"):
        write_flac(tmp_path / "audio" / f"{name}.flac", np.zeros(8000, np.int16), 16000)
    return tmp_path / "audio"


def test_each_set_becomes_a_data_directory(audio: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "\ufeffpath,text,speaker,set\n"
        'one.flac,"Hello, it\'s me.",Ann Lee,train\n'
        "two words.flac,– Well-known fact!,Ann Lee,train\n"
        "three.flac,Straße,Bob,test\n"
    )
    assert main(["corpus", "spreadsheet", str(table), str(tmp_path / "data"), "--audio", str(audio)]) == 0
    train, test = (read_data_dir(tmp_path / "data" / name) for name in ("train", "test"))
    assert dict(train.text) == {"Ann_Lee-one": ("hello", "it's", "me"), "Ann_Lee-two_words": ("well-known", "fact")}
    assert dict(test.text) == {"Bob-three": ("straße",)}
    assert Path(train.wav["Ann_Lee-two_words"]) == audio / "two words.flac"


def test_columns_may_have_other_names_and_be_separated_by_tabs(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = audio / "validated.tsv"
    table.write_text("client_id\tpath\tsentence\tsplit\nab12\tone.flac\tHello there\ttrain\n")
    command = ["corpus", "spreadsheet", str(table), str(tmp_path / "data"), "--column", "text=sentence"]
    assert main([*command, "--column", "speaker=client_id", "--case", "upper"]) == 0
    assert dict(read_data_dir(tmp_path / "data").text) == {"ab12-one": ("HELLO", "THERE")}
    assert "columns that are not used: split (--column speaker=NAME names one)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,text\none.flac,hello\n", "has no column 'path'; its columns are 'file', 'text'"),
        ("path,text\nnone.flac,hello\n", "t.csv:2: .*none.flac: no such file"),
        ("path,text\none.flac,hello\none.flac,again\n", "t.csv:3: one-one is the id of .*t.csv:2 too"),
        ("path,text\none.flac,\n", "t.csv:2: text is empty"),
        ("path,text\none.flac,!?\n", r"t.csv:2: '!\?' has no words"),
        ('path,text\none.flac,"hello\n', "t.csv:2: not a line of a spreadsheet"),
        ("path,text,set\none.flac,hello,train\nthree.flac,hello,\n", "t.csv:3: has no set, but other lines have one"),
    ],
)
def test_a_mistake_is_named_with_its_line(
    audio: Path, tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text(content)
    assert main(["corpus", "spreadsheet", str(tmp_path / "t.csv"), str(tmp_path / "d"), "--audio", str(audio)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "d").exists()


def test_punctuation_goes_but_not_inside_words() -> None:
    assert normalised("'Tis the dog’s well-known “bone” - isn't it?", "lower", False).split() == [
        "tis", "the", "dog's", "well-known", "bone", "isn't", "it",
    ]  # fmt: skip
    assert normalised("Oh, no!", "keep", True) == "Oh, no!"
