"""``sage bench serve``: the same load once or several times, each a cell of one experiment."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.bench.load_run import OnEnd, Records, load
from sage.bench.metrics import LoadSummary
from sage.bench.results import StoredExperiment, is_experiment, open_experiment, read_experiment
from sage.bench.serve_spec import Serve
from sage.errors import EngineError
from sage.settings import Settings

__all__ = ["Served", "serve"]

NAME = "serve"


@dataclass(frozen=True, slots=True)
class Served:
    """What a load came to, over its repeats.

    Attributes:
        ended: why it ended early; "" if it did not.
    """

    stored: StoredExperiment
    ended: str

    @property
    def summaries(self) -> list[LoadSummary]:
        """The figures of each repeat."""
        return [cell.summary(LoadSummary) for cell in self.stored.cells]


def serve(
    spec: Serve,
    out: Path,
    settings: Settings,
    *,
    repeats: int = 1,
    records: Callable[[], Records] | None = None,
    command: str = "",
    data: Mapping[str, str] | None = None,
    on_end: OnEnd | None = None,
) -> Served:
    """Carry out a load, and keep it in a folder; repeats that are there already are not run again.

    Args:
        spec: what is loaded, and how.
        out: the folder.
        settings: of session and engines.
        repeats: how often, each with arrivals and prompts of its own.
        records: makes what a pipeline is loaded with, for one repeat; None: the spec's server is loaded.
        command: the line that does this again.
        data: name -> SHA-256 of files that are asked from.
        on_end: told how each request ended, warm-up too.

    Raises:
        InputError: the spec cannot be, or the folder holds something else.
        EngineError: the server does not answer at all.
    """
    was_there, had_parent = is_experiment(out), out.parent.exists()
    try:
        return _served(spec, out, settings, repeats, records, command, data, on_end)
    except EngineError:
        if not was_there and is_experiment(out) and not read_experiment(out).cells:
            shutil.rmtree(out)  # a server that never answered leaves nothing to keep
            if not had_parent:
                out.parent.rmdir()
        raise


def _served(
    spec: Serve,
    out: Path,
    settings: Settings,
    repeats: int,
    records: Callable[[], Records] | None,
    command: str,
    data: Mapping[str, str] | None,
    on_end: OnEnd | None,
) -> Served:
    ended = ""
    with open_experiment(
        out,
        NAME,
        kind="measured",
        config=msgspec.to_builtins(spec),
        command=command,
        seed=spec.seed,
        data=data,
        planned=repeats,
    ) as experiment:
        for repeat in range(repeats):
            name = f"repeat-{repeat}"
            if experiment.has(name):
                continue
            with experiment.running(name, axes={}, repeat=repeat, seed=spec.seed) as cell:
                given = None if records is None else records()
                found = asyncio.run(load(spec, cell, settings, repeat=repeat, records=given, on_end=on_end))
            notes = tuple(f"{name}: {flag.text}" for flag in found.summary.flags)
            experiment.update(notes=(*experiment.manifest.notes, *notes))
            ended = found.ended
            if ended:
                break
    return Served(read_experiment(out), ended)
