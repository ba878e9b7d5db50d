"""Figures as PNG files, mostly of two panels; the same data gives the same bytes.

The colours are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers can distinguish.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import write_bytes
from asr_kd.score.score_files import is_text
from asr_kd.score.series import Band, ResultSeries, TrainingCurves
from asr_kd.score.table import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_LEVELS = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
_GREY = "#555555"
_DASHED: dict[str, Any] = {"dashes": (3, 1.5), "linewidth": 1.2}
_SIZE, _DPI = (9.0, 3.6), 110
_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.w_pad": 0.1,
    "font.size": 9,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a dollar in a name is a dollar
}


def plot_curves(series: Sequence[TrainingCurves], title: str, output: str | Path, log: bool = False) -> None:
    """Draw frame accuracy on training (dashed) and dev data (solid), and dev cross-entropy, against step or epoch.

    A line is the mean over seeds, the band around it their range, a dot its best value on dev. ``log`` makes the
    horizontal axis logarithmic. Raises ``UserError`` for more series than there are colours, for an ``output`` that is
    not a PNG, and on a logarithmic axis for an ``x`` of 0 or less.
    """
    from matplotlib.lines import Line2D

    _check(series, title, output)
    _check_positive(series[0].axis, np.concatenate([curves.x for curves in series]), log)
    legend: list[tuple[Any, str]] = []
    with _figure(title, output) as (figure, (accuracy, cross_entropy)):
        for curves, colour in zip(series, COLOURS, strict=False):
            if curves.train_accuracy is not None:
                _curve(accuracy, curves.x, _percent(curves.train_accuracy), colour, **_DASHED)
            on_dev = _percent(curves.dev_accuracy)
            _curve(accuracy, curves.x, on_dev, colour, markevery=[int(on_dev.mean.argmax())], marker="o")
            best = int(curves.dev_cross_entropy.mean.argmin())
            _curve(cross_entropy, curves.x, curves.dev_cross_entropy, colour, markevery=[best], marker="o")
            legend.append((Line2D([], [], color=colour), curves.name))
        accuracy.set_ylabel("frame accuracy (%)")
        cross_entropy.set_ylabel("dev cross-entropy (nats)")
        for axes in (accuracy, cross_entropy):
            axes.set_xlabel("training step" if series[0].axis == "step" else series[0].axis)
            _horizontal(axes, np.concatenate([curves.x for curves in series]), log, own_ticks=False)
        legend.append((Line2D([], [], color=_GREY, marker="o", markersize=4), "dev, and its best"))
        if any(curves.train_accuracy is not None for curves in series):
            legend.append((Line2D([], [], color=_GREY, **_DASHED), "train"))
        _legend(figure, legend)


def plot_results(
    series: Sequence[ResultSeries],
    levels: Sequence[ResultSeries],
    label: str,
    title: str,
    output: str | Path,
    log: bool = False,
) -> None:
    """Draw frame accuracy, and WER where words were scored, against a quantity called ``label``.

    Error bars are 95 % intervals over seeds. Each of ``levels`` (whose ``x`` does not matter) is a horizontal line.
    Raises ``UserError`` for results on different sets, an ``x`` of 0 or less on a logarithmic axis, too many series or
    levels, and an ``output`` that is not a PNG.
    """
    _check(series, title, output)
    _check(levels, label, output)
    if len(levels) > len(_LEVELS):
        raise UserError(f"{len(levels)} levels; a figure has line styles for {len(_LEVELS)} at most")
    _check_sets([*series, *levels])
    places = np.concatenate([results.x for results in series])
    _check_positive(label, places, log)
    keys = ["frame_accuracy", *(["wer"] if all(np.isfinite(results.wer.mean).all() for results in series) else [])]
    with _figure(title, output, len(keys)) as (figure, panels):
        for axes, key in zip(panels, keys, strict=True):
            marks = [_points(axes, results, key, number) for number, results in enumerate(series)]
            lines = [
                axes.axhline(100 * getattr(level, key).mean[0], color=_GREY, linestyle=style, linewidth=1.2, zorder=1)
                for level, style in zip(levels, _LEVELS, strict=False)
            ]
            axes.set_xlabel(label)
            axes.set_ylabel(f"{series[0].dataset} {'WER' if key == 'wer' else 'frame accuracy'} (%)")
            _horizontal(axes, places, log, own_ticks=True)
        names = [item.name for item in (*series, *levels)]
        _legend(figure, list(zip([*marks, *lines], names, strict=True)))


def plot_gains(records: Sequence[Record], title: str, output: str | Path) -> None:
    """Draw the specialists' gain over a generalist against the number of specialists that cover the frame's state.

    The left panel shows the gain in frame accuracy with 95 % intervals, the right one the share of the frames;
    ``records`` are those of ``cover_records``.
    """
    _check([], title, output)
    chosen = sorted((record for record in records if record["cover"] >= 0), key=lambda record: record["cover"])
    covers = [record["cover"] for record in chosen]
    labels = [f"{record['cover']}{' or more' * record['more']}" for record in chosen]
    gain, low, high = (np.array([100 * r[key] for r in chosen]) for key in ("gain", "gain_low", "gain_high"))
    frames = np.array([record["frames"] for record in chosen])
    with _figure(title, output) as (_, (left, right)):
        left.axhline(0, color=_GREY, linewidth=1)
        errors = [gain - low, high - gain]
        left.errorbar(covers, gain, yerr=errors, color=COLOURS[0], marker="o", markersize=5, elinewidth=1.1, capsize=3)
        left.set_ylabel("gain in frame accuracy (points)")
        right.bar(covers, 100 * frames / frames.sum(), color=COLOURS[0], width=0.6)
        right.set_ylabel("of all frames (%)")
        for axes in (left, right):
            axes.set_xlabel("specialists that cover the state")
            axes.set_xticks(covers, labels)
            axes.set_axisbelow(True)


@contextlib.contextmanager
def _figure(title: str, output: str | Path, panels: int = 2) -> Iterator[tuple["Figure", Sequence["Axes"]]]:
    """An empty figure with its panels, written when the block ends well; the user's matplotlibrc is ignored."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]
        figure = Figure(figsize=(_SIZE[0] * (1 + panels) / 3, _SIZE[1]), dpi=_DPI, layout="constrained")
        figure.suptitle(title, fontsize=11, fontweight="bold")
        yield figure, figure.subplots(1, panels, squeeze=False)[0]
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})  # no version, no date
    write_bytes(output, content.getvalue())


def _curve(axes: "Axes", x: np.ndarray, band: Band, colour: str, **look: Any) -> None:
    axes.plot(x, band.mean, color=colour, markersize=4, **look)
    if (band.high > band.low).any():
        axes.fill_between(x, band.low, band.high, color=colour, alpha=0.18, linewidth=0)


def _points(axes: "Axes", results: ResultSeries, key: str, number: int) -> Any:
    band = _percent(getattr(results, key))
    return axes.errorbar(
        results.x,
        band.mean,
        yerr=[band.mean - band.low, band.high - band.mean],
        color=COLOURS[number],
        marker=_MARKERS[number],
        markersize=5,
        elinewidth=1.1,
        capsize=3,
    )


def _percent(band: Band) -> Band:
    return Band(100 * band.mean, 100 * band.low, 100 * band.high)


def _horizontal(axes: "Axes", places: np.ndarray, log: bool, own_ticks: bool) -> None:
    """Set the horizontal scale; with ``own_ticks``, a logarithmic axis has ticks at the ``places`` if these are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if log:
        axes.set_xscale("log")
        if own_ticks and len(distinct := np.unique(places)) <= 10:
            axes.set_xticks(distinct)
        elif places.max() < 100 * places.min():  # powers of ten alone would be one tick, or none
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _legend(figure: "Figure", entries: Sequence[tuple[Any, str]]) -> None:
    """Draw the legend below the panels, in one row if it fits."""
    handles, texts = zip(*entries, strict=True)
    widths = [len(text) + 8 for text in texts]  # in letters, with the handle
    room = int(14 * figure.get_figwidth())
    columns = len(texts) if sum(widths) <= room else max(1, room // max(widths))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)


def _check(series: Sequence[Any], title: str, output: str | Path) -> None:
    if odd := [text for text in (title, *(item.name for item in series)) if not is_text(text)]:
        raise UserError(f"{odd[0]!r}: not UTF-8 text, which a figure cannot show; give another name")
    if Path(output).suffix != ".png":
        raise UserError(f"{output}: figures are PNG files; give a name that ends in .png")
    if len(series) > len(COLOURS):
        raise UserError(f"{len(series)} series; a figure has colours for {len(COLOURS)} at most")


def _check_positive(label: str, places: np.ndarray, log: bool) -> None:
    if log and places.min() <= 0:
        raise UserError(f"--log: {label} is {places.min():g} at one point; a logarithmic axis needs numbers above 0")


def _check_sets(results: Sequence[ResultSeries]) -> None:
    for item in results:
        if item.dataset != results[0].dataset:
            raise UserError(
                f"{item.name}: results on {item.dataset!r}, but those of {results[0].name} are on"
                f" {results[0].dataset!r}; a figure shows one set"
            )
