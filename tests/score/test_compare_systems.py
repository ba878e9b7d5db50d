import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asr_kd.cli import main
from asr_kd.errors import UserError
from asr_kd.score.bootstrap import permutation_p
from asr_kd.score.compare_systems import compare, notes
from asr_kd.score.score_files import save_score
from asr_kd.score.wer import score

REFERENCES = {f"s{n % 6}-u{n:02d}": ["A", "B", "C", "D"] for n in range(24)}
SPEAKERS = {utt: utt[:2] for utt in REFERENCES}
WRONG_PER_SYSTEM = {"gmm": 17, "hard": 6}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Decode folders of two scored systems; the second is better and has a decode.json."""
    made = []
    for system, wrong in WRONG_PER_SYSTEM.items():
        hypotheses = {
            utt: ["A", "X", "C", "D"] if n < wrong else ["A", "B", "C", "D"] for n, utt in enumerate(REFERENCES)
        }
        folder = tmp_path / system / "decode_test"
        save_score(score(REFERENCES, hypotheses, SPEAKERS), folder / "wer.json")
        made.append(folder)
    summary = {"frame_accuracy": 0.615, "parameters": 1_580_000, "acoustic_scale": 0.1, "word_penalty": 0.5}
    (made[1] / "decode.json").write_text(json.dumps(summary | {"tuned_on": "dev", "real_time_factor": 0.004}))
    return made


def test_each_system_is_tested_against_the_first(folders: list[Path]) -> None:
    gmm, hard = compare(folders).systems
    assert (gmm.name, hard.name) == ("gmm", "hard")
    assert (gmm.difference, gmm.p) == (None, None)
    assert hard.p == permutation_p(hard.score.errors - gmm.score.errors, gmm.score.clusters)
    assert hard.difference is not None
    assert hard.difference.low < (6 - 17) / 96 < hard.difference.high < 0
    assert hard.difference.clusters == 6


def test_a_system_against_itself_does_not_differ(folders: list[Path]) -> None:
    same = compare([folders[0], folders[0]]).systems[1]
    assert same.p == 1
    assert same.difference is not None
    assert (same.difference.low, same.difference.high) == (0, 0)
    assert same.name == str(folders[0])  # their short names are the same


def test_the_table_says_how_to_read_it(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, folders)]) == 0
    shown = capsys.readouterr().out
    header, _, gmm, hard, *below = shown.splitlines()
    assert header.split()[:3] == ["system", "WER", "%"]
    assert gmm.split()[:2] == ["gmm", "17.71"]
    assert hard.split()[:2] == ["hard", "6.25"]
    assert hard.split()[-3:] == ["61.50", "1,580,000", "0.004"]
    text = "\n".join(below)
    for part in (
        "normaliser: none",
        "jiwer ",
        "6 speakers",
        "tuned on dev",
        "gmm: acoustic scale and word insertion penalty unknown",
    ):
        assert part in text


def test_markdown_has_a_rule_below_the_header(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *map(str, folders), "--format", "markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert set(lines[1]) <= set("|:- ")


@pytest.mark.parametrize("form", ["csv", "json"])
def test_machines_get_unrounded_numbers(form: str, folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *map(str, folders), "--format", form])
    text = capsys.readouterr().out
    rows = json.loads(text)["rows"] if form == "json" else list(csv.DictReader(io.StringIO(text)))
    assert [float(row["wer"]) for row in rows] == [17 / 96, 6 / 96]
    assert float(rows[1]["p"]) == compare(folders).systems[1].p


def test_missing_hypotheses_are_reported_below_the_table(tmp_path: Path) -> None:
    save_score(score(REFERENCES, {}, SPEAKERS), tmp_path / "none" / "decode_test" / "wer.json")
    assert any("none: 24 of 24 utterances" in note for note in notes(compare([tmp_path / "none" / "decode_test"])))


def test_a_folder_that_was_not_scored_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no wer.json; score it first: asr-kd score"):
        compare([tmp_path])


OTHER = {
    "only one of them has 's0-u00'": lambda: score({"s1-u01": ["A"]}, {}, SPEAKERS),
    "normaliser 'upper-strip-punct'": lambda: score(REFERENCES, {}, SPEAKERS, "upper-strip-punct"),
    "reference of 's0-u06' has 1 word,": lambda: score(REFERENCES | {"s0-u06": ["A"]}, {}, SPEAKERS),
}


@pytest.mark.parametrize(("message", "make"), OTHER.items())
def test_systems_of_another_set_are_refused(
    message: str, make: Callable[[], object], folders: list[Path], tmp_path: Path
) -> None:
    save_score(make(), tmp_path / "other" / "wer.json")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        compare([folders[0], tmp_path / "other"])


def test_the_footnote_says_how_wide_the_search_was_and_what_tuning_left_open(folders: list[Path]) -> None:
    edge = "dev (103 utterances), at the edge of the searched range: word penalty"
    searched = {"acoustic_scale": 0.1, "word_penalty": 24, "beam": 12.0, "max_active": 7000, "tuned_on": edge}
    (folders[1] / "decode.json").write_text(json.dumps(searched))
    expected = f"hard: acoustic scale 0.1, word insertion penalty 24, beam 12, max_active 7000, tuned on {edge}."
    assert expected in notes(compare(folders))
