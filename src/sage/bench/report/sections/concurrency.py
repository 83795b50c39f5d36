"""Throughput and latency against the number of jobs in flight."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Figure, Paragraph, Part, Text, prose
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.phrases import difference, lined, points_table, tail_of, times
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown
from sage.bench.sweetspot import Point as Load
from sage.bench.sweetspot import SweetSpot, find_sweet_spot


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    sources = evidence.of("concurrency")
    if not sources:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for source in sources:
        for workload in source.along("workload"):
            blocks += _of_workload(source, str(workload), canvas, findings)
        blocks.append(
            points_table(
                source, [("workload", "workload"), ("system", "system"), ("concurrency", "in flight at most")]
            )
        )
    return Part(
        key="concurrency",
        title="Concurrency",
        blocks=tuple(blocks),
        findings=tuple(findings),
        sources=tuple(source.root for source in sources),
    )


def _of_workload(source: Source, workload: str, canvas: Canvas, findings: list[Text]) -> list[Block]:
    ours = source.where(workload=workload, system="sage")
    theirs = source.where(workload=workload, system="asyncio")
    spot = find_sweet_spot(
        [
            Load(float(point.axes["concurrency"]), mean.number)
            for point in ours
            if (mean := point.mean("jobs_per_s")) is not None
        ]
    )
    tail, pointer = tail_of([*ours, *theirs])
    key = f"concurrency-{source.root}-{workload}"
    systems = {"SAGE": ours, "plain asyncio": theirs} if theirs else {"SAGE": ours}
    canvas.dual_axis(
        key,
        places=[point.axis("concurrency") for point in ours],
        bars={f"{name}, jobs/s": lined(points, "jobs_per_s") for name, points in systems.items()},
        lines={f"{name}, {tail}": lined(points, pointer) for name, points in systems.items()},
        x="jobs in flight",
        y_bars=f"throughput (jobs/s), {source.kind}",
        y_lines=f"{tail} from due to done (s)",
        shade=_places(spot, ours),
        shade_label="sweet spot",
    )
    blocks: list[Block] = [Paragraph(text) for text in _sentences(source, ours, theirs, spot)]
    findings.append(_finding(source, ours))
    caption = prose(
        f"Throughput (bars) and {tail} latency (lines) against jobs in flight, workload {{workload}}, {source.kind}. "
        + (
            "The sweet spot is shaded."
            if spot.low is not None
            else f"No sweet spot is shaded: {_words(spot)}."
        ),
        workload=Shown(ours[0].axis("workload"), "text"),
    )
    blocks.append(
        Figure(
            key, caption, f"Bars of throughput and lines of {tail} latency over the number of jobs in flight"
        )
    )
    workloads = source.along("workload")
    if workload == ("rag" if "rag" in workloads else workloads[-1]):
        blocks += _cdf(source, workload, ours, canvas)
    return blocks


def _cdf(source: Source, workload: str, ours: list[Point], canvas: Canvas) -> list[Block]:
    key = f"cdf-{source.root}-{workload}"
    canvas.cdf(
        key,
        cells={f"{point.axes['concurrency']} in flight": point.cells for point in ours},
        x=f"time from due to done (s), {source.kind}",
    )
    gantt = f"gantt-{source.root}-{workload}"
    middle = ours[len(ours) // 2]
    canvas.gantt(gantt, cell=middle.cells[0], x=f"seconds, {source.kind}")
    return [
        Figure(
            key,
            prose(
                f"Share of jobs done within a time, by jobs in flight, workload {{workload}} on SAGE, {source.kind}.",
                workload=Shown(ours[0].axis("workload"), "text"),
            ),
            "Cumulative distributions of latency, one line for each number of jobs in flight",
        ),
        Figure(
            gantt,
            prose(
                "What the first counted jobs of one run did, with {concurrency} in flight, workload {workload}, "
                f"{source.kind}.",
                concurrency=Shown(middle.axis("concurrency"), "plain"),
                workload=Shown(ours[0].axis("workload"), "text"),
            ),
            "A row for each job, with a bar for each of its calls",
        ),
    ]


def _places(spot: SweetSpot, points: list[Point]) -> tuple[float, float] | None:
    """The shaded region in places of the axis, which are as far apart as the loads' order, not their size."""
    if spot.low is None or spot.high is None:
        return None
    inside = [
        place
        for place, point in enumerate(points)
        if spot.low * (1 - 1e-9) <= float(point.axes["concurrency"]) <= spot.high
    ]
    return (inside[0], inside[-1]) if inside else None


def _words(spot: SweetSpot) -> str:
    """Why there is none, without the numbers: they are of the fit, and of no file."""
    if "expected at least" in spot.why:
        return "too few loads were tried to fit one"
    why = spot.why.partition(":")[0]
    return why if not any(letter.isdigit() for letter in why) else "the fit does not show a knee"


def _sentences(source: Source, ours: list[Point], theirs: list[Point], spot: SweetSpot) -> list[Text]:
    first, last = ours[0], ours[-1]
    faster = times(last.mean("jobs_per_s"), first.mean("jobs_per_s"))
    slower = times(last.mean("e2e_s/mean"), first.mean("e2e_s/mean"))
    said: list[Text] = []
    if faster is not None and slower is not None:
        said.append(
            prose(
                f"Workload {{workload}}, {source.kind}: from {{least}} to {{most}} jobs in flight, throughput changes "
                "by a factor of {faster} and the mean time of a job by a factor of {slower}. "
                + _verdict(faster.value.number, slower.value.number, spot),
                workload=Shown(first.axis("workload"), "text"),
                least=Shown(first.axis("concurrency"), "plain"),
                most=Shown(last.axis("concurrency"), "plain"),
                faster=faster,
                slower=slower,
            )
        )
    by_place = {point.axes["concurrency"]: point for point in theirs}
    compared = [
        (point, by_place[point.axes["concurrency"]])
        for point in ours
        if point.axes["concurrency"] in by_place
    ]
    if compared:
        most, plain = compared[-1]
        for what, pointer in (("the throughput", "jobs_per_s"), ("the mean time", "e2e_s/mean")):
            text = difference(most, plain, pointer, what)
            if text is not None:
                at = prose("With {most} in flight, ", most=Shown(most.axis("concurrency"), "plain"))
                said.append((*at, *text, "."))
    return said


def _verdict(faster: float, slower: float, spot: SweetSpot) -> str:
    if faster < 1.1:
        return "More jobs in flight gain next to nothing here: they only wait longer."
    if spot.low is not None:
        return "Beyond the shaded knee, jobs in flight add waiting rather than throughput."
    if slower > faster:
        return "Latency grows faster than throughput, so the engines are the bottleneck at the upper end."
    return "Latency grows less than throughput, so the engines still have room at the upper end."


def _finding(source: Source, ours: list[Point]) -> Text:
    best = max(ours, key=lambda point: value.number if (value := point.mean("jobs_per_s")) else 0.0)
    return prose(
        f"workload {{workload}} ({source.kind}) reaches {{rate}} jobs per second at {{most}} jobs in flight",
        workload=Shown(best.axis("workload"), "text"),
        rate=best.shown("jobs_per_s", "number"),
        most=Shown(best.axis("concurrency"), "plain"),
    )


SECTIONS["concurrency"] = Section("Concurrency", "sage bench concurrency", _build)
