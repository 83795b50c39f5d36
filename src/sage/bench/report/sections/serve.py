"""What clients of a server, or of a pipeline, saw under load."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Figure, Paragraph, Part, Table, Text, cells, prose, sentence
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.phrases import lined
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, computed
from sage.bench.sweetspot import Point as Load
from sage.bench.sweetspot import find_sweet_spot

#: Rows of the table: title, and the field of the summary.
LATENCIES = (
    ("time to first token, from due", "ttft_sched_s"),
    ("time to first token, of the server", "ttft_s"),
    ("time per output token", "tpot_s"),
    ("time between tokens", "itl_s"),
    ("time between chunks", "tbt_s"),
    ("whole, from due", "e2e_sched_s"),
    ("whole, of the server", "e2e_s"),
)
COLUMNS = (("mean", "mean"), ("p50", "p50"), ("p90", "p90"), ("p95", "p95"), ("p99", "p99"), ("most", "max"))


IN_TIME = 0.95  # of all requests, for a load to count as meeting its objectives
TITLES = {"concurrency": "clients at once", "rate": "requests offered a second"}


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    sources = evidence.of("serve")
    if not sources:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for source in sources:
        if len(source.points) > 1:
            blocks += _sweep(source, canvas)
        for number, point in enumerate(source.points):
            said = _said(source, point)
            blocks.append(Paragraph(sentence(said)))
            blocks.append(_table(source, point, number))
            findings.append(said)
    return Part(
        key="serve",
        title="Load of a server",
        blocks=tuple(blocks),
        findings=tuple(findings),
        limits=(
            prose(
                "A load says how one server behaved under one kind of traffic, with prompts of common words."
            ),
        ),
        sources=tuple(source.root for source in sources),
    )


def _sweep(source: Source, canvas: Canvas) -> list[Block]:
    """Throughput and latency over the one axis that the loads differ in, with the region worth running at."""
    points = source.points
    (axis,) = points[0].axes
    tail = next(
        (name for name in ("p99", "p95", "p90") if all(_at(p, f"e2e_sched_s/{name}") for p in points)), "p50"
    )
    spot = find_sweet_spot([_load(point, axis) for point in points])
    inside = [
        place
        for place, point in enumerate(points)
        if spot.low is not None
        and spot.high is not None
        and spot.low * (1 - 1e-9) <= point.axis(axis).number <= spot.high
    ]
    key = f"serve-{source.root}"
    canvas.dual_axis(
        key,
        places=[point.axis(axis) for point in points],
        bars={"requests/s": lined(points, "requests_per_s")},
        lines={f"{tail} from due": lined(points, f"e2e_sched_s/{tail}")},
        x=TITLES.get(axis, axis),
        y_bars=f"throughput (requests/s), {source.kind}",
        y_lines=f"{tail} from due to done (s)",
        shade=(inside[0], inside[-1]) if inside else None,
        shade_label="sweet spot",
    )
    shaded = (
        "The region worth running at is shaded." if inside else "No region is shaded: there is no clear knee."
    )
    caption = prose(
        f"Throughput (bars) and {tail} latency (line) over {TITLES.get(axis, axis)}, {source.kind}. {shaded}"
    )
    return [
        Figure(key, caption, f"Bars of throughput and a line of {tail} latency over {TITLES.get(axis, axis)}")
    ]


def _at(point: Point, pointer: str) -> bool:
    return point.mean(pointer) is not None


def _load(point: Point, axis: str) -> Load:
    rate, share = point.mean("requests_per_s"), point.mean("goodput/attainment/share")
    return Load(
        point.axis(axis).number,
        rate.number if rate is not None else 0.0,
        share is None or share.number >= IN_TIME,
    )


def _said(source: Source, point: Point) -> Text:
    """How much was served, and how much of it as it should be."""
    rate, tokens = point.mean("requests_per_s"), point.mean("output_tokens_per_s")
    done, counted = computed("sum", point.each("requests/done")), point.sum("requests")
    share = point.mean("goodput/attainment/share")
    status = Shown(source.fact("status"), "text")
    if rate is None or tokens is None or done is None or counted is None:
        return prose("A load came to nothing that can be told; it ended {status}", status=status)
    given: dict[str, Shown | str] = {
        "done": Shown(done, "count"),
        "counted": Shown(counted, "count"),
        "rate": Shown(rate, "number", point.half("requests_per_s")),
        "tokens": Shown(tokens, "number", point.half("output_tokens_per_s")),
        "status": status,
        "name": source.root if not any(letter.isdigit() for letter in source.root) else "a load",
    }
    at = ""
    for axis in point.axes:
        at = f" at {{{axis}}} {TITLES.get(axis, axis)}"
        given[axis] = Shown(point.axis(axis), "plain")
    text = (
        f"In {{name}}{at} ({source.kind}, {{status}}), {{done}} of {{counted}} requests were answered, {{rate}} a second "
        "with {tokens} output tokens a second"
    )
    if share is not None:
        given["share"] = Shown(share, "percent", point.half("goodput/attainment/share"))
        text += "; {share} of all requests met every objective"
    return prose(text, given)


def _table(source: Source, point: Point, number: int) -> Table:
    rows = tuple(
        cells(title, *(point.shown(f"{field}/{pointer}", "seconds") for _, pointer in COLUMNS))
        for title, field in LATENCIES
    )
    return Table(
        key=f"table-{source.root}" + ("" if number == 0 else f"-{number}"),
        caption=prose(
            f"Latencies that clients saw, {source.kind}; due is when the schedule wanted the request sent. A dash: the "
            "sample is too small to tell."
        ),
        header=("", *(title for title, _ in COLUMNS)),
        rows=rows,
    )


SECTIONS["serve"] = Section("Load of a server", "sage bench serve", _build)
