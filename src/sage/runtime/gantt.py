"""A run as a Gantt chart: how busy each endpoint was, and the slowest jobs step by step. Pure data, then text.

Jobs share one scale, seconds since each arrived, so that their bars compare. ``gantt_svg`` draws the same.
"""

from __future__ import annotations

import heapq
import itertools
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from sage.events import Event, TaskEnded
from sage.runtime.manifest import Manifest
from sage.runtime.trail import Call, StepSpan, Trail, Trails, pattern

__all__ = ["Bar", "Gantt", "JobChart", "Kind", "Lane", "Row", "chart", "gantt_text"]

MAX_ROWS = 24  # per job; what is left out is counted
FULL, LEVELS = "█", " ▁▂▃▄▅▆▇█"
PER_COLUMN = 4  # places within a column of text, of which the most frequent kind is shown

Kind = Literal["waited", "queued", "paused", "service", "other", "shared", "inside"]

#: Kind -> its sign in text and what it means.
KINDS: Mapping[Kind, tuple[str, str]] = {
    "service": (FULL, "at an endpoint"),
    "other": ("▓", "own work"),
    "queued": ("░", "queued"),
    "paused": ("~", "pause before a retry"),
    "waited": ("·", "ready, not begun"),
    "shared": ("=", "answer kept or shared"),
    "inside": ("─", "steps inside it"),
}


class Bar(msgspec.Struct, frozen=True):
    """A stretch of one kind, in seconds since the job arrived."""

    kind: Kind
    start: float
    end: float


class Row(msgspec.Struct, frozen=True):
    """One step of a job, or, ``is_inside``, calls inside its body."""

    name: str
    is_inside: bool
    bars: tuple[Bar, ...]


class JobChart(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    job: int
    pipeline: str
    outcome: str
    seconds: float
    rows: tuple[Row, ...]
    num_left_out: int = 0  # rows beyond the limit


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint over the run."""

    pool: str
    endpoint: str
    full: float  # calls at once that a full cell stands for: its limit, or the most that were seen in a cell
    cells: tuple[float, ...]  # calls at once, on average in each equal part of the window


class Gantt(msgspec.Struct, frozen=True, kw_only=True):
    """A chart of a run."""

    window_s: float
    scale_s: float  # length of the longest job shown
    lanes: tuple[Lane, ...]
    jobs: tuple[JobChart, ...]


def chart(
    events: Iterable[Event], manifest: Manifest | None = None, *, jobs: int = 3, columns: int = 240
) -> Gantt:
    """The chart of a run's slowest jobs and of its endpoints.

    Args:
        events: in the order of the log. Read once.
        manifest: of the run, for the endpoints' limits.
        jobs: how many of the slowest that began.
        columns: parts the window is cut into for the endpoints.
    """
    trails = Trails()
    slowest: list[tuple[float, int, Trail]] = []
    calls: defaultdict[tuple[str, str], array[float]] = defaultdict(lambda: array("d"))
    start, end = math.inf, -math.inf
    for event in events:
        if isinstance(event, TaskEnded):
            calls[event.pool, event.endpoint].extend((event.dispatched, event.t, 1 / event.batch))
        trail = trails.add(event)
        if trail is None:
            continue
        start, end = min(start, trail.job.arrived), max(end, trail.job.t)
        if jobs and any(step.ready is not None or step.calls for step in trail.steps):
            heapq.heappush(slowest, (trail.seconds, -trail.job.job, trail))
            if len(slowest) > jobs:
                heapq.heappop(slowest)
    limits = manifest.limits if manifest is not None else {}
    shown = [_job(trail) for _, _, trail in sorted(slowest, key=lambda item: item[:2], reverse=True)]
    return Gantt(
        window_s=max(0.0, end - start),
        scale_s=max((job.seconds for job in shown), default=0.0),
        lanes=tuple(
            _lane(*key, spans, start, end, columns, limits.get(key[1]))
            for key, spans in sorted(calls.items())
        ),
        jobs=tuple(shown),
    )


def _lane(
    pool: str,
    endpoint: str,
    spans: Sequence[float],
    start: float,
    end: float,
    columns: int,
    limit: int | None,
) -> Lane:
    """How many calls were under way in each part of the window, on average."""
    width = (end - start) / columns
    cells = [0.0] * columns
    if width > 0:
        for at in range(0, len(spans), 3):
            low, high, weight = (spans[at] - start) / width, (spans[at + 1] - start) / width, spans[at + 2]
            for cell in range(max(0, int(low)), min(columns, math.ceil(high))):
                cells[cell] += weight * max(0.0, min(high, cell + 1) - max(low, cell))
    return Lane(pool=pool, endpoint=endpoint, full=float(limit) if limit else max(cells), cells=tuple(cells))


def _job(trail: Trail) -> JobChart:
    rows: list[Row] = []
    done: dict[str, float | None] = {step.name: step.done for step in trail.steps}
    for step in trail.steps:
        if step.ready is None and not step.calls:
            continue
        there = max((at for name in step.after if (at := done[name]) is not None), default=trail.began)
        rows.append(_step_row(trail, step, there))
        rows += _inside_rows(trail, step)
    return JobChart(
        job=trail.job.job,
        pipeline=trail.job.pipeline,
        outcome=trail.job.outcome,
        seconds=trail.seconds,
        rows=tuple(rows[:MAX_ROWS]),
        num_left_out=max(0, len(rows) - MAX_ROWS),
    )


def _step_row(trail: Trail, step: StepSpan, there: float) -> Row:
    """A step's own row; one that failed has no end of its own and ends with its last call."""
    bars: list[Bar] = []
    if step.ready is not None and step.done is not None:
        if there < step.ready:
            bars.append(_bar(trail, "waited", (there, step.ready)))
        has_inside = any(call.task.step != step.name for call in step.calls)
        kind: Kind = "inside" if has_inside else "shared" if step.reused else "other"
        bars.append(_bar(trail, kind, (step.ready, step.done)))
    bars += _call_bars(trail, [call for call in step.calls if call.task.step == step.name])
    return Row(step.name, False, tuple(bars))


def _inside_rows(trail: Trail, step: StepSpan) -> list[Row]:
    """A row for each place inside the step that made calls."""
    inside: defaultdict[str, list[Call]] = defaultdict(list)
    for call in step.calls:
        if call.task.step != step.name:
            inside[call.task.step].append(call)
    if len(inside) > MAX_ROWS // 2:
        merged: defaultdict[str, list[Call]] = defaultdict(list)
        for path, calls in inside.items():
            merged[pattern(path)] += calls
        inside = merged
    ordered = sorted(inside, key=lambda path: (inside[path][0].task.ready, len(path), path))
    return [Row(path, True, tuple(_call_bars(trail, inside[path]))) for path in ordered]


def _call_bars(trail: Trail, calls: list[Call]) -> list[Bar]:
    """Bars of calls; later ones lie on top, so service comes last."""
    drawn: list[tuple[Kind, tuple[float, float]]] = []
    drawn += [("paused", call.pause) for call in calls]
    drawn += [("queued", call.queue) for call in calls]
    drawn += [("service", call.service) for call in calls]
    return [_bar(trail, kind, span) for kind, span in drawn if span[1] > span[0]]


def _bar(trail: Trail, kind: Kind, span: tuple[float, float]) -> Bar:
    return Bar(kind, span[0] - trail.job.arrived, span[1] - trail.job.arrived)


# ---- as text


def gantt_text(found: Gantt, width: int, shown_seconds: Callable[[float], str]) -> list[str]:
    """The chart as lines of text.

    Args:
        found: the chart.
        width: of a line, in characters.
        shown_seconds: writes times.
    """
    names = [row.name for job in found.jobs for row in job.rows] + [lane.endpoint for lane in found.lanes]
    left = min(max(map(len, names), default=0) + 2, width // 3)
    columns = width - left - 1
    lines: list[str] = []
    if found.lanes:
        lines.append(
            f"Endpoints over the run, {shown_seconds(found.window_s)}; a full cell is the limit, or the most there was"
        )
        lines += [f"{_fit(lane.endpoint, left)} {_levels(lane, columns)}" for lane in found.lanes]
        lines.append("")
    if found.jobs:
        lines.append(
            f"Slowest jobs, from the arrival of each; the scale is {shown_seconds(found.scale_s)} long"
        )
        lines += _legend(width)
    for job in found.jobs:
        lines += ["", f"job {job.job} of {job.pipeline}, {job.outcome}"]
        for row in job.rows:
            name = f"  {row.name}" if row.is_inside else row.name
            lines.append(f"{_fit(name, left)} {_cells(row, found.scale_s, columns)}".rstrip())
        if job.num_left_out:
            lines.append(f"and {job.num_left_out} rows more")
    return lines


def _legend(width: int) -> list[str]:
    """What the signs mean, on as few lines as it fits."""
    lines = [""]
    for sign, text in KINDS.values():
        if lines[-1] and len(lines[-1]) + len(text) + 2 > width:
            lines.append("")
        lines[-1] += f"{sign} {text}   "
    return [line.rstrip() for line in lines]


def _levels(lane: Lane, columns: int) -> str:
    """Eight heights, by how full the endpoint was."""
    edges = [at * len(lane.cells) // columns for at in range(columns + 1)]
    cells = [
        math.fsum(lane.cells[low : max(high, low + 1)]) / max(high - low, 1)
        for low, high in itertools.pairwise(edges)
    ]
    return "".join(LEVELS[_level(cell, lane.full)] for cell in cells).rstrip()


def _level(calls: float, full: float) -> int:
    """0 only where nothing was under way."""
    if calls <= 0 or full <= 0:
        return 0
    return max(1, min(8, round(8 * calls / full)))


def _cells(row: Row, scale_s: float, columns: int) -> str:
    """A sign a column: of what is on top in most of it. A bar too short for a column still gets one."""
    fine: list[Kind | None] = [None] * (columns * PER_COLUMN)
    for bar in row.bars:
        low, high = ((at / scale_s * len(fine) if scale_s else 0.0) for at in (bar.start, bar.end))
        first = min(round(low), len(fine) - 1)
        last = max(first + 1, min(len(fine), round(high)))
        fine[first:last] = [bar.kind] * (last - first)
    signs = []
    for at in range(0, len(fine), PER_COLUMN):
        seen = Counter(kind for kind in fine[at : at + PER_COLUMN] if kind is not None)
        signs.append(KINDS[max(seen, key=seen.__getitem__)][0] if seen else " ")
    return "".join(signs).rstrip()


def _fit(name: str, width: int) -> str:
    return (name if len(name) <= width else f"{name[: width - 1]}…").ljust(width)
