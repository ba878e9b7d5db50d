"""The reader of tables of systems: copies, names, inheritance, and what it refuses."""

from pathlib import Path

import pytest

from asr_kd.errors import UserError
from asr_kd.experiment import load_table
from asr_kd.experiment.table import Network

RECIPES = Path(__file__).parents[2] / "recipes"

TABLE = """\
values:
  seeds: [1, 2]
  widths: [30, 800]
small:
  values: {seeds: [1]}
  set: {epochs: 1}
  without: [hard]
hmms:
  hmm: {states: states/$set, model: gmm, graph: graph}
configs:
  base: {net: {layers: 2, width: 64}, epochs: 3}
  deep: {like: base, net: {layers: 4}}
targets:
  targets/$width: {for: {width: $widths}, teacher: ensemble, data: train, temperatures: [$widths, 2]}
defaults: {seeds: $seeds}
systems:
  hard: {data: train, config: deep}
  ensemble: {mean_of: teacher}
  teacher: {data: train, config: base, seeds: 3}
  soft$width: {for: {width: $widths}, data: train, config: base, targets: targets/$width, set: {net.width: $width}}
tests:
  decode_test: {}
reports:
  all:
    title: All
    tables:
      - title: One
        rows:
          labels: hard
          soft, $width: {for: {width: $widths}, system: soft$width}
        recovery: [labels, "soft, 800"]
"""


def _table(tmp_path: Path, *edits: tuple[str, str]) -> Path:
    text = TABLE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return path


def test_copies_names_and_inherited_configurations_are_resolved(tmp_path: Path) -> None:
    table = load_table(_table(tmp_path))
    assert table.configs["deep"] == {"net": {"layers": 4, "width": 64}, "epochs": 3}
    assert list(table.systems) == ["hard", "ensemble", "teacher", "soft30", "soft800"]
    soft = table.systems["soft800"]
    assert isinstance(soft, Network)
    assert (soft.targets, soft.set, soft.seeds) == ("targets/800", {"net.width": 800}, [1, 2])
    assert table.targets["targets/30"].temperatures == [30, 800, 2]
    assert list(table.reports["all"].tables[0].rows) == ["labels", "soft, 30", "soft, 800"]


def test_values_are_replaced_and_a_small_run_leaves_systems_out(tmp_path: Path) -> None:
    table = load_table(_table(tmp_path), ["widths=[800]"], small=True)
    assert "hard" not in table.systems
    assert table.quick == {"epochs": 1}
    assert list(table.reports["all"].tables[0].rows) == ["soft, 800"]
    soft = table.systems["soft800"]
    assert isinstance(soft, Network)
    assert soft.seeds == [1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("config: deep", "confg: deep", r"table.yaml:17: system hard: expected one of the keys"),
        ("hard: {data: train,", "hard: {dat: train,", r"table.yaml:17: system hard: dat: unknown key; did you mean"),
        ("layers: 4", "layer: 4", r"table.yaml:12: config deep: net: layer: unknown key; did you mean net.layers"),
        ("like: base", "like: deep", r"table.yaml:12: config deep: cycle: deep -> deep"),
        ("like: base", "like: bas", r"table.yaml:12: config deep: like: no configuration 'bas'"),
        ("teacher: ensemble,", "teacher: ensembl,", r"table.yaml:14: targets targets/30: teacher: no system 'ensembl'"),
        ("teacher: ensemble,", "teacher: hard,", r"hard is not a single network or an ensemble; name one, such as"),
        ("base, seeds: 3", "base, targets: targets/30", r"cycle: .*teacher -> targets/30 -> ensemble"),
        ("  hard: {", "  ensemble: {", r"table.yaml: not valid YAML: line 18: key 'ensemble' is given twice"),
        ("  hard: {", "  soft30: {", r"table.yaml:20: system soft\$width: soft30 is defined twice"),
        ("labels: hard", "labels: hart", r"table.yaml:2\d: reports all: tables: rows: labels: no system 'hart'"),
        ('"soft, 800"]', "loft]", r"'loft' is not a row of the table 'One'"),
        ("targets: targets/$width,", "targets: targets/$widht,", r"table.yaml:20: .*\$widht is not defined"),
        ("seeds: 3", "seeds: [1, 1]", r"table.yaml:19: system teacher: seeds: expected a whole number of seeds"),
        ("  hard: {", "  ../hard: {", r"table.yaml:17: system ../hard: expected the path of a folder inside"),
        ("tests:", "testz:", r"table.yaml:21: unknown key 'testz'"),
        ("  decode_test: {}", "", r"table.yaml:2\d: reports all: .*: it shows a test, but the table has none"),
        (", graph: graph", "", r"hard cannot have the test decode_test: .*needs a decoding graph of its HMM"),
        ("seeds: [1, 2]", "seeds: 0", r"seeds: expected a whole number of seeds, or a list"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_system(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_table(_table(tmp_path, (old, new)))


def test_an_unknown_value_lists_those_that_the_table_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--set sede=1: unknown name 'sede'; the values of .* are seeds, widths"):
        load_table(_table(tmp_path), ["sede=1"])


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/experiment.yaml")), ids=lambda path: path.parent.name)
@pytest.mark.parametrize("small", [False, True])
def test_every_recipes_table_is_valid_in_both_forms(path: Path, small: bool) -> None:
    table = load_table(path, small=small)
    assert table.systems
    assert table.reports
