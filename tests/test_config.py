import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from asr_kd.config import from_dict, load_config, save_config, to_dict
from asr_kd.errors import UserError


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


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    assert load_config(Outer, tmp_path / "c.yaml") == Outer()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("laiers: [1]", "unknown key 'laiers'; did you mean 'layers'"),
        ("kind: rnn", "expected one of 'dnn', 'cnn'; found 'rnn'"),
        ("inner: {width: wide}", "inner: width: expected int, found 'wide'"),
        ("inner: {width: true}", "expected int, found True"),
        ("inner: {rate: fast}", "expected a number, found 'fast'"),
        ("inner: 3", "expected a mapping, found 3"),
        ("layers: 3", "expected a list, found 3"),
        ("shuffle: 1", "expected bool, found 1"),
        ("[1, 2]", "found list"),
        ("kind: [", "not valid YAML"),
        ("kind: 2024-99-99", "not valid YAML"),
        ("kind: !!timestamp x", "not valid YAML"),
        ("kind: " + "1" * 5000, "not valid YAML"),
        ("kind: " + "[" * 5000, "nested too deeply"),
        ("kind: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: &a [1]\nb: *a", "aliases"),
        ("inner: {rate: .nan}", "expected a finite number, found nan"),
        ("inner: {rate: -.inf}", "expected a finite number, found -inf"),
        ("false", "found bool"),
        ("kind: dnn\nkind: cnn", "key 'kind' is given twice"),
        ("inner: {width: 3, rate: 0.1, width: 4}", "key 'width' is given twice"),
        ("limit: 99999999999999999999999", "is too large"),
        ("layers: [-99999999999999999999999]", "is too large"),
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
        ("limit", "expected key=value"),
        ("limit.low=3", "has no keys of its own"),
        ("layers=[1", "not valid YAML"),
        ("inner.depth=3", "unknown key 'depth'"),
    ],
)
def test_a_mistake_in_an_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text("limit: 4")
    with pytest.raises(UserError, match=message):
        load_config(Outer, tmp_path / "c.yaml", [override])


def test_a_missing_required_key_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Needs:
        bins: int

    with pytest.raises(UserError, match="bins"):
        from_dict(Needs, {})
