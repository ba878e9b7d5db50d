import pytest

from asr_kd.progress import Progress, duration, progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.25, "8.2 s"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations_read_as_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_items_pass_through_and_short_work_leaves_a_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress("abc", 3, "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_what_is_done_of_how_many(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(2000, "features", "frames") as bar:
        bar.advance(1500)
    assert "features: 1,500/2,000 frames" in capsys.readouterr().err
