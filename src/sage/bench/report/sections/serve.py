"""What clients of a server, or of a pipeline, saw under load."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Paragraph, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, computed

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


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:  # noqa: ARG001 - it draws nothing
    sources = evidence.of("serve")
    if not sources:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for source in sources:
        for number, point in enumerate(source.points):
            said = _said(source, point)
            blocks.append(Paragraph((*said, ".")))
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
    text = (
        f"In {{name}} ({source.kind}, {{status}}), {{done}} of {{counted}} requests were answered, {{rate}} a second "
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
