import dataclasses
import re
from pathlib import Path
from typing import Literal

import pytest

from asr_kd.config import explained, from_dict, load_config, save_config, to_dict
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.hmm.train import HmmConfig
from asr_kd.train import TrainConfig


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 512
    rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Outer:
    kind: Literal["dnn", "cnn"] = "dnn"
    inner: Inner = Inner()
    layers: tuple[int, ...] = (1, 2)
    limit: int | None = None
    shuffle: bool = True


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    config = Outer("cnn", Inner(64, 1e-5), (3, 4, 5), 7, False)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(Outer, tmp_path / "c.yaml") == config


def test_dict_round_trip() -> None:
    assert from_dict(Outer, to_dict(Outer())) == Outer()


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("inner: {width: 8}\n")
    config = load_config(Outer, tmp_path / "c.yaml", ["inner.rate=1e-4", "layers=[9]", "limit=null"])
    assert config == Outer(inner=Inner(8, 1e-4), layers=(9,))


def test_numbers_that_look_alike_in_all_versions_of_yaml_are_read(tmp_path: Path) -> None:
    for text, number in (("0", 0), ("-7", -7), ("1_000", 1000), ("0x1F", 31), ("105", 105)):
        assert load_config(Outer, overrides=[f"inner.width={text}"]).inner.width == number
    for text, rate in (("0.5", 0.5), ("012.5", 12.5), ("1e-3", 1e-3), ("0", 0.0)):
        assert load_config(Outer, overrides=[f"inner.rate={text}"]).inner.rate == rate
    assert load_config(Outer, overrides=["kind='cnn'"]).kind == "cnn"


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    assert load_config(Outer, tmp_path / "c.yaml") == Outer()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("laiers: [1]", "laiers: unknown key; did you mean layers?"),
        ("kind: rnn", "expected one of 'dnn', 'cnn'; found 'rnn'"),
        ("inner: {width: wide}", "inner.width: expected a whole number, found 'wide'"),
        ("inner: {width: true}", "inner.width: expected a whole number, found True"),
        ("inner: {rate: fast}", "expected a number, found 'fast'"),
        ("inner: {rate: [1.0]}", "expected a number, found [1.0]"),
        ("inner: {rate: true}", "expected a number, found True"),
        ("inner: {rate: null}", "expected a number, found None"),
        ("inner: 3", "inner: expected keys and values, found 3"),
        ("layers: 3", "expected a list, found 3"),
        ("shuffle: 1", "expected true or false, found 1"),
        ("[1, 2]", "found [1, 2]"),
        ("kind: [", "not valid YAML"),
        ("kind: 2024-99-99", "not valid YAML"),
        ("kind: !!timestamp x", "not valid YAML"),
        ("kind: " + "1" * 5000, "not valid YAML"),
        ("kind: " + "[" * 5000, "nested too deeply"),
        ("kind: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: &a [1]\nb: *a", "aliases"),
        ("inner: {rate: .nan}", "expected a finite number, found nan"),
        ("inner: {rate: -.inf}", "expected a finite number, found -inf"),
        ("false", "found False"),
        ("kind: dnn\nkind: cnn", "key 'kind' is given twice"),
        ("inner: {width: 3, rate: 0.1, width: 4}", "key 'width' is given twice"),
        ("limit: 99999999999999999999999", "is too large"),
        ("layers: [-99999999999999999999999]", "is too large"),
        ("inner: {width: 015}", "'015' is one number in YAML 1.1 and another one, or text, in YAML 1.2"),  # 13 or 15
        ("inner: {rate: -01_7}", "'-01_7' is one number"),
        ("limit: 1:30", "'1:30' is one number"),  # 90 or text
        ("inner: {rate: 1:30.5}", "'1:30.5' is one number"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(Outer, tmp_path / "c.yaml")
    assert message in str(error.value)
    assert "c.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("limit", "--set limit: expected KEY=VALUE"),
        ("limit=many", "--set limit: expected a whole number, found 'many'"),
        ("inner.rate=fast", "--set inner.rate: expected a number"),
        ("limit.low=3", "has no keys of its own"),
        ("layers=[1", "not valid YAML"),
        ("inner.depth=3", r"--set inner.depth: unknown key; did you mean inner.width\?"),
    ],
)
def test_a_mistake_in_an_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text("limit: 4")
    with pytest.raises(UserError, match=message):
        load_config(Outer, tmp_path / "c.yaml", [override])


def test_a_key_of_the_file_is_named_with_the_file_although_another_is_overridden(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("limit: many")
    with pytest.raises(UserError, match=r"c.yaml: limit: expected a whole number"):
        load_config(Outer, tmp_path / "c.yaml", ["inner.width=3"])


@pytest.mark.parametrize("cls", [TrainConfig, FeatureConfig, HmmConfig])
def test_each_key_of_a_configuration_is_explained_and_the_explained_text_can_be_loaded(
    cls: type, tmp_path: Path
) -> None:
    text = explained(cls())
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(cls, tmp_path / "c.yaml") == cls()
    comment = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment += line
        elif key := re.match(r" *(\w+):", line):
            named = re.match(r" *# ((?:\w+, )+\w+):", comment)
            assert comment, f"{key[1]} is not explained"
            assert not named or key[1] in named[1].split(", "), f"{key[1]} is below the comment of other keys"
            comment = comment if named and not named[1].endswith(key[1]) else ""


def test_a_missing_required_key_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Needs:
        bins: int

    with pytest.raises(UserError, match="bins"):
        from_dict(Needs, {})
