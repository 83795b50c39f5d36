"""A plan as an svg picture: a level a row, arrows downwards, no crossing that a few sweeps can avoid.

The method is that of Sugiyama, Tagawa and Toda ("Methods for visual understanding of hierarchical system
structures", IEEE Trans. SMC 1981), simplified: levels are given, an edge over several levels passes through an
empty place in each, and places are ordered by the mean of their neighbours. A body is drawn the same way, inside the
box of its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from sage.graph.body import VALUE, Body
from sage.graph.plan import Plan, PlannedStep
from sage.graph.step import Step

__all__ = ["Box", "boxes_svg", "labelled", "levels", "shown_label", "svg"]

NAME_PX = 8.0  # width of one character of a name at 13 px, and of the line below it at 11 px
BELOW_PX = 6.6
PADDING = 14.0
MIN_WIDTH = 64.0
LINE_WIDTH = 14.0  # what an edge that passes a level takes up
BOX_HEIGHT = 44.0
INPUT_HEIGHT = 30.0
GAP_X = 26.0
GAP_Y = 46.0
MARGIN = 20.0
INSET = 12.0  # around what is inside a box
TITLE_HEIGHT = 18.0  # of a body's title
SWEEPS = 12
MAX_SHOWN = 40  # characters of a name

STYLE = """
  .sage-plan text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; text-anchor: middle; fill: #1f2933; }
  .sage-plan .name { font-size: 13px; font-weight: 600; }
  .sage-plan .below { font-size: 11px; fill: #5c6b7a; }
  .sage-plan .step { fill: #ffffff; stroke: #8796a5; stroke-width: 1.2; }
  .sage-plan .model { fill: #e8f0fe; stroke: #4a7fd4; }
  .sage-plan .input { fill: #f1f3f5; stroke: #a9b4bf; stroke-dasharray: 4 3; }
  .sage-plan .edge { fill: none; stroke: #8796a5; stroke-width: 1.3; }
  .sage-plan .head { fill: #8796a5; }
  @media (prefers-color-scheme: dark) {
    .sage-plan text { fill: #e6edf3; }
    .sage-plan .below { fill: #9fb0c0; }
    .sage-plan .step { fill: #1c2430; stroke: #6b7c8d; }
    .sage-plan .model { fill: #17294a; stroke: #5b8fe0; }
    .sage-plan .input { fill: #232a33; stroke: #5d6a77; }
  }
"""


def levels(plan: Plan) -> dict[str, int]:
    """Step -> how many steps must run before it, one after the other, and itself: steps of one level can overlap."""
    found: dict[str, int] = {}
    for step in plan.steps:
        found[step.name] = 1 + max((found[name] for name in step.after), default=0)
    return found


def labelled(step: Step) -> dict[str, Body]:
    """The plans inside a step by their label, its fallback last."""
    return {**step.bodies, **({} if step.otherwise is None else {"fallback": step.otherwise})}


def shown_label(label: str) -> str:
    """A body's label for a reader: a route's branch by the value that leads to it."""
    return label.removeprefix("to.")


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A finished picture of a plan, to be put somewhere."""

    title: str
    width: float
    height: float
    lines: tuple[str, ...]

    def at(self, x: float, y: float) -> str:
        return "\n".join([f'<g transform="translate({x:.1f} {y:.1f})">', *self.lines, "</g>"])


@dataclass(slots=True, eq=False)
class _Place:
    """A box, or the point where an edge passes a level."""

    name: str
    below: str
    kind: str  # "input", "step", "model"; "" for a passing edge
    level: int
    x: float = 0.0  # of its middle
    inside: tuple[_Drawing, ...] = ()  # the plans in it, side by side below its name
    above: list[_Place] = field(default_factory=list)
    under: list[_Place] = field(default_factory=list)

    @property
    def width(self) -> float:
        if not self.kind:
            return LINE_WIDTH
        text = max(len(self.name) * NAME_PX, len(self.below) * BELOW_PX)
        inner = sum(drawing.width + INSET for drawing in self.inside)
        return max(MIN_WIDTH, text + 2 * PADDING, inner + INSET if inner else 0.0)

    @property
    def height(self) -> float:
        inner = max((drawing.height + TITLE_HEIGHT + INSET for drawing in self.inside), default=0.0)
        return {"": 0.0, "input": INPUT_HEIGHT}.get(self.kind, BOX_HEIGHT + inner)


def svg(plan: Plan) -> str:
    """The picture of a plan: a level a row, inputs above, and what runs inside a step inside its box."""
    return _framed(_drawn(plan, plan.name))


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a picture that is no plan's: its two lines, its kind, and the names of those it follows."""

    name: str
    below: str
    kind: str  # "input", "step" or "model"
    after: tuple[str, ...]


def boxes_svg(title: str, boxes: Sequence[Box]) -> str:
    """The picture of boxes, each standing behind those it follows, drawn as a plan is."""
    level: dict[str, int] = {}
    places: dict[str, _Place] = {}
    rows: list[list[_Place]] = []
    for box in boxes:
        level[box.name] = max((level[name] + 1 for name in box.after), default=0)
        rows += [[] for _ in range(level[box.name] + 1 - len(rows))]
        kind = "source" if box.kind == "input" else box.kind
        places[box.name] = _Place(_short(box.name), _short(box.below), kind, level[box.name])
        rows[level[box.name]].append(places[box.name])
    for box in boxes:
        for name in dict.fromkeys(box.after):
            _join(rows, places[name], places[box.name])
    return _framed(_laid_out(rows, title))


def _framed(drawing: _Drawing) -> str:
    """A whole svg picture around a drawing."""
    width, height = drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN
    return (
        f'<svg class="sage-plan" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">\n<title>{escape(_short(drawing.title))}</title>\n<style>{STYLE}</style>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>\n'
        f"{drawing.at(MARGIN, MARGIN)}\n</svg>\n"
    )


def _drawn(plan: Plan, title: str) -> _Drawing:
    return _laid_out(_rows(plan), title)


def _laid_out(rows: list[list[_Place]], title: str) -> _Drawing:
    for sweep in range(SWEEPS):
        _order(rows, downwards=sweep % 2 == 0)
    _spread(rows)
    heights = [max((place.height for place in row), default=0.0) for row in rows]
    middles: list[float] = []
    top = 0.0
    for height in heights:
        middles.append(top + height / 2)
        top += height + (GAP_Y if height else 0.0)
    boxes = [place for row in rows for place in row if place.kind]
    lines = [_edge(place, child, middles, heights) for place in boxes for child in place.under]
    lines += [_box(place, middles[place.level]) for place in boxes]
    width = max((place.x + place.width / 2 for row in rows for place in row), default=0.0)
    return _Drawing(title, width, top - GAP_Y, tuple(lines))


def _single(planned: PlannedStep, title: str) -> _Drawing:
    """A body of one step: only its box, for it reads what the step around it reads."""
    place = _placed(planned.step, planned.step.operator, planned.step.pool or "", 0)
    place.x = place.width / 2
    return _Drawing(title, place.width, place.height, (_box(place, place.height / 2),))


def _placed(step: Step, name: str, below: str, level: int) -> _Place:
    inside = tuple(
        _drawn(body.plan, _short(f"{shown_label(label)}: {body.plan.name}"))
        if body.field != VALUE
        else _single(body.plan.step(VALUE), _short(shown_label(label)))
        for label, body in labelled(step).items()
    )
    kind = "model" if step.pool else "step"
    return _Place(_short(name), _short(below), kind, level, inside=inside)


def _rows(plan: Plan) -> list[list[_Place]]:
    """Boxes by level, and for every edge over several levels a place in each of those between."""
    level = levels(plan)
    inputs = [*plan.inputs, *plan.optional_inputs]
    rows: list[list[_Place]] = [[] for _ in range(max(level.values(), default=0) + 1)]
    boxes: dict[str, _Place] = {}
    for name in inputs:
        boxes[name] = _Place(_short(name), "", "input", 0)
    for step in plan.steps:
        operator, pool = step.step.operator, step.step.pool
        below = operator if pool is None else f"{operator} · {pool}"
        boxes[step.name] = _placed(step.step, step.name, below, level[step.name])
    for box in boxes.values():
        rows[box.level].append(box)
    for step in plan.steps:
        for need in step.needs:
            if need in boxes:
                _join(rows, boxes[need], boxes[step.name])
    return rows


def _join(rows: list[list[_Place]], start: _Place, end: _Place) -> None:
    last = start
    for between in range(start.level + 1, end.level):
        passing = _Place("", "", "", between)
        rows[between].append(passing)
        _link(last, passing)
        last = passing
    _link(last, end)


def _link(upper: _Place, lower: _Place) -> None:
    upper.under.append(lower)
    lower.above.append(upper)


def _order(rows: list[list[_Place]], *, downwards: bool) -> None:
    """Sort each row by the mean place of its neighbours in the row before."""
    for row in rows if downwards else reversed(rows):
        rank = {id(place): number for other in rows for number, place in enumerate(other)}

        def mean(place: _Place, rank: Mapping[int, int] = rank) -> float:
            near = place.above if downwards else place.under
            if not near:
                return float(rank[id(place)])
            return sum(rank[id(other)] for other in near) / len(near)

        row.sort(key=mean)


def _spread(rows: list[list[_Place]]) -> None:
    """Give every place its x: side by side, then drawn towards the mean of its neighbours as far as there is room."""
    for row in rows:
        x = 0.0
        for place in row:
            place.x = x + place.width / 2
            x += place.width + GAP_X
    middle = max((row[-1].x + row[-1].width / 2 for row in rows if row), default=0.0) / 2
    for row in rows:
        if row:
            shift = middle - (row[0].x - row[0].width / 2 + row[-1].x + row[-1].width / 2) / 2
            for place in row:
                place.x += shift
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            _settle(row)
    left = min((place.x - place.width / 2 for row in rows for place in row), default=0.0)
    for row in rows:
        for place in row:
            place.x -= left


def _settle(row: list[_Place]) -> None:
    """Move each place to where its neighbours want it, keeping the order and the gaps."""
    wanted = []
    for place in row:
        near = place.above + place.under
        wanted.append(sum(other.x for other in near) / len(near) if near else place.x)
    left = _pushed(row, wanted)
    mirrored = _pushed(row[::-1], [-x for x in reversed(wanted)])
    for place, low, high in zip(row, left, [-x for x in reversed(mirrored)], strict=True):
        place.x = (low + high) / 2


def _pushed(row: list[_Place], wanted: list[float]) -> list[float]:
    """The wanted places, each moved right as far as those to its left need room."""
    found: list[float] = []
    for number, place in enumerate(row):
        least = wanted[number]
        if number:
            before = row[number - 1]
            least = max(least, found[-1] + (before.width + place.width) / 2 + GAP_X)
        found.append(least)
    return found


def _edge(start: _Place, child: _Place, middles: list[float], heights: list[float]) -> str:
    """A smooth line from box to box, through the places an edge passes."""
    x, y = start.x, middles[start.level] + start.height / 2
    path = [f"M{x:.1f} {y:.1f}"]
    while True:
        end_y = middles[child.level] - (child.height if child.kind else heights[child.level]) / 2
        half = (max(y, middles[child.level - 1] + heights[child.level - 1] / 2) + end_y) / 2
        path.append(f"C{x:.1f} {half:.1f} {child.x:.1f} {half:.1f} {child.x:.1f} {end_y:.1f}")
        if child.kind:
            return f'<path class="edge" marker-end="url(#head)" d="{" ".join(path)}"/>'
        x, y = child.x, middles[child.level] + heights[child.level] / 2
        path.append(f"L{x:.1f} {y:.1f}")
        child = child.under[0]


def _box(place: _Place, middle: float) -> str:
    left, top = place.x - place.width / 2, middle - place.height / 2
    kind = {"input": "input", "source": "input", "model": "step model"}.get(place.kind, "step")
    radius = place.height / 2 if place.kind == "input" else 6
    rect = (
        f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{place.width:.1f}" '
        f'height="{place.height:.1f}" rx="{radius:.0f}"/>'
    )
    head = top + BOX_HEIGHT / 2 if place.inside else middle
    name_y = head + (4.5 if not place.below else -3)
    text = f'<text class="name" x="{place.x:.1f}" y="{name_y:.1f}">{escape(place.name)}</text>'
    if place.below:
        text += f'<text class="below" x="{place.x:.1f}" y="{head + 13:.1f}">{escape(place.below)}</text>'
    return rect + text + "".join(_inside(place, top + BOX_HEIGHT))


def _inside(place: _Place, top: float) -> Iterator[str]:
    """The plans in a box, each below its title."""
    room = sum(drawing.width + INSET for drawing in place.inside) - INSET
    x = place.x - room / 2
    for drawing in place.inside:
        yield f'\n<text class="below" x="{x + drawing.width / 2:.1f}" y="{top + 11:.1f}">{escape(drawing.title)}</text>'
        yield "\n" + drawing.at(x, top + TITLE_HEIGHT)
        x += drawing.width + INSET


def _short(text: str) -> str:
    """A name of bearable length, without characters that XML cannot hold."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return clean if len(clean) <= MAX_SHOWN else f"{clean[: MAX_SHOWN - 1]}…"
