"""The Gantt chart of a run as one svg file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from sage.runtime.gantt import KINDS, Gantt, JobChart, Lane, Row

__all__ = ["gantt_svg"]

WIDTH = 1040.0
LEFT = 250.0  # names stand before it
RIGHT = 24.0
ROW = 22.0
BAR = 14.0
LANE = 30.0
HEAD = 34.0  # above a group of rows
MAX_NAME = 30  # characters beside the rows
MIN_BAR = 1.0  # so that the shortest bar is seen
TICKS = 6

STYLE = """
  .sage-gantt text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 12px; fill: #1f2933; }
  .sage-gantt .ground { fill: #ffffff; }
  .sage-gantt .title { font-size: 15px; font-weight: 600; }
  .sage-gantt .head { font-weight: 600; }
  .sage-gantt .small { font-size: 11px; fill: #5c6b7a; }
  .sage-gantt .name { text-anchor: end; }
  .sage-gantt .tick { text-anchor: middle; font-size: 11px; fill: #5c6b7a; }
  .sage-gantt .line { stroke: #d9dfe5; stroke-width: 1; }
  .sage-gantt .service { fill: #3b6fc9; }
  .sage-gantt .other { fill: #4b9a68; }
  .sage-gantt .queued { fill: #f0b54a; }
  .sage-gantt .paused { fill: #d1594b; }
  .sage-gantt .waited { fill: #c4ccd4; }
  .sage-gantt .shared { fill: #8f7fc4; }
  .sage-gantt .inside { fill: #cfe3d6; }
  .sage-gantt .lane { fill: #3b6fc9; fill-opacity: 0.75; }
  .sage-gantt .room { fill: #eef2f6; }
"""


def gantt_svg(found: Gantt, title: str, shown_seconds: Callable[[float], str]) -> str:
    """The chart as svg; ``shown_seconds`` writes times."""
    drawn: list[str] = [f'<text class="title" x="20" y="30">{_text(title, 100)}</text>']
    y = 58.0
    if found.lanes:
        drawn.append(
            _head(
                y,
                "Endpoints",
                f"calls at once, full height: the limit, or the most there was; run {shown_seconds(found.window_s)}",
            )
        )
        y += HEAD - 12
        end = y + LANE * len(found.lanes)
        drawn.append(_axis(found.window_s, y, end, shown_seconds))
        for lane in found.lanes:
            drawn.append(_lane(lane, y))
            y += LANE
        y += HEAD + 14
    if found.jobs:
        drawn.append(_legend(y))
        y += 30
    for job in found.jobs:
        about = f"{job.outcome} after {shown_seconds(job.seconds)}"
        drawn.append(_head(y, f"Job {job.job} of {job.pipeline}", about))
        y += HEAD - 20
        end = y + ROW * len(job.rows)
        drawn.append(_axis(found.scale_s, y, end, shown_seconds))
        drawn.append(_job(job, y, found.scale_s, shown_seconds))
        y = end + HEAD
        if job.num_left_out:
            drawn.append(
                f'<text class="small" x="{LEFT:.0f}" y="{y:.0f}">and {job.num_left_out} rows more</text>'
            )
            y += ROW
        y += 14
    return (
        f'<svg class="sage-gantt" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {y:.0f}" '
        f'width="{WIDTH:.0f}" height="{y:.0f}" role="img">\n<title>{_text(title, 200)}</title>\n'
        f'<style>{STYLE}</style>\n<rect class="ground" width="100%" height="100%"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _head(y: float, name: str, about: str) -> str:
    shown = _text(name, 60)
    return f'<text x="20" y="{y:.0f}"><tspan class="head">{shown}</tspan><tspan class="small" dx="14">{_text(about, 80)}</tspan></text>'


def _legend(y: float) -> str:
    x, drawn = 20.0, []
    for kind, (_, text) in KINDS.items():
        drawn.append(
            f'<rect class="{kind}" x="{x:.0f}" y="{y - 10:.0f}" width="12" height="12"/>'
            f'<text x="{x + 18:.0f}" y="{y:.0f}">{escape(text)}</text>'
        )
        x += 38 + 7.3 * len(text)
    return "".join(drawn)


def _axis(scale_s: float, top: float, bottom: float, shown_seconds: Callable[[float], str]) -> str:
    """Upright lines at round times, with the times below."""
    drawn = []
    step = _round_step(scale_s)
    for number in range(int(scale_s / step + 1e-9) + 1 if step else 1):
        x = _x(number * step, scale_s)
        shown = "0" if number == 0 else shown_seconds(number * step)
        drawn.append(
            f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.0f}" y2="{bottom + 4:.0f}"/>'
            f'<text class="tick" x="{x:.1f}" y="{bottom + 17:.0f}">{escape(shown)}</text>'
        )
    return "".join(drawn)


def _round_step(scale_s: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are about six steps."""
    if scale_s <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(scale_s / TICKS))
    return next(power * unit for unit in (1, 2, 5, 10) if power * unit * TICKS >= scale_s * 0.999)


def _lane(lane: Lane, y: float) -> str:
    """A filled curve of how many calls were under way, as high as the endpoint was full."""
    width, height, base = WIDTH - LEFT - RIGHT, LANE - 8, y + LANE - 4
    cell = width / len(lane.cells)
    points = [f"M{LEFT:.1f} {base:.1f}"]
    for number, calls in enumerate(lane.cells):
        top = base - height * min(1.0, calls / lane.full if lane.full else 0.0)
        points.append(f"V{top:.1f}H{LEFT + (number + 1) * cell:.1f}")
    points.append(f"V{base:.1f}Z")
    return (
        f'<rect class="room" x="{LEFT:.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
        f'<path class="lane" d="{"".join(points)}"/>' + _name(lane.endpoint, base - height / 2 + 4)
    )


def _job(job: JobChart, y: float, scale_s: float, shown_seconds: Callable[[float], str]) -> str:
    drawn = []
    for number, row in enumerate(job.rows):
        top = y + number * ROW
        drawn.append(_name(row.name, top + ROW / 2 + 4, indent=row.is_inside))
        drawn.append(_bars(row, top + (ROW - BAR) / 2, scale_s, shown_seconds))
    return "\n".join(drawn)


def _bars(row: Row, top: float, scale_s: float, shown_seconds: Callable[[float], str]) -> str:
    drawn = []
    for bar in row.bars:
        x = _x(bar.start, scale_s)
        width = max(MIN_BAR, _x(bar.end, scale_s) - x)
        about = f"{row.name}: {KINDS[bar.kind][1]}, {shown_seconds(bar.end - bar.start)}"
        drawn.append(
            f'<rect class="{bar.kind}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{BAR:.0f}">'
            f"<title>{_text(about, 200)}</title></rect>"
        )
    return "".join(drawn)


def _name(name: str, y: float, *, indent: bool = False) -> str:
    kind = "name small" if indent else "name"
    return f'<text class="{kind}" x="{LEFT - 12:.0f}" y="{y:.1f}">{_text(name, MAX_NAME)}</text>'


def _x(seconds: float, scale_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (seconds / scale_s if scale_s else 0.0)


def _text(text: str, limit: int) -> str:
    """Of bearable length, without characters that XML cannot hold."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return escape(clean if len(clean) <= limit else f"{clean[: limit - 1]}…")
