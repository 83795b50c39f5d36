"""Cells that differ only by their repeat, as one point with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from sage.bench.cell_figures import CellFigures
from sage.bench.results import Axis, StoredExperiment
from sage.bench.stats import Spread, spread_of

__all__ = ["FIGURES", "Point", "pointer_of", "points_of", "read_pointer"]

#: Figures of a cell by the name they have in tables: where they stand in its ``summary.json``.
FIGURES: Mapping[str, str] = {
    "jobs_per_s": "jobs_per_s",
    "tasks_per_s": "tasks_per_s",
    "tokens_per_s": "out_tokens_per_s",
    "mean_s": "e2e_s/mean",
    "p50_s": "e2e_s/p50",
    "p95_s": "e2e_s/p95",
    "p99_s": "e2e_s/p99",
    "queue_s": "queue_s/mean",
    "inflight": "inflight",
    "cpu_s_per_job": "cpu_s_per_job",
}


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of axes, over its repeats."""

    axes: Mapping[str, Axis]
    repeats: int
    jobs: int  # counted, of all repeats
    not_done: int
    figures: Mapping[str, Spread]


def points_of(stored: StoredExperiment) -> list[Point]:
    """The points of an experiment, in the order they were first run.

    Raises:
        InputError: a cell's summary cannot be read.
    """
    groups: dict[tuple[tuple[str, Axis], ...], list[CellFigures]] = {}
    for cell in stored.cells:
        groups.setdefault(tuple(cell.manifest.axes.items()), []).append(cell.summary(CellFigures))
    return [_point(dict(axes), cells) for axes, cells in groups.items()]


def _point(axes: Mapping[str, Axis], cells: Sequence[CellFigures]) -> Point:
    plain = [msgspec.to_builtins(cell) for cell in cells]
    jobs = sum(sum(cell.jobs.values()) for cell in cells)
    return Point(
        axes=axes,
        repeats=len(cells),
        jobs=jobs,
        not_done=jobs - sum(cell.jobs.get("done", 0) for cell in cells),
        figures={
            name: spread_of([read_pointer(one, pointer) for one in plain])
            for name, pointer in FIGURES.items()
        },
    )


def pointer_of(figure: str) -> str:
    """Where a figure stands in a cell's summary."""
    return FIGURES[figure]


def read_pointer(content: object, pointer: str) -> float | None:
    """The number at a place in JSON data, such as ``e2e_s/p95``; None where there is none."""
    for part in pointer.split("/"):
        if isinstance(content, Mapping):
            content = content.get(part)
        elif isinstance(content, list) and part.isdecimal() and int(part) < len(content):
            content = content[int(part)]
        else:
            return None
    is_number = isinstance(content, int | float) and not isinstance(content, bool)
    return float(content) if is_number else None  # type: ignore[arg-type]  # it is a number
