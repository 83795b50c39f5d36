"""Pipelines started one after the other, the offered load being equal."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Figure, Paragraph, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.phrases import axis_cell, bounds, lined, tail_of, times
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, computed


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    sources = evidence.of("stagger")
    if not sources:
        return None
    blocks: list[Block] = [
        Paragraph(
            prose(
                "Every pipeline sends bursts of jobs at fixed times, as many and as often whatever the delay: the offered "
                "load is equal, only the bursts of one pipeline move against those of the next."
            )
        )
    ]
    findings: list[Text] = []
    for source in sources:
        for workload in source.along("workload"):
            blocks += _of_workload(source, str(workload), canvas, findings)
        blocks.append(_table(source))
    return Part(
        key="stagger",
        title="Staggered start",
        blocks=tuple(blocks),
        findings=tuple(findings),
        limits=(
            prose(
                "With a delay the last pipeline also ends later, so the span of a staggered run is longer and its jobs per "
                "second over the whole span are fewer; latency is what the delays are compared by."
            ),
        ),
        sources=tuple(source.root for source in sources),
    )


def _of_workload(source: Source, workload: str, canvas: Canvas, findings: list[Text]) -> list[Block]:
    points = source.where(workload=workload)
    tail, pointer = tail_of(points)
    key = f"stagger-{source.root}-{workload}"
    canvas.dual_axis(
        key,
        places=[point.axis("delay_s") for point in points],
        bars={"throughput over the whole span": lined(points, "jobs_per_s")},
        lines={
            f"{tail} from due to done": lined(points, pointer),
            "mean from due to done": lined(points, "e2e_s/mean"),
        },
        x="delay between the starts of two pipelines (s)",
        y_bars=f"throughput (jobs/s), {source.kind}",
        y_lines="time of a job (s)",
    )
    caption = prose(
        f"What a delay between the starts trades, workload {{workload}}, {{pipelines}} pipelines, {source.kind}.",
        workload=Shown(points[0].axis("workload"), "text"),
        pipelines=Shown(points[0].axis("pipelines"), "plain"),
    )
    blocks: list[Block] = []
    best = min(points, key=lambda point: mean.number if (mean := point.mean(pointer)) else float("inf"))
    together = points[0]
    ratio = times(best.mean(pointer), together.mean(pointer))
    if ratio is not None:
        text = _verdict(source, tail, best, together, ratio, pointer)
        blocks.append(Paragraph(text))
        findings.append(
            prose(
                f"at equal load, the best of the delays tried brings {tail} of workload {{workload}} ({source.kind}) to "
                "{ratio} times what it is without",
                workload=Shown(best.axis("workload"), "text"),
                ratio=ratio,
            )
        )
    blocks.append(
        Figure(key, caption, "Bars of throughput and lines of latency over the delay between starts")
    )
    return blocks


def _verdict(source: Source, tail: str, best: Point, together: Point, ratio: Shown, pointer: str) -> Text:
    own, its = bounds(best, pointer), bounds(together, pointer)
    overlaps = own is not None and its is not None and own[1] >= its[0]
    workload = Shown(together.axis("workload"), "text")
    if best is together or ratio.value.number > 0.98 or overlaps:
        return prose(
            f"Workload {{workload}}, {source.kind}: no delay makes {tail} better in a way that these data can show; the "
            "best is {ratio} times that without delay.",
            workload=workload,
            ratio=ratio,
        )
    return prose(
        f"Workload {{workload}}, {source.kind}: {tail} is least with a delay of {{delay}} s, {{ratio}} times that without "
        "delay ({with_delay} against {without}).",
        workload=workload,
        delay=Shown(best.axis("delay_s"), "plain"),
        ratio=ratio,
        with_delay=best.shown(pointer, "seconds"),
        without=together.shown(pointer, "seconds"),
    )


def _table(source: Source) -> Table:
    rows = []
    for point in source.points:
        jobs = point.sum("jobs")
        rows.append(
            cells(
                axis_cell(point, "workload"),
                axis_cell(point, "delay_s"),
                Shown(jobs, "count") if jobs is not None else "none",
                point.shown("window_s", "seconds"),
                point.shown("jobs_per_s", "number"),
                point.shown("e2e_s/mean", "seconds"),
                point.shown("e2e_s/p50", "seconds"),
                point.shown("e2e_s/p95", "seconds"),
                point.shown("e2e_s/p99", "seconds"),
            )
        )
    pipelines = computed("most", [point.axis("pipelines") for point in source.points])
    caption = prose(
        f"Staggered start of {{pipelines}} pipelines, {source.kind}; delay in seconds, span from the first job to the end "
        "of the last.",
        pipelines=Shown(pipelines, "plain") if pipelines is not None else "several",
    )
    header = ("workload", "delay", "jobs", "span", "jobs/s", "mean", "p50", "p95", "p99")
    return Table(f"table-{source.root}", caption, header, tuple(rows), num_labels=2)


SECTIONS["stagger"] = Section("Staggered start", "sage bench stagger", _build)
