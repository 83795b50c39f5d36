"""Draws the figures of a report from values, and remembers what each was drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from sage.bench import figures
from sage.bench.figures import Series
from sage.bench.report.values import FORMS, Origin, Value
from sage.bench.results import StoredCell
from sage.events import TaskEnded

__all__ = ["Canvas", "Drawn", "Lined"]

JOBS_IN_GANTT = 12


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure shows: the origin of every value, or the files its samples came from."""

    values: Mapping[str, tuple[Origin | None, ...]] = {}
    numbers: Mapping[str, tuple[float | None, ...]] = {}
    files: Mapping[str, str] = {}  # file -> sha256


#: Values along an axis, and half of the interval of each.
Lined = tuple[Sequence[Value | None], Sequence[Value | None]]


class Canvas:
    """Where figures go.

    Args:
        folder: gets ``KEY.svg``, ``KEY.pdf`` and ``KEY.png`` of each; None: nothing is drawn.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.drawn: dict[str, Drawn] = {}

    def dual_axis(
        self,
        key: str,
        *,
        places: Sequence[Value],
        bars: Mapping[str, Lined],
        lines: Mapping[str, Lined],
        x: str,
        y_bars: str,
        y_lines: str,
        shade: tuple[float, float] | None = None,
        shade_label: str = "",
    ) -> None:
        """Bars and lines over places, with a region shaded."""
        path = self._path(key, {**bars, **lines})
        if path is None:
            return
        figures.dual_axis(
            path,
            places=_ticks(places),
            bars=_series(bars),
            lines=_series(lines),
            x=x,
            y_bars=y_bars,
            y_lines=y_lines,
            shade=shade,
            shade_label=shade_label,
        )

    def grouped_bars(
        self, key: str, *, places: Sequence[Value], bars: Mapping[str, Lined], x: str, y: str
    ) -> None:
        """Bars side by side."""
        path = self._path(key, bars)
        if path is None:
            return
        figures.grouped_bars(path, places=_ticks(places), bars=_series(bars), x=x, y=y)

    def scaling(
        self,
        key: str,
        *,
        places: Sequence[Value],
        series: Mapping[str, Lined],
        x: str,
        y: str,
        y_efficiency: str,
    ) -> None:
        """Speed-up and efficiency."""
        path = self._path(key, series)
        if path is None:
            return
        figures.scaling(
            path,
            places=[place.number for place in places],
            series=_series(series),
            x=x,
            y=y,
            y_efficiency=y_efficiency,
        )

    def radar(self, key: str, *, spokes: Sequence[str], series: Mapping[str, Lined]) -> None:
        """Values from 0 to 1 on spokes."""
        path = self._path(key, series)
        if path is not None:
            figures.radar(path, spokes=spokes, series=_series(series))

    def scatter(
        self,
        key: str,
        *,
        points: Mapping[str, tuple[Value, Value, Value | None, Value | None]],
        x: str,
        y: str,
    ) -> None:
        """Named points: across, up, and the interval of up."""
        path = self._path(key, {label: (point, ()) for label, point in points.items()})
        if path is not None:
            numbers = {
                label: (
                    across.number,
                    up.number,
                    None if low is None else low.number,
                    None if high is None else high.number,
                )
                for label, (across, up, low, high) in points.items()
            }
            figures.scatter(path, points=numbers, x=x, y=y)

    def curves(
        self, key: str, *, series: Mapping[str, tuple[Sequence[Value], Sequence[Value]]], x: str, y: str
    ) -> None:
        """Lines through points: across and up of each."""
        ends = {
            f"{label}, {axis}": (values[at], ())
            for label, values in series.items()
            for at, axis in enumerate("xy")
        }
        path = self._path(key, ends)
        if path is not None:
            numbers = {
                label: ([value.number for value in across], [value.number for value in up])
                for label, (across, up) in series.items()
            }
            figures.curves(path, series=numbers, x=x, y=y)

    def matrix(
        self,
        key: str,
        *,
        rows: Mapping[str, Sequence[Value | None]],
        columns: Sequence[str],
        x: str,
        y: str,
    ) -> None:
        """Counts in a square: a row of values for each label, a column each."""
        path = self._path(key, {label: (values, ()) for label, values in rows.items()})
        if path is not None:
            counts = [
                [0 if value is None else int(value.number) for value in values] for values in rows.values()
            ]
            figures.matrix(path, rows=list(rows), columns=columns, counts=counts, x=x, y=y)

    def cdf(self, key: str, *, cells: Mapping[str, Sequence[StoredCell]], x: str) -> None:
        """Times from due to done of the jobs of some cells."""
        if self.folder is None:
            return
        samples: dict[str, list[float]] = {}
        files: dict[str, str] = {}
        for label, several in cells.items():
            samples[label] = [
                request.ended - request.scheduled
                for cell in several
                for request in cell.requests()
                if request.outcome == "done" and not request.warmup
            ]
            for cell in several:
                files[f"{cell.manifest.name}/requests.jsonl"] = cell.manifest.sha256["requests.jsonl"]
        self.drawn[key] = Drawn(files=files)
        figures.cdf(self.folder / key, samples=samples, x=x)

    def gantt(self, key: str, *, cell: StoredCell, x: str) -> None:
        """The calls of the first counted jobs of a cell, a job a row."""
        if self.folder is None:
            return
        counted = [request.id for request in cell.requests() if not request.warmup][:JOBS_IN_GANTT]
        rows: dict[str, list[tuple[float, float, str]]] = {f"job {number}": [] for number in counted}
        for event in cell.events():
            if isinstance(event, TaskEnded) and event.job in counted:
                spans = rows[f"job {event.job}"]
                if event.dispatched - event.ready > 1e-4:
                    spans.append((event.ready, event.dispatched, "waiting"))
                spans.append((event.dispatched, event.t, event.step.split(".")[0]))
        start = min((span[0] for spans in rows.values() for span in spans), default=0.0)
        self.drawn[key] = Drawn(
            files={f"{cell.manifest.name}/events.jsonl": cell.manifest.sha256["events.jsonl"]}
        )
        figures.gantt(
            self.folder / key,
            rows={
                label: [(low - start, high - start, kind) for low, high, kind in spans]
                for label, spans in rows.items()
            },
            x=x,
        )

    def _path(self, key: str, series: Mapping[str, Lined]) -> Path | None:
        self.drawn[key] = Drawn(
            values={
                label: tuple(None if value is None else value.origin for value in values)
                for label, (values, _) in series.items()
            },
            numbers={
                label: tuple(None if value is None else value.number for value in values)
                for label, (values, _) in series.items()
            },
        )
        return None if self.folder is None else self.folder / key


def _series(lined: Mapping[str, Lined]) -> list[Series]:
    return [Series(label, _numbers(values), _numbers(halves)) for label, (values, halves) in lined.items()]


def _numbers(values: Sequence[Value | None]) -> list[float | None]:
    return [None if value is None else value.number for value in values]


def _ticks(places: Sequence[Value]) -> list[str]:
    return [
        place.content if isinstance(place.content, str) else FORMS["plain"](place.content) for place in places
    ]
