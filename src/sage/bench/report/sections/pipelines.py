"""Several pipelines at once: what they cost each other."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Figure, Paragraph, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.phrases import axis_cell, lined, tail_of, times
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, Value, computed, shown


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    sources = evidence.of("pipelines")
    if not sources:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for source in sources:
        for workload in source.along("workload"):
            blocks += _of_workload(source, str(workload), canvas, findings)
        blocks.append(_table(source))
    return Part(
        key="pipelines",
        title="Several pipelines at once",
        blocks=tuple(blocks),
        findings=tuple(findings),
        sources=tuple(source.root for source in sources),
    )


def _of_each(point: Point, pointer: str) -> list[Value | None]:
    """A figure of every pipeline of a point, over its repeats."""
    tenants = sorted({request for cell in point.cells for request in _tenants(point, cell.manifest.name)})
    return [point.mean(f"pipelines/{tenant}/{pointer}") for tenant in tenants]


def _tenants(point: Point, cell: str) -> list[str]:
    content = point.source.files.content(f"{point.source.root}/{cell}/summary.json")
    return list(content["pipelines"])


def _alone(source: Source, point: Point) -> Point | None:
    """The same with one pipeline."""
    axes = {**point.axes, "pipelines": 1}
    return next(iter(source.where(**axes)), None)


def _isolation(source: Source, point: Point, pointer: str) -> Value | None:
    """The worst pipeline's tail beside others, over the tail of one alone."""
    alone = _alone(source, point)
    if alone is None:
        return None
    return computed("ratio", [computed("most", _of_each(point, pointer)), alone.mean(pointer)])


def _of_workload(source: Source, workload: str, canvas: Canvas, findings: list[Text]) -> list[Block]:
    blocks: list[Block] = []
    for policy in source.along("policy"):
        points = source.where(workload=workload, policy=policy)
        tail, pointer = tail_of(points)
        key = f"pipelines-{source.root}-{workload}-{policy}"
        each: list[Value | None] = [computed("mean", _of_each(point, "jobs_per_s")) for point in points]
        canvas.dual_axis(
            key,
            places=[point.axis("pipelines") for point in points],
            bars={
                "all together, jobs/s": lined(points, "jobs_per_s"),
                "each on average, jobs/s": (each, [None] * len(each)),
            },
            lines={f"{tail} of all jobs": lined(points, pointer)},
            x="pipelines at once",
            y_bars=f"throughput (jobs/s), {source.kind}",
            y_lines=f"{tail} from due to done (s)",
        )
        caption = prose(
            f"Throughput and {tail} latency of several pipelines at once, workload {{workload}}, policy {{policy}}, "
            f"{source.kind}.",
            workload=Shown(points[0].axis("workload"), "text"),
            policy=Shown(points[0].axis("policy"), "text"),
        )
        blocks += [Paragraph(text) for text in _sentences(source, points, each)]
        blocks.append(
            Figure(key, caption, "Bars of throughput, a line of tail latency, over pipelines at once")
        )
        gain = times(points[-1].mean("jobs_per_s"), points[0].mean("jobs_per_s"))
        if gain is not None and policy == source.along("policy")[0]:
            findings.append(
                prose(
                    f"{{pipelines}} pipelines of workload {{workload}} ({source.kind}) together do {{gain}} times as much "
                    "as one",
                    pipelines=Shown(points[-1].axis("pipelines"), "plain"),
                    workload=Shown(points[0].axis("workload"), "text"),
                    gain=gain,
                )
            )
    return blocks


def _sentences(source: Source, points: list[Point], each: list[Value | None]) -> list[Text]:
    first, last = points[0], points[-1]
    gain = times(last.mean("jobs_per_s"), first.mean("jobs_per_s"))
    kept = times(each[-1], each[0])
    if gain is None or kept is None:
        return []
    verdict = (
        "They hardly disturb each other."
        if kept.value.number > 0.9
        else "They share what the engines give: each alone gets less."
    )
    return [
        prose(
            f"Workload {{workload}}, policy {{policy}}, {source.kind}: every pipeline brings clients of its own, so the "
            "load grows with their number. {pipelines} together do {gain} times as much as one; each of them does "
            "{kept} times as much as alone. " + verdict,
            workload=Shown(first.axis("workload"), "text"),
            policy=Shown(first.axis("policy"), "text"),
            pipelines=Shown(last.axis("pipelines"), "plain"),
            gain=gain,
            kept=kept,
        )
    ]


def _table(source: Source) -> Table:
    rows = []
    for point in source.points:
        tail = "p99" if point.mean("e2e_s/p99") is not None else "p95"
        rows.append(
            cells(
                axis_cell(point, "workload"),
                axis_cell(point, "policy"),
                axis_cell(point, "pipelines"),
                point.shown("jobs_per_s", "number"),
                shown(computed("least", _of_each(point, "jobs_per_s")), "number"),
                shown(computed("most", _of_each(point, "jobs_per_s")), "number"),
                point.shown("e2e_s/p95", "seconds"),
                point.shown("e2e_s/p99", "seconds"),
                shown(_isolation(source, point, f"e2e_s/{tail}"), "times"),
                shown(computed("jain", _of_each(point, "jobs_per_s")), "times"),
            )
        )
    caption = prose(
        f"Several pipelines at once, {source.kind}. Least and most: jobs per second of the slowest and the fastest "
        "pipeline. Isolation: the worst pipeline's tail over that of a pipeline alone; p99 where the sample carries it, "
        "else p95. Jain: index over the pipelines' throughput."
    )
    header = ("workload", "policy", "pipelines", "jobs/s", "least", "most", "p95", "p99", "isolation", "Jain")
    return Table(f"table-{source.root}", caption, header, tuple(rows), num_labels=3)


SECTIONS["pipelines"] = Section("Several pipelines at once", "sage bench pipelines", _build)
