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


def _build(evidence: Evidence, _canvas: Canvas) -> Part | None:
    names = evidence.single["peers"]
    if not names:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for number, file in enumerate(names):
        blocks.append(_table(evidence, file, number))
        findings += _finding(evidence, file)
    return Part("peers", "Beside other frameworks", tuple(blocks), tuple(findings), sources=tuple(names))


def _rows(evidence: Evidence, file: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = evidence.files.content(file)["rows"]
    return rows


def _table(evidence: Evidence, file: str, number: int) -> Table:
    files = evidence.files
    rows = _rows(evidence, file)
    known = [name for name in COLUMNS if any(name in row for row in rows)]
    body = [
        cells(
            Shown(files.sure(file, f"rows/{place}/name"), "text"),
            Shown(files.sure(file, f"rows/{place}/version"), "text"),
            *(shown(files.at(file, f"rows/{place}/{name}"), COLUMNS[name][1]) for name in known),
        )
        for place in range(len(rows))
    ]
    caption = prose(
        "The same tests in every framework in one run, measured at {at}. A dash: the framework cannot express the test, "
        "or failed it; the file says why.",
        at=Shown(files.sure(file, "surroundings/at"), "text"),
    )
    header = ("framework", "version", *(COLUMNS[name][0] for name in known))
    return Table(f"table-peers-{'abcdefgh'[number]}", caption, header, tuple(body), num_labels=2)


def _finding(evidence: Evidence, file: str) -> list[Text]:
    """How much CPU SAGE takes beside hand-written asyncio."""
    places = {row["name"]: place for place, row in enumerate(_rows(evidence, file))}
    if not {"SAGE", "asyncio by hand"} <= places.keys():
        return []
    ours, hand = (
        evidence.files.at(file, f"rows/{places[name]}/overhead_us") for name in ("SAGE", "asyncio by hand")
    )
    ratio = computed("ratio", [ours, hand])
    if ratio is None:
        return []
    return [
        prose(
            "on steps that do nothing, SAGE takes {ratio} times the CPU of asyncio written by hand",
            ratio=Shown(ratio, "times"),
        )
    ]


SECTIONS["peers"] = Section("Beside other frameworks", "make bench-peers", _build)
