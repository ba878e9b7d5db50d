"""Progress of long work on standard error, with rate and remaining time; for a terminal or a log file."""

import contextlib
import io
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")


class Progress:
    """Counts units of work and shows ``label: done/total unit, rate, time left``.

    Where ``total`` is None (nobody knows it yet), it shows ``label: done unit, rate, time``. A terminal has one line,
    redrawn twice a second; a log file gets a line every 30 seconds and, after more than 5 seconds, at the end.
    """

    def __init__(self, total: float | None, label: str, unit: str = "utterances") -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done = 0.0
        self.note = ""  # shown at the end of the line
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def advance(self, amount: float = 1) -> None:
        """Count ``amount`` more units as done."""
        self.done += amount
        now = time.monotonic()
        if now - self._shown >= (0.5 if self._terminal else 30):
            self._shown = now
            self._show(end="\r" if self._terminal else "\n")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal or time.monotonic() - self._start >= 5:
            self._show(end="\n")

    def _show(self, end: str) -> None:
        seconds = time.monotonic() - self._start
        rate = self.done / max(seconds, 1e-9)
        done, rest = f"{self.done:,.0f}", duration(seconds)
        if self.total is not None:
            done += f"/{self.total:,.0f}"
            if self.done >= self.total:
                rest += " in total"
            else:
                rest = f"{duration((self.total - self.done) / rate)} left" if rate else "time left unknown"
        clear = "\x1b[2K" if self._terminal else ""
        speed = f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.2g}/s"
        note = f", {self.note}" if self.note else ""
        print(f"{clear}{self.label}: {done} {self.unit}, {speed}, {rest}{note}", end=end, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Show a remark on standard error, beside the progress."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def progress(items: Iterable[Item], total: float | None, label: str, unit: str = "utterances") -> Iterator[Item]:
    """Iterate over ``items`` and show how many of ``total`` (None: unknown) are done."""
    with Progress(total, label, unit) as bar:
        for item in items:
            yield item
            bar.advance()


@contextlib.contextmanager
def labelled(label: str) -> Iterator[None]:
    """Within the block, ``label`` begins each line on standard error, and progress is shown as in a log file.

    For one of several processes that share a terminal: their lines never mix, and none is redrawn.
    """
    stream = _Labelled(sys.stderr, label)
    with contextlib.redirect_stderr(stream):
        try:
            yield
        finally:
            stream.end_line()


class _Labelled(io.TextIOBase):
    """Writes whole lines only, each in one write; never counts as a terminal."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream, self._label, self._begun = stream, label, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._label}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def end_line(self) -> None:
        if self._begun:
            self.write("\n")


def duration(seconds: float) -> str:
    """Seconds in readable units: ``8.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
