"""SAGE beside other frameworks, in one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Block, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, computed, shown

#: Figures by their name in the file: title, form.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "overhead_us": ("no-op steps, CPU \N{MICRO SIGN}s a record", "number"),
    "io_ideal": ("waiting steps, time over ideal", "times"),
    "io_cpu_us": ("waiting steps, CPU \N{MICRO SIGN}s a record", "number"),
    "join_ms": ("join, ms", "number"),
}
RAG_COLUMNS: Mapping[str, tuple[str, str]] = {
    "rag_client": ("calls made with", "text"),
    "rag_ideal": ("time over ideal", "times"),
    "rag_cpu_us": ("CPU \N{MICRO SIGN}s a record", "number"),
    "rag_p50_ms": ("p50, ms", "number"),
    "rag_p99_ms": ("p99, ms", "number"),
    "rag_peak_mb": ("memory, MB", "number"),
    "rag_others_cpu_us": ("other processes, CPU \N{MICRO SIGN}s", "number"),
    "rag_others_peak_mb": ("their memory, MB", "number"),
}
#: What is told of both tables.
TOLD = (
    "The same tests in every framework in one run, measured at {at}. A dash: the framework cannot express the test, "
    "or failed it; the file says why."
)
RAG_TOLD = (
    "Retrieval and generation over HTTP against one emulated server, with as many records in flight in every "
    "framework, measured at {at}. Each makes its calls with the client that its documentation uses, so that the "
    "figures are of both. Memory is the most a process ever held; the other processes are those of Ray, whose shared "
    "pages count in each."
)


def _build(evidence: Evidence, _canvas: Canvas) -> Part | None:
    names = evidence.single["peers"]
    if not names:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for letter, file in zip("abcdefgh", names, strict=False):
        for part, columns, told in (("", COLUMNS, TOLD), ("rag-", RAG_COLUMNS, RAG_TOLD)):
            table = _table(evidence, file, f"table-peers-{part}{letter}", columns, told)
            blocks += [] if table is None else [table]
        for figure, steps in (("overhead_us", "steps that do nothing"), ("rag_cpu_us", "RAG over HTTP")):
            findings += _finding(evidence, file, figure, steps)
    return Part("peers", "Beside other frameworks", tuple(blocks), tuple(findings), sources=tuple(names))


def _rows(evidence: Evidence, file: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = evidence.files.content(file)["rows"]
    return rows


def _table(
    evidence: Evidence, file: str, label: str, columns: Mapping[str, tuple[str, str]], told: str
) -> Table | None:
    """The figures of those that have any; None where nobody has."""
    files = evidence.files
    rows = _rows(evidence, file)
    known = [name for name in columns if any(name in row for row in rows)]
    if not known:
        return None
    body = [
        cells(
            Shown(files.sure(file, f"rows/{place}/name"), "text"),
            Shown(files.sure(file, f"rows/{place}/version"), "text"),
            *(shown(files.at(file, f"rows/{place}/{name}"), columns[name][1]) for name in known),
        )
        for place, row in enumerate(rows)
        if columns.keys() & row.keys()
    ]
    caption = prose(told, at=Shown(files.sure(file, "surroundings/at"), "text"))
    header = ("framework", "version", *(columns[name][0] for name in known))
    return Table(label, caption, header, tuple(body), num_labels=2)


def _finding(evidence: Evidence, file: str, figure: str, steps: str) -> list[Text]:
    """How much CPU SAGE takes beside hand-written asyncio."""
    places = {row["name"]: place for place, row in enumerate(_rows(evidence, file)) if figure in row}
    if not {"SAGE", "asyncio by hand"} <= places.keys():
        return []
    ours, hand = (
        evidence.files.at(file, f"rows/{places[name]}/{figure}") for name in ("SAGE", "asyncio by hand")
    )
    ratio = computed("ratio", [ours, hand])
    if ratio is None:
        return []
    return [
        prose(
            f"on {steps}, SAGE takes {{ratio}} times the CPU of asyncio written by hand",
            ratio=Shown(ratio, "times"),
        )
    ]


SECTIONS["peers"] = Section("Beside other frameworks", "make bench-peers", _build)
