"""What SAGE itself costs: the goals of the overhead benchmark, reached or missed."""

from __future__ import annotations

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Paragraph, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, computed, shown


def _build(evidence: Evidence, _canvas: Canvas) -> Part | None:
    files = evidence.single["overhead"]
    if not files:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for number, file in enumerate(files):
        blocks += _of_file(evidence, file, number, findings)
    return Part("overhead", "What SAGE itself costs", tuple(blocks), tuple(findings), sources=tuple(files))


def _of_file(evidence: Evidence, file: str, number: int, findings: list[Text]) -> list[Block]:
    files = evidence.files
    content = files.content(file)
    rows = []
    for place, row in enumerate(content["rows"]):
        met = row.get("met")
        rows.append(
            cells(
                Shown(files.sure(file, f"rows/{place}/what"), "text"),
                shown(files.at(file, f"rows/{place}/goal"), "number"),
                shown(files.at(file, f"rows/{place}/measured"), "number"),
                "reached" if met else "missed" if met is False else "not told",
                Shown(files.sure(file, f"rows/{place}/unit"), "text"),
            )
        )
    met = [place for place, row in enumerate(content["rows"]) if row.get("met")]
    reached = computed("count", [files.at(file, f"rows/{place}/measured") for place in met])
    every = computed(
        "count", [files.sure(file, f"rows/{place}/what") for place in range(len(content["rows"]))]
    )
    said: list[Block] = []
    if reached is not None and every is not None:
        text = prose(
            "{reached} of {every} goals of what SAGE itself may cost are reached",
            reached=Shown(reached, "count"),
            every=Shown(every, "count"),
        )
        findings.append(text)
        said.append(Paragraph((*text, *prose("; the others stand in the table as missed."))))
    caption = prose(
        "What SAGE costs beside asyncio written by hand, measured at {at}: goal, measured figure, and its unit.",
        at=Shown(files.sure(file, "at"), "text"),
    )
    table = Table(
        f"table-overhead-{'abcdefgh'[number]}", caption, ("what", "goal", "measured", "", "unit"), tuple(rows)
    )
    return [*said, table]


SECTIONS["overhead"] = Section("What SAGE itself costs", "make bench-overhead", _build)
