"""Throughput and balance as nodes are added."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Figure, Paragraph, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.phrases import axis_cell
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, Value, computed, shown

GOOD = 0.9  # efficiency that is called near the ideal


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    sources = evidence.of("nodes")
    if not sources:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for source in sources:
        if 1 in source.along("nodes"):
            for scaling in source.along("scaling"):
                blocks += _of_scaling(source, str(scaling), canvas, findings)
        blocks += (Paragraph(prose("To know: {note}.", {"note": note})) for note in _notes(source))
        blocks.append(_table(source))
    return Part(
        key="nodes",
        title="Nodes",
        blocks=tuple(blocks),
        findings=tuple(findings),
        sources=tuple(source.root for source in sources),
    )


def _notes(source: Source) -> list[Shown]:
    """What a reader must know of an experiment."""
    many = len(source.stored.manifest.notes)
    return [Shown(source.fact(f"notes/{number}"), "text") for number in range(many)]


def _speed_up(source: Source, point: Point) -> Value | None:
    one = next(iter(source.where(**{**point.axes, "nodes": 1})), None)
    return None if one is None else computed("ratio", [point.mean("jobs_per_s"), one.mean("jobs_per_s")])


def _efficiency(source: Source, point: Point) -> Value | None:
    return computed("ratio", [_speed_up(source, point), point.axis("nodes")])


def _of_scaling(source: Source, scaling: str, canvas: Canvas, findings: list[Text]) -> list[Block]:
    by_workload = {
        str(workload): source.where(workload=workload, scaling=scaling)
        for workload in source.along("workload")
    }
    key = f"nodes-{source.root}-{scaling}"
    first = next(iter(by_workload.values()))
    canvas.scaling(
        key,
        places=[point.axis("nodes") for point in first],
        series={
            workload: ([_speed_up(source, point) for point in points], [None] * len(points))
            for workload, points in by_workload.items()
        },
        x="nodes",
        y=f"speed-up over one node, {source.kind}",
        y_efficiency="efficiency (speed-up / nodes)",
    )
    load = (
        "as many jobs in flight for each node"
        if scaling == "per_node"
        else "a fixed number of jobs in flight"
    )
    blocks: list[Block] = []
    for points in by_workload.values():
        last = points[-1]
        speed, share = _speed_up(source, last), _efficiency(source, last)
        if speed is None or share is None:
            continue
        near = "near the ideal" if share.number >= GOOD else "short of the ideal"
        reason = (
            ""
            if share.number >= GOOD
            else " The jobs in flight are too few to keep them busy."
            if scaling == "fixed"
            else " Something other than the nodes holds it back."
        )
        said = {
            "workload": Shown(last.axis("workload"), "text"),
            "nodes": Shown(last.axis("nodes"), "plain"),
            "speed": Shown(speed, "times"),
            "share": Shown(share, "percent"),
        }
        blocks.append(
            Paragraph(
                prose(
                    f"Workload {{workload}} with {load}, {source.kind}: {{nodes}} nodes do {{speed}} times as much as one, "
                    f"an efficiency of {{share}}, {near}.{reason}",
                    said,
                )
            )
        )
        if scaling == "per_node":
            findings.append(
                prose(
                    f"{{nodes}} nodes do {{speed}} times as much of workload {{workload}} as one ({source.kind}, {load})",
                    {name: value for name, value in said.items() if name != "share"},
                )
            )
    caption = prose(f"Speed-up and efficiency as nodes are added, with {load}, {source.kind}.")
    blocks.append(Figure(key, caption, "Lines of speed-up and of efficiency over nodes, with the ideal"))
    return blocks


def _evenness(point: Point, figure: str) -> Value | None:
    """Of the pool whose balance is worst; a pool that did nothing has none."""
    content = point.source.files.content(f"{point.source.root}/{point.cells[0].manifest.name}/summary.json")
    several = [point.mean(f"pools/{pool}/balance/{figure}") for pool in content["pools"]]
    known = [value for value in several if value is not None]
    return computed("most" if figure == "max_over_mean" else "least", known)


def _table(source: Source) -> Table:
    rows = [
        cells(
            axis_cell(point, "workload"),
            "fixed" if point.axes["scaling"] == "fixed" else "per node",
            axis_cell(point, "nodes"),
            point.shown("jobs_per_s", "number"),
            shown(_speed_up(source, point), "times"),
            shown(_efficiency(source, point), "percent"),
            point.shown("e2e_s/p50", "seconds"),
            point.shown("e2e_s/p95", "seconds"),
            point.shown("e2e_s/p99", "seconds"),
            point.shown("cpu_s_per_job", "seconds"),
            shown(_evenness(point, "balance"), "percent"),
            shown(_evenness(point, "jain"), "times"),
        )
        for point in source.points
    ]
    caption = prose(
        f"Node scaling, {source.kind}. Load: jobs in flight fixed, or as many per node. Balance is one less the standard "
        "deviation of tasks over their mean, over all nodes of the least even pool, idle ones included; there is none for "
        "one node. CPU is that of SAGE's own process, with all that it computes itself."
    )
    header = (
        "workload",
        "load",
        "nodes",
        "jobs/s",
        "speed-up",
        "efficiency",
        "p50",
        "p95",
        "p99",
        "CPU a job",
        "balance",
        "Jain",
    )
    return Table(f"table-{source.root}", caption, header, tuple(rows), num_labels=3)


SECTIONS["nodes"] = Section("Nodes", "sage bench nodes", _build)
