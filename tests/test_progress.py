from types import SimpleNamespace

import pytest

from asr_kd.progress import Progress, duration, progress


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.25, "8.2 s"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
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


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, done: float, total: float | None) -> str:
    """The last line that a terminal sees, ten seconds after the start."""
    now = iter([100.0] + [110.0] * 10)
    monkeypatch.setattr("asr_kd.progress.time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(total, "decoding") as bar:
        bar.done = done
    return capsys.readouterr().err.splitlines()[-1].removeprefix("\x1b[2K")


@pytest.mark.parametrize(
    ("done", "total", "line"),
    [
        (1500, 2000, "decoding: 1,500/2,000 utterances, 150/s, 3.3 s left"),
        (2000, 2000, "decoding: 2,000/2,000 utterances, 200/s, 10.0 s in total"),
        (0, 2000, "decoding: 0/2,000 utterances, 0/s, time left unknown"),
        (3, 9, "decoding: 3/9 utterances, 0.3/s, 20.0 s left"),
        (0, 0, "decoding: 0/0 utterances, 0/s, 10.0 s in total"),
        (1234, None, "decoding: 1,234 utterances, 123/s, 10.0 s"),
        (0, None, "decoding: 0 utterances, 0/s, 10.0 s"),
    ],
)
def test_the_line_has_rate_and_time_with_and_without_a_total(
    done: float, total: float | None, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(capsys, monkeypatch, done, total) == line


def test_items_of_unknown_number_pass_through() -> None:
    assert list(progress(iter("abc"), None, "letters")) == ["a", "b", "c"]
