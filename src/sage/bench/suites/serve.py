"""``sage bench serve``: loads that differ in one thing, each once or several times: the cells of one experiment."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.bench.load_run import OnEnd, Records, load
from sage.bench.metrics import LoadSummary
from sage.bench.results import (
    Axis,
    ExperimentFolder,
    StoredExperiment,
    is_experiment,
    open_experiment,
    read_experiment,
)
from sage.bench.serve_spec import Serve
from sage.errors import EngineError
from sage.settings import Settings

__all__ = ["Point", "Served", "serve"]

NAME = "serve"


@dataclass(frozen=True, slots=True)
class Point:
    """One load of an experiment; ``axes`` tell it apart from the others."""

    axes: Mapping[str, Axis]
    spec: Serve


@dataclass(frozen=True, slots=True)
class Served:
    """What loads came to, over their repeats.

    Attributes:
        ended: why they ended early; "" if they did not.
    """

    stored: StoredExperiment
    ended: str

    @property
    def summaries(self) -> list[LoadSummary]:
        """The figures of every cell."""
        return [cell.summary(LoadSummary) for cell in self.stored.cells]

    @property
    def points(self) -> list[tuple[Mapping[str, Axis], list[LoadSummary]]]:
        """The figures by where they stand: of each load, its repeats."""
        found: dict[tuple[tuple[str, Axis], ...], list[LoadSummary]] = {}
        for cell in self.stored.cells:
            found.setdefault(tuple(cell.manifest.axes.items()), []).append(cell.summary(LoadSummary))
        return [(dict(axes), summaries) for axes, summaries in found.items()]


def serve(
    points: Sequence[Point],
    out: Path,
    settings: Settings,
    *,
    repeats: int = 1,
    records: Callable[[Serve], Records] | None = None,
    command: str = "",
    data: Mapping[str, str] | None = None,
    on_end: OnEnd | None = None,
) -> Served:
    """Carry out loads, and keep them in a folder; those that are there already are not run again.

    Args:
        points: what is loaded, and how.
        out: the folder.
        settings: of session and engines.
        repeats: how often, each with arrivals and prompts of its own.
        records: makes what a pipeline is loaded with, for one load; None: the spec's server is loaded.
        command: the line that does this again.
        data: name -> SHA-256 of files that are asked from.
        on_end: told how each request ended, warm-up too.

    Raises:
        InputError: a spec cannot be, or the folder holds something else.
        EngineError: the server does not answer at all.
    """
    was_there, had_parent = is_experiment(out), out.parent.exists()
    try:
        with open_experiment(
            out,
            NAME,
            kind="measured",
            config={
                "loads": [{"axes": dict(point.axes), **msgspec.to_builtins(point.spec)} for point in points]
            },
            command=command,
            seed=points[0].spec.seed,
            data=data,
            planned=repeats * len(points),
        ) as experiment:
            ended = _carried_out(points, experiment, settings, repeats, records, on_end)
    except EngineError:
        if not was_there and is_experiment(out) and not read_experiment(out).cells:
            shutil.rmtree(out)  # a server that never answered leaves nothing to keep
            if not had_parent:
                out.parent.rmdir()
        raise
    return Served(read_experiment(out), ended)


def _carried_out(
    points: Sequence[Point],
    experiment: ExperimentFolder,
    settings: Settings,
    repeats: int,
    records: Callable[[Serve], Records] | None,
    on_end: OnEnd | None,
) -> str:
    """Run what is missing; why that ended early, if it did."""
    for point, repeat in itertools.product(points, range(repeats)):
        where = "".join(f"{axis}-{value:g}_" for axis, value in point.axes.items())
        name = f"{where}repeat-{repeat}"
        if experiment.has(name):
            continue
        with experiment.running(name, axes=point.axes, repeat=repeat, seed=point.spec.seed) as cell:
            given = None if records is None else records(point.spec)
            found = asyncio.run(load(point.spec, cell, settings, repeat=repeat, records=given, on_end=on_end))
        notes = tuple(f"{name}: {flag.text}" for flag in found.summary.flags)
        experiment.update(notes=(*experiment.manifest.notes, *notes))
        if found.ended:
            return found.ended
    return ""
