"""Servers and pipelines under load, from ``sage bench serve``."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Part, Table, cells, prose
from sage.bench.report.evidence import Evidence, Source
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown

COLUMNS = (
    ("requests/s", "requests_per_s", "number"),
    ("tokens/s", "output_tokens_per_s", "number"),
    ("first token, p50", "ttft_sched_s/p50", "seconds"),
    ("p95", "ttft_sched_s/p95", "seconds"),
    ("per token", "tpot_s/mean", "seconds"),
    ("whole, p50", "e2e_sched_s/p50", "seconds"),
    ("p95", "e2e_sched_s/p95", "seconds"),
    ("p99", "e2e_sched_s/p99", "seconds"),
)


def _build(evidence: Evidence, _canvas: Canvas) -> Part | None:
    sources = evidence.of("serve")
    if not sources:
        return None
    return Part(
        key="serve",
        title="Servers under load",
        blocks=tuple(_table(source) for source in sources),
        sources=tuple(source.root for source in sources),
    )


def _table(source: Source) -> Table:
    axes = list(source.points[0].axes)
    rows = []
    for point in source.points:
        requests = point.sum("requests")
        rows.append(
            cells(
                *(
                    Shown(value := point.axis(axis), "text" if isinstance(value.content, str) else "plain")
                    for axis in axes
                ),
                Shown(requests, "count") if requests is not None else "none",
                *(point.shown(pointer, form) for _, pointer, form in COLUMNS),
            )
        )
    caption = prose(
        f"Load on {{name}}, {source.kind}: times from when a request was due; per token: mean time between the tokens of "
        "an answer.",
        name=Shown(source.fact("experiment"), "text"),
    )
    header = (*axes, "requests", *(title for title, _, _ in COLUMNS))
    return Table(f"table-{source.root}", caption, header, tuple(rows), num_labels=len(axes))


SECTIONS["serve"] = Section("Servers under load", "sage bench serve", _build)
