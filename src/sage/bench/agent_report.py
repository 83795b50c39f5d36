"""What an agent experiment found, computed from its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec

from sage.bench.agent_items import AgentFigures, AgentItem, Kind, figures_of, headline
from sage.bench.audit_checks import Evidence
from sage.bench.results import StoredCell, StoredExperiment, read_experiment
from sage.bench.stats import Mean, paired_difference
from sage.errors import InputError

__all__ = ["AgentReport", "Difference", "read_agent_report", "recomputed"]

PREFIX = "agent-"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """By how much one strategy does better than another on the same tasks, by paired bootstrap."""

    part: str
    one: str
    other: str
    gain: Mean  # of the headline score; real if the interval leaves out 0


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of an experiment and their differences."""

    kind: Kind
    data: str
    engines: Mapping[str, object]
    cells: tuple[AgentFigures, ...]
    differences: tuple[Difference, ...]


def read_agent_report(path: Path) -> AgentReport:
    """The report of the experiment in a folder. Every figure is computed again from the items.

    Raises:
        InputError: there is none, it is of another suite, or a file was changed after it was written.
    """
    stored = read_experiment(path)
    kind = _kind(stored)
    items: dict[tuple[str, str], list[AgentItem]] = {}
    cells: list[AgentFigures] = []
    for cell in stored.cells:
        if fault := cell.fault():
            raise InputError(fault)
        part, name = _place(cell)
        items[part, name] = cell.lines("items.jsonl", AgentItem)
        fitted = cell.summary(AgentFigures).fitted
        cells.append(figures_of(kind, name, part, items[part, name], fitted))
    config = stored.manifest.config
    return AgentReport(
        kind=kind,
        data=str(config["data"]),
        engines=config["engines"],
        cells=tuple(cells),
        differences=tuple(_differences(kind, items)),
    )


def recomputed(evidence: Evidence) -> AgentFigures:
    """A cell's figures, computed anew from its items; what was fitted is as it stands."""
    kind = cast("Kind", evidence.experiment.removeprefix(PREFIX))
    part, name = _place(evidence.cell)
    items = evidence.cell.lines("items.jsonl", AgentItem)
    return figures_of(kind, name, part, items, evidence.cell.summary(AgentFigures).fitted)


def _kind(stored: StoredExperiment) -> Kind:
    name = stored.manifest.experiment
    if not name.startswith(PREFIX):
        raise InputError(f"{stored.path} holds an experiment {name!r}, expected one of sage bench agent")
    return cast("Kind", name.removeprefix(PREFIX))


def _place(cell: StoredCell) -> tuple[str, str]:
    axes = cell.manifest.axes
    return str(axes["part"]), str(axes["strategy"])


def _differences(kind: Kind, items: Mapping[tuple[str, str], list[AgentItem]]) -> list[Difference]:
    """Every pair of strategies on one part, the better one first."""
    found = []
    pairs = [
        (one, other) for at, one in enumerate(items) for other in list(items)[at + 1 :] if one[0] == other[0]
    ]
    for one, other in pairs:
        scores = {place: {item.id: headline(kind, item) for item in items[place]} for place in (one, other)}
        common = [name for name in scores[one] if name in scores[other]]
        better, worse = sorted((one, other), key=lambda place: -sum(scores[place][name] for name in common))
        gain = paired_difference([scores[better][n] for n in common], [scores[worse][n] for n in common])
        found.append(Difference(part=one[0], one=better[1], other=worse[1], gain=gain))
    return found
