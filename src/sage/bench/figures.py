"""Figures of reports, by matplotlib: for the screen and for print, in colours that all eyes can tell apart.

Colours after Okabe and Ito ("Color Universal Design", 2008). Series differ in lightness, and in hatching or markers as
well, so that they can be told apart in greyscale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sage.errors import SetupError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Series",
    "cdf",
    "curves",
    "dual_axis",
    "gantt",
    "grouped_bars",
    "matrix",
    "radar",
    "scaling",
    "scatter",
]

#: Darker and lighter in turn, so that neighbours differ without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-")
SHADE = "#DDDDDD"
WIDE = 50.0  # times the smallest place, from which on an axis is logarithmic
SIZE = (6.4, 3.6)  # inches: one column of a page


@dataclass(frozen=True, slots=True)
class Series:
    """Some values, one a place on the axis; None: not known there, and left out."""

    label: str
    values: Sequence[float | None]
    halves: Sequence[float | None] = ()  # of intervals


@contextmanager
def _drawing(path: Path, size: tuple[float, float] = SIZE) -> Iterator[Figure]:
    """A figure that is saved as svg, pdf and png at the end; the same data give the same svg and pdf."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError('figures need matplotlib; run pip install "sage-dataflow[bench]"') from error
    settings: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "sage", "svg.fonttype": "path",
        "pdf.fonttype": 42, "axes.axisbelow": True, "axes.grid": False, "hatch.linewidth": 0.6,
        "font.family": "DejaVu Sans",
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        for ending, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None}), ("png", None)):
            figure.savefig(path.with_name(f"{path.name}.{ending}"), metadata=metadata, dpi=160)


def dual_axis(
    path: Path,
    *,
    places: Sequence[str],
    bars: Sequence[Series],
    lines: Sequence[Series],
    x: str,
    y_bars: str,
    y_lines: str,
    shade: tuple[float, float] | None = None,
    shade_label: str = "",
) -> None:
    """Bars against the left axis, lines against the right one. ``shade`` is in places, counted from 0."""
    with _drawing(path) as figure:
        left = figure.add_subplot()
        right = left.twinx()
        middle = np.arange(len(places))
        if shade is not None:
            left.axvspan(shade[0] - 0.5, shade[1] + 0.5, color=SHADE, zorder=0, label=shade_label)
        _bars(left, middle, bars)
        for number, line in enumerate(lines):
            _line(right, middle, line, number, dark=True)
        left.set_xticks(middle, places)
        left.set_xlabel(x)
        left.set_ylabel(y_bars)
        right.set_ylabel(y_lines)
        for axes in (left, right):
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        right.spines["right"].set_visible(True)
        _legend(figure, (left, right))


def grouped_bars(path: Path, *, places: Sequence[str], bars: Sequence[Series], x: str, y: str) -> None:
    """Bars side by side, with their intervals."""
    with _drawing(path) as figure:
        axes = figure.add_subplot()
        middle = np.arange(len(places))
        _bars(axes, middle, bars)
        axes.set_xticks(middle, places)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_ylim(bottom=0)
        _legend(figure, (axes,))


def scaling(
    path: Path, *, places: Sequence[float], series: Sequence[Series], x: str, y: str, y_efficiency: str
) -> None:
    """Speed-up against nodes on the left with the ideal line; efficiency on the right."""
    with _drawing(path, (7.2, 3.4)) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(places, places, color="#888888", linestyle=":", label="ideal")
        for number, one in enumerate(series):
            _line(left, np.asarray(places), one, number)
            share = [None if v is None else v / p for v, p in zip(one.values, places, strict=True)]
            _line(right, np.asarray(places), Series(one.label, share), number)
        right.axhline(1.0, color="#888888", linestyle=":")
        for axes, label in ((left, y), (right, y_efficiency)):
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(places), [f"{place:g}" for place in places])
            axes.minorticks_off()
            axes.set_xlabel(x)
            axes.set_ylabel(label)
        left.set_yscale("log", base=2)
        left.set_yticks(list(places), [f"{place:g}" for place in places])
        left.minorticks_off()
        right.set_ylim(0, 1.1)
        _legend(figure, (left,))


def radar(path: Path, *, spokes: Sequence[str], series: Sequence[Series]) -> None:
    """Values from 0 to 1 on spokes, the outer end being best. How they were brought to that, the caption says."""
    with _drawing(path, (5.6, 4.4)) as figure:
        axes: Any = figure.add_subplot(projection="polar")
        angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
        closed = [*angles, angles[0]]
        for number, one in enumerate(series):
            values = [0.0 if value is None else value for value in one.values]
            axes.plot(
                closed, [*values, values[0]], color=COLOURS[number % 8], linestyle=LINES[number % 8],
                marker=MARKERS[number % 8], markersize=4, linewidth=1.4, label=one.label,
            )  # fmt: skip
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        axes.set_xticks(angles, spokes)
        axes.tick_params(axis="x", pad=16)
        axes.set_ylim(0, 1.05)
        axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"])
        axes.spines["polar"].set_visible(False)
        _legend(figure, (axes,))


def cdf(path: Path, *, samples: Mapping[str, Sequence[float]], x: str) -> None:
    """The share of each sample that is at most so long, on a logarithmic axis."""
    with _drawing(path) as figure:
        axes = figure.add_subplot()
        for number, (label, sample) in enumerate(samples.items()):
            ordered = np.sort(np.asarray(sample))
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            axes.step(
                ordered, share, where="post", color=COLOURS[number % 8], linestyle=LINES[number % 8],
                label=label, linewidth=1.5,
            )  # fmt: skip
        low = min((min(s) for s in samples.values() if len(s)), default=0.1)
        high = max((max(s) for s in samples.values() if len(s)), default=1.0)
        if low > 0 and high / low > 20:
            axes.set_xscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel("share of jobs")
        axes.set_ylim(0, 1.02)
        axes.grid(visible=True, color="#EEEEEE")
        _legend(figure, (axes,))


def gantt(path: Path, *, rows: Mapping[str, Sequence[tuple[float, float, str]]], x: str) -> None:
    """Spans (from, to, kind) on a row each; every kind has a colour and a hatch."""
    with _drawing(path, (6.8, 0.32 * len(rows) + 1.3)) as figure:
        axes = figure.add_subplot()
        kinds = list(dict.fromkeys(kind for spans in rows.values() for _, _, kind in spans))
        for place, spans in enumerate(rows.values()):
            for start, end, kind in spans:
                number = kinds.index(kind) % 8
                axes.barh(
                    place, end - start, left=start, height=0.7, color=COLOURS[number], hatch=HATCHES[number],
                    edgecolor="black", linewidth=0.3,
                )  # fmt: skip
        for number, kind in enumerate(kinds):
            axes.barh(
                0, 0, color=COLOURS[number % 8], hatch=HATCHES[number % 8], edgecolor="black",
                linewidth=0.3, label=kind,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlabel(x)
        _legend(figure, (axes,))


def scatter(
    path: Path, *, points: Mapping[str, tuple[float, float, float | None, float | None]], x: str, y: str
) -> None:
    """Named points (x, y, low, high of y) with their intervals."""
    with _drawing(path) as figure:
        axes = figure.add_subplot()
        for number, (label, (across, up, low, high)) in enumerate(points.items()):
            error = None if low is None or high is None else [[max(0.0, up - low)], [max(0.0, high - up)]]
            axes.errorbar(
                [across], [up], yerr=error, color=COLOURS[number % 8], marker=MARKERS[number % 8],
                linestyle="", capsize=3, label=label,
            )  # fmt: skip
        places = [across for across, *_ in points.values()]
        if min(places) > 0 and max(places) > WIDE * min(places):
            axes.set_xscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(visible=True, color="#EEEEEE")
        _legend(figure, (axes,))


def curves(
    path: Path, *, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str
) -> None:
    """Lines through points (xs, ys), in their order."""
    with _drawing(path) as figure:
        axes = figure.add_subplot()
        for number, (label, (across, up)) in enumerate(series.items()):
            axes.plot(
                across, up, color=COLOURS[number % 8], marker=MARKERS[number % 8], markersize=4,
                linestyle=LINES[number % 8], linewidth=1.2, label=label,
            )  # fmt: skip
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(visible=True, color="#EEEEEE")
        _legend(figure, (axes,))


def matrix(
    path: Path,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    counts: Sequence[Sequence[int]],
    x: str,
    y: str,
) -> None:
    """Counts in a square, the darker the larger their share of the row."""
    with _drawing(path, (1.6 + 0.8 * len(columns), 1.2 + 0.5 * len(rows))) as figure:
        axes = figure.add_subplot()
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        axes.imshow(shares, cmap="Greys", vmin=0.0, vmax=1.4, aspect="auto")
        for line, row in enumerate(counts):
            for column, count in enumerate(row):
                axes.text(column, line, f"{count:,}", ha="center", va="center", color="black")
        axes.set_xticks(range(len(columns)), list(columns))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_xlabel(x)
        axes.set_ylabel(y)


def _bars(axes: Axes, middle: Any, bars: Sequence[Series]) -> None:
    width = 0.8 / max(1, len(bars))
    for number, one in enumerate(bars):
        at = middle + (number - (len(bars) - 1) / 2) * width
        heights = [0.0 if value is None else value for value in one.values]
        halves = [0.0 if half is None else half for half in one.halves]
        axes.bar(
            at, heights, width * 0.94, color=COLOURS[(4, 6, 1, 2)[number % 4]], hatch=HATCHES[number % 8],
            edgecolor="black", linewidth=0.5, label=one.label, zorder=2,
            yerr=halves if any(halves) else None, error_kw={"elinewidth": 0.8, "capsize": 2},
        )  # fmt: skip


def _line(axes: Axes, places: Any, one: Series, number: int, *, dark: bool = False) -> None:
    known = [(place, value) for place, value in zip(places, one.values, strict=True) if value is not None]
    if known:
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=3.2, foreground="white")] if dark else []
        colour = ("#000000", "#D55E00", "#0072B2", "#CC79A7")[number % 4] if dark else COLOURS[number % 8]
        axes.plot(
            *zip(*known, strict=True), color=colour, marker=MARKERS[number % 8],
            linestyle=LINES[number % 8], markersize=5, linewidth=1.5, label=one.label, zorder=3,
            path_effects=halo,
        )  # fmt: skip


def _legend(figure: Figure, several: Sequence[Any]) -> None:
    """One legend above everything, where it hides nothing."""
    found: dict[str, Any] = {}
    for axes in several:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) > 1 or several[1:]:
        longest = max(map(len, found)) + 6  # and the key before it
        ncols = max(1, min(len(found), int(13 * figure.get_figwidth()) // longest))
        if ncols < len(found):
            ncols = -(-len(found) // -(-len(found) // ncols))  # rows of like length
        figure.legend(
            list(found.values()), list(found), loc="outside upper center", ncols=ncols, frameon=False
        )
