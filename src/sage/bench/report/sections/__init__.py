"""The sections of a report, one module each: register one, and it is in every report whose results are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sage.bench.report.canvas import Canvas
from sage.bench.report.document import Part
from sage.bench.report.evidence import Evidence
from sage.registry import Registry

__all__ = ["SECTIONS", "Section"]


@dataclass(frozen=True, slots=True)
class Section:
    """One section.

    Attributes:
        title: its heading.
        command: what makes its results, for a report that lacks them.
        build: its content; None where the evidence has nothing of it. It may draw on the canvas.
    """

    title: str
    command: str
    build: Callable[[Evidence, Canvas], Part | None]


#: Sections in the order of the report, by the key of their part.
SECTIONS: Registry[Section] = Registry("section")
