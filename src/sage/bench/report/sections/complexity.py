"""Throughput and latency by what a job is made of."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Figure, Paragraph, Part, Text, prose
from sage.bench.report.evidence import Evidence, Source
from sage.bench.report.phrases import difference, lined, points_table, times
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    sources = evidence.of("complexity")
    if not sources:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for source in sources:
        for workload in source.along("workload"):
            blocks += _of_workload(source, str(workload), canvas, findings)
        blocks.append(
            points_table(
                source, [("workload", "workload"), ("system", "system"), ("complexity", "complexity")]
            )
        )
    return Part(
        key="complexity",
        title="Task complexity",
        blocks=tuple(blocks),
        findings=tuple(findings),
        sources=tuple(source.root for source in sources),
    )


def _of_workload(source: Source, workload: str, canvas: Canvas, findings: list[Text]) -> list[Block]:
    ours = source.where(workload=workload, system="sage")
    theirs = source.where(workload=workload, system="asyncio")
    key = f"complexity-{source.root}-{workload}"
    systems = {"SAGE": ours, "plain asyncio": theirs} if theirs else {"SAGE": ours}
    canvas.grouped_bars(
        key,
        places=[point.axis("complexity") for point in ours],
        bars={name: lined(points, "e2e_s/mean") for name, points in systems.items()},
        x="complexity of a job",
        y=f"mean time from due to done (s), {source.kind}",
    )
    first, last = ours[0], ours[-1]
    slower = times(last.mean("e2e_s/mean"), first.mean("e2e_s/mean"))
    rate = times(last.mean("jobs_per_s"), first.mean("jobs_per_s"))
    said: list[Text] = []
    names = {
        "light": Shown(first.axis("complexity"), "text"),
        "heavy": Shown(last.axis("complexity"), "text"),
        "workload": Shown(first.axis("workload"), "text"),
    }
    if slower is not None and rate is not None:
        text = prose(
            f"Workload {{workload}}, {source.kind}: a {{heavy}} job takes {{slower}} times as long as a {{light}} one, "
            "and {rate} times as many are done a second.",
            {**names, "slower": slower, "rate": rate},
        )
        said.append(text)
        findings.append(
            prose(
                f"{{heavy}} jobs of workload {{workload}} ({source.kind}) take {{slower}} times as long as {{light}} ones",
                {**names, "slower": slower},
            )
        )
    if theirs:
        compared = difference(last, theirs[-1], "e2e_s/mean", "the mean time")
        if compared is not None:
            said.append((*prose("For {heavy} jobs, ", heavy=names["heavy"]), *compared, "."))
    caption = prose(
        f"Mean time of a job by its complexity, workload {{workload}}, {source.kind}.",
        workload=names["workload"],
    )
    return [
        *(Paragraph(text) for text in said),
        Figure(key, caption, "Bars of the mean time of a job, by complexity and system"),
    ]


SECTIONS["complexity"] = Section("Task complexity", "sage bench complexity", _build)
