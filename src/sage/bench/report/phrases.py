"""Sentences that several sections say, each in the form that the data allow."""

from __future__ import annotations

from collections.abc import Sequence

from sage.bench.report.canvas import Lined
from sage.bench.report.document import Table, Text, cells, prose
from sage.bench.report.evidence import Point, Source
from sage.bench.report.values import Shown, Value, computed

__all__ = ["axis_cell", "bounds", "difference", "lined", "points_table", "tail_of", "times"]

MARGIN = 0.02  # of a figure without an interval: less than this is called no difference
SAME = 1e-9  # less than this is the rounding of floats


def lined(points: Sequence[Point], pointer: str) -> Lined:
    """A figure along some points, with its intervals."""
    return [point.mean(pointer) for point in points], [point.half(pointer) for point in points]


def tail_of(points: Sequence[Point]) -> tuple[str, str]:
    """The highest percentile that every point carries: its name, and where it stands."""
    for name in ("p99", "p95", "p90"):
        if all(point.mean(f"e2e_s/{name}") is not None for point in points):
            return name, f"e2e_s/{name}"
    return "mean", "e2e_s/mean"


def times(one: Value | None, other: Value | None) -> Shown | None:
    """One over the other."""
    ratio = computed("ratio", [one, other])
    return None if ratio is None else Shown(ratio, "times")


def bounds(point: Point, pointer: str) -> tuple[float, float] | None:
    """The interval of a figure over repeats; None where there are too few."""
    mean, half = point.mean(pointer), point.half(pointer)
    if mean is None or half is None:
        return None
    return mean.number - half.number, mean.number + half.number


def difference(ours: Point, theirs: Point, pointer: str, what: str) -> Text | None:
    """How a figure of SAGE compares with that of the baseline: a difference only where the data show one."""
    mean, other = ours.mean(pointer), theirs.mean(pointer)
    more = computed("more", [mean, other])
    if mean is None or other is None or more is None:
        return None
    size = computed("size", [more])
    assert size is not None
    if size.number < SAME:
        return prose(f"{what} of SAGE is exactly that of the plain loop")
    direction = "above" if more.number > 0 else "below"
    own, its = bounds(ours, pointer), bounds(theirs, pointer)
    if own is not None and its is not None:
        if own[0] <= its[1] and its[0] <= own[1]:
            return prose(
                f"{what} of SAGE and of the plain loop cannot be told apart: their intervals overlap, the means are "
                "{size} apart",
                size=Shown(size, "percent"),
            )
        return prose(
            f"{what} of SAGE is {{size}} {direction} that of the plain loop, with intervals that do not overlap",
            size=Shown(size, "percent"),
        )
    if size.number < MARGIN:
        return prose(f"{what} of SAGE is that of the plain loop within {{size}}", size=Shown(size, "percent"))
    return prose(
        f"{what} of SAGE is {{size}} {direction} that of the plain loop; there are too few repeats for an interval",
        size=Shown(size, "percent"),
    )


#: Columns of the usual table: title, place in the summary, form.
COLUMNS = (
    ("jobs/s", "jobs_per_s", "number"),
    ("mean", "e2e_s/mean", "seconds"),
    ("p50", "e2e_s/p50", "seconds"),
    ("p95", "e2e_s/p95", "seconds"),
    ("p99", "e2e_s/p99", "seconds"),
    ("in flight", "inflight", "times"),
)


def axis_cell(point: Point, axis: str) -> Shown:
    """Where a point stands on an axis, as a cell of a table."""
    value = point.axis(axis)
    return Shown(value, "text" if isinstance(value.content, str) else "plain")


def points_table(
    source: Source, axes: Sequence[tuple[str, str]], points: Sequence[Point] | None = None
) -> Table:
    """The usual table of an experiment: a row a point. ``axes`` are (name, title)."""
    several = source.points if points is None else points
    rows = []
    for point in several:
        counted, done = point.sum("jobs"), computed("sum", point.each("jobs/done"))
        failed = computed("difference", [counted, done])
        rows.append(
            cells(
                *(axis_cell(point, name) for name, _ in axes),
                Shown(counted, "count") if counted is not None else "none",
                Shown(failed, "count") if failed is not None else "all",
                *(point.shown(pointer, form) for _, pointer, form in COLUMNS),
            )
        )
    header = (*(title for _, title in axes), "jobs", "not done", *(title for title, _, _ in COLUMNS))
    return Table(
        key=f"table-{source.root}",
        caption=_caption(source, several),
        header=header,
        rows=tuple(rows),
        num_labels=len(axes),
    )


def _caption(source: Source, points: Sequence[Point]) -> Text:
    kind = source.kind.capitalize()
    repeats = computed("count", points[0].each("window_s"))
    several = (
        "; \N{PLUS-MINUS SIGN} is half of a 95 % t-interval over {repeats} repeats"
        if repeats is not None and repeats.number > 2
        else "; {repeats} repeat each, so without intervals"
    )
    said = {"repeats": Shown(repeats, "count")} if repeats is not None else {}
    return prose(
        f"{kind} results of experiment {{name}}, preset {{preset}}: times from when a job was due to when it was done"
        f"{several if said else ''}. A dash: the sample is too small to tell.",
        {**said, "name": Shown(source.fact("experiment"), "text"), "preset": _preset(source)},
    )


def _preset(source: Source) -> Shown | str:
    preset = source.maybe("preset")
    return "of its own" if preset is None or not preset.content else Shown(preset, "text")
