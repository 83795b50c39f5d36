"""How agents behave: how right each strategy is, and what that costs the engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage.bench.report.canvas import Canvas, Lined
from sage.bench.report.document import Block, Figure, Paragraph, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, Value, shown


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of behaviour is told."""

    experiment: str
    title: str
    headline: str  # pointer of the main score: below it stand its interval's ends
    score: str  # the name of its value there
    called: str
    others: tuple[tuple[str, str], ...]  # title and pointer of further columns


KINDS = (
    _Kind(
        "agent-selection",
        "Tools chosen",
        "shares/hit@1",
        "share",
        "first tool right",
        (
            ("among five", "shares/hit@5/share"),
            ("recall of five", "means/recall@5/mean"),
            ("none where none fits", "shares/none_accuracy/share"),
        ),
    ),
    _Kind(
        "agent-planning",
        "Plans made",
        "means/node_f1",
        "mean",
        "F-score of tools",
        (
            ("of edges", "means/edge_f1/mean"),
            ("in order", "means/ordered_f1/mean"),
            ("exact", "shares/exact/share"),
        ),
    ),
    _Kind(
        "agent-timing",
        "Calls made at the right time",
        "shares/accuracy",
        "share",
        "action right",
        (
            ("macro F-score", "means/macro_f1/mean"),
            ("called too often", "shares/over_call/share"),
            ("too seldom", "shares/under_call/share"),
        ),
    ),
)
COSTS = (
    ("not readable", "unparsable/share", "percent"),
    ("invented", "invented/share", "percent"),
    ("median", "latency_s/p50", "seconds"),
    ("tokens in", "prompt_tokens", "number"),
    ("tokens out", "completion_tokens", "number"),
    ("model calls", "llm_calls", "number"),
)


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    blocks: list[Block] = []
    findings: list[Text] = []
    roots: list[str] = []
    for kind in KINDS:
        for source in evidence.of(kind.experiment):
            roots.append(source.root)
            for part in source.along("part"):
                points = source.where(part=part)
                key = f"agents-{source.root}-{part}"
                blocks += _of_part(kind, source, points, key, canvas)
                findings += _finding(kind, source, points)
    if not roots:
        return None
    limits = prose(
        "What a strategy has learnt it has learnt from other tasks of the same set; tasks of another kind would need "
        "their own. No tool was called."
    )
    return Part(
        key="agents",
        title="How agents behave",
        blocks=tuple(blocks),
        findings=tuple(findings),
        limits=(limits,),
        sources=tuple(roots),
    )


def _of_part(kind: _Kind, source: Source, points: Sequence[Point], key: str, canvas: Canvas) -> list[Block]:
    data = Shown(source.fact("config/data"), "text")
    part = Shown(points[0].axis("part"), "text")
    blocks: list[Block] = [Paragraph(text) for text in _finding(kind, source, points)]
    blocks.append(_table(kind, points, key, data, part))
    for name, pointer, axis in (
        ("latency", "latency_s/p50", "median time of a task (s)"),
        ("tokens", "prompt_tokens", "tokens of prompts per task"),
    ):
        placed = _placed(kind, points, pointer)
        if len(placed) > 1 and any(across.number for across, *_ in placed.values()):
            canvas.scatter(f"{key}-{name}", points=placed, x=axis, y=f"share of tasks, {kind.called}")
            caption = prose(
                f"{kind.title} on {{data}}, {{part}}: {kind.called}, against the {axis}.",
                data=data,
                part=part,
            )
            blocks.append(
                Figure(f"{key}-{name}", caption, f"Points of strategies by {kind.called} and {name}")
            )
    if kind.experiment == "agent-timing":
        blocks += _classes(points, key, canvas, data)
    return blocks + _trade_off(points, key, canvas, data, part)


def _trade_off(points: Sequence[Point], key: str, canvas: Canvas, data: Shown, part: Shown) -> list[Block]:
    """Where some tasks have no tool that fits: what a threshold on the best score gains, and what it costs."""
    series: dict[str, tuple[list[Value], list[Value]]] = {}
    for point in points:
        places = range(_length(point, "curve"))
        fits, empty = ([_value(point, f"curve/{at}/{column}") for at in places] for column in (1, 2))
        if fits:
            series[str(point.axes["strategy"])] = (fits, empty)
    if not series:
        return []
    name = f"{key}-threshold"
    canvas.curves(name, series=series, x="first tool right, where one fits", y="none chosen, where none fits")
    caption = prose(
        "Tools chosen on {data}, {part}, as the score below which none is chosen rises along each line.",
        data=data,
        part=part,
    )
    return [Figure(name, caption, "Lines of accuracy with a right tool against accuracy without")]


def _placed(
    kind: _Kind, points: Sequence[Point], pointer: str
) -> dict[str, tuple[Value, Value, Value | None, Value | None]]:
    placed = {}
    for point in points:
        across, up = point.mean(pointer), point.mean(f"{kind.headline}/{kind.score}")
        if across is not None and up is not None:
            low, high = point.mean(f"{kind.headline}/low"), point.mean(f"{kind.headline}/high")
            placed[str(point.axes["strategy"])] = (across, up, low, high)
    return placed


def _table(kind: _Kind, points: Sequence[Point], key: str, data: Shown, part: Shown) -> Table:
    others = [(title, at) for title, at in kind.others if any(point.mean(at) is not None for point in points)]
    rows = [
        cells(
            Shown(point.axis("strategy"), "text"),
            shown(point.mean("n"), "count"),
            *(shown(point.mean(f"{kind.headline}/{end}"), "percent") for end in (kind.score, "low", "high")),
            *(shown(point.mean(pointer), "percent") for _, pointer in others),
            *(shown(point.mean(pointer), form) for _, pointer, form in COSTS),
        )
        for point in points
    ]
    caption = prose(
        f"{kind.title} on {{data}}, {{part}}: {kind.called}, with its 95 % interval (from, to), and what a task costs.",
        data=data,
        part=part,
    )
    header = ("strategy", "tasks", kind.called, "from", "to", *(title for title, _ in others))
    return Table(f"table-{key}", caption, (*header, *(title for title, _, _ in COSTS)), tuple(rows))


def _classes(points: Sequence[Point], key: str, canvas: Canvas, data: Shown) -> list[Block]:
    """Bars of each class, and a confusion matrix for each strategy."""
    summaries = {str(point.axes["strategy"]): point for point in points}
    right = sorted({name for point in points for name in _keys(point, "confusion")})
    bars: dict[str, Lined] = {
        name: ([point.mean(f"shares/recall_{label}/share") for label in right], ())
        for name, point in summaries.items()
    }
    places = [place for place in _labels(points, right) if place is not None]
    blocks: list[Block] = []
    if len(places) == len(right):
        canvas.grouped_bars(
            f"{key}-classes", places=places, bars=bars, x="right action", y="share that was taken"
        )
        caption = prose("Of the tasks of {data} with each right action, those where it was taken.", data=data)
        blocks.append(Figure(f"{key}-classes", caption, "Bars of the recall of each action, by strategy"))
    for name, point in summaries.items():
        said = sorted({what for label in right for what in _keys(point, f"confusion/{label}")} | set(right))
        rows = {label: [point.mean(f"confusion/{label}/{what}") for what in said] for label in right}
        figure = f"{key}-confusion-{name}"
        canvas.matrix(figure, rows=rows, columns=said, x="action taken", y="right action")
        caption = prose(
            "Actions of {strategy} on {data}: tasks by what was right and what was said.",
            data=data,
            strategy=Shown(point.axis("strategy"), "text"),
        )
        blocks.append(Figure(figure, caption, "Square of right and taken actions"))
    return blocks


def _keys(point: Point, pointer: str) -> list[str]:
    """The keys of a mapping in a point's summary."""
    content = _content(point, pointer)
    return [str(key) for key in content] if isinstance(content, dict) else []


def _length(point: Point, pointer: str) -> int:
    """Of a list in a point's summary; 0 without one."""
    content = _content(point, pointer)
    return len(content) if isinstance(content, list) else 0


def _content(point: Point, pointer: str) -> object:
    (cell, *_) = point.cells
    content: object = cell.summary(dict)
    for part in pointer.split("/"):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _labels(points: Sequence[Point], right: Sequence[str]) -> list[Value | None]:
    """The actions as values, from the rows that say them."""
    wanted = dict.fromkeys(right)
    found: dict[str, Value | None] = {}
    for label in wanted:
        for point in points:
            index = (
                f"actions/{_keys(point, 'confusion').index(label)}"
                if label in _keys(point, "confusion")
                else ""
            )
            value = point.mean(index) if index else None
            if value is not None and value.content == label:
                found[label] = value
                break
    return [found.get(label) for label in right]


def _finding(kind: _Kind, source: Source, points: Sequence[Point]) -> list[Text]:
    """The best strategy beside the first floor, by their intervals."""
    pointer = f"{kind.headline}/{kind.score}"
    known = [point for point in points if point.mean(pointer) is not None]
    if len(known) < 2:
        return []
    ranked = sorted(known, key=lambda point: -_sure(point.mean(pointer)))
    best, floor = ranked[0], ranked[-1]
    low, high = best.mean(f"{kind.headline}/low"), floor.mean(f"{kind.headline}/high")
    apart = low is not None and high is not None and low.number > high.number
    said = "with intervals that do not overlap" if apart else "with intervals that overlap"
    values = {
        "data": Shown(source.fact("config/data"), "text"),
        "part": Shown(best.axis("part"), "text"),
        "best": Shown(best.axis("strategy"), "text"),
        "floor": Shown(floor.axis("strategy"), "text"),
        "one": Shown(_value(best, pointer), "percent"),
        "other": Shown(_value(floor, pointer), "percent"),
    }
    return [
        prose(
            f"On {{data}}, {{part}} ({kind.title.lower()}), {{best}} reaches {{one}} ({kind.called}), {{floor}} {{other}}, {said}",
            values,
        )
    ]


def _sure(value: Value | None) -> float:
    return 0.0 if value is None else value.number


def _value(point: Point, pointer: str) -> Value:
    found = point.mean(pointer)
    assert found is not None
    return found


SECTIONS["agents"] = Section("How agents behave", "sage bench agent selection --data bfcl --out DIR", _build)
