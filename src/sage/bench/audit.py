"""Is a result possible? Each check looks at what a cell's folder holds, and says why it cannot be true.

A folder that fails a check is refused: no report is made of it. Nothing is mended here.

Cells of a large simulated grid keep no logs. Their hashes are checked, and as many of them as are asked for are simulated
again: a simulation gives the same figures to the last digit.
"""

from __future__ import annotations

import importlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from sage.bench.audit_checks import CHECKS, LITTLE, REPEATS, Evidence, differences
from sage.bench.results import (
    Experiment,
    StoredCell,
    StoredExperiment,
    commit_of_source,
    is_experiment,
    read_experiment,
)
from sage.errors import InputError

__all__ = ["CHECKS", "Audit", "Finding", "audit", "refuse_unsound"]

WALL_S = 2.0  # by which the wall clock may differ from the monotonic one over a run
MOST_TOLD = 3  # findings of one check in one cell


class Finding(msgspec.Struct, frozen=True):
    """Why a cell cannot be true."""

    cell: str
    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.cell}: {self.check}: {self.text}"


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks came to over a folder."""

    path: str
    cells: int
    checks: tuple[str, ...]
    repeated: tuple[str, ...] = ()  # cells without logs that were simulated again
    refused: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()  # odd, but no reason to refuse

    @property
    def is_sound(self) -> bool:
        """Whether every check was passed."""
        return not self.refused


def audit(path: Path, *, repeat: int = 0) -> Audit:
    """Check every cell of an experiment, or the one cell that ``path`` is.

    Args:
        path: a folder of results.
        repeat: how many of the cells that keep no logs are simulated again; they are drawn, always the same ones.
            Figures that come out otherwise are refused; if another source made them, they are only noted, since that
            may be why.

    Raises:
        InputError: there is no experiment, or another version of SAGE wrote it.
    """
    root, only = (
        (path, None) if is_experiment(path) or not is_experiment(path.parent) else (path.parent, path.name)
    )
    stored = read_experiment(root)
    cells = [cell for cell in stored.cells if only is None or cell.manifest.name == only]
    if only is not None and not cells:
        raise InputError(f"{path}: is no cell of the experiment in {root}")
    refused: list[Finding] = []
    notes: list[Finding] = []
    if not cells:
        refused.append(Finding("-", "vacuous", "the experiment has no cell: nothing was measured"))
    logless = [cell for cell in cells if _is_repeatable(stored.manifest, cell)]
    again = random.Random(len(cells)).sample(logless, min(repeat, len(logless)))
    is_same_source = bool(again) and commit_of_source() == stored.manifest.commit
    for cell in logless:
        fault = _fault(cell)
        if fault is not None:
            refused.append(Finding(cell.manifest.name, "hashes", fault))
        elif cell in again:
            (refused if is_same_source else notes).extend(_repeated(stored, cell))
    for cell in cells:
        if cell in logless:
            continue
        evidence = Evidence(stored.manifest.experiment, cell)
        refused += _findings(evidence)
        notes += _notes(evidence) if not refused else ()
    return Audit(
        path=str(path),
        cells=len(cells),
        checks=("hashes",) if cells and len(logless) == len(cells) else tuple(CHECKS),
        repeated=tuple(cell.manifest.name for cell in again),
        refused=tuple(refused),
        notes=tuple(notes),
    )


def refuse_unsound(path: Path) -> None:
    """Raise unless every check is passed: whoever makes figures public asks this first.

    Raises:
        InputError: a check was not passed; or there is no experiment.
    """
    found = audit(path)
    if not found.is_sound:
        more = f", and {len(found.refused) - 1} more" if len(found.refused) > 1 else ""
        raise InputError(
            f"{path}: cannot be true, and is not reported: {found.refused[0]}{more}; see sage bench audit"
        )


def _is_repeatable(manifest: Experiment, cell: StoredCell) -> bool:
    """Whether a cell keeps no log, because it can be simulated again."""
    is_simulated = manifest.kind == "simulated" and manifest.experiment in REPEATS
    return is_simulated and "events.jsonl" not in cell.manifest.sha256


def _fault(cell: StoredCell) -> str | None:
    """Why the figures of a cell without a log are not those that were written."""
    if "summary.json" not in cell.manifest.sha256:
        return "the manifest has no hash of summary.json"
    return cell.fault()


def _repeated(stored: StoredExperiment, cell: StoredCell) -> list[Finding]:
    """What a cell's figures say otherwise than when it is simulated again, by this source."""
    module, function = REPEATS[stored.manifest.experiment]
    run: Callable[[StoredExperiment, StoredCell], Mapping[str, Any]]
    run = getattr(importlib.import_module(module), function)
    wanted = run(stored, cell)
    summary = cell.summary(dict[str, Any])
    found = list(differences({name: summary.get(name) for name in wanted}, wanted, ""))
    made_by = stored.manifest.commit[:12] or "unknown"
    return [
        Finding(
            cell.manifest.name,
            "repeated",
            f"{where} is {got}, simulated again {again}; made by commit {made_by}",
        )
        for where, got, again in found[:MOST_TOLD]
    ]


def _findings(evidence: Evidence) -> Iterator[Finding]:
    """What is wrong with a cell. A file that cannot be read ends the checks: there is nothing to check."""
    name = evidence.cell.manifest.name
    for check, find in CHECKS.items():
        try:
            found = list(itertools.islice(find(evidence), MOST_TOLD + 1))
        except InputError as error:
            yield Finding(name, check, str(error))
            return
        for text in found[:MOST_TOLD]:
            yield Finding(name, check, text)
        if len(found) > MOST_TOLD:
            yield Finding(name, check, "and more of the kind")


def _notes(evidence: Evidence) -> Iterator[Finding]:
    """What is odd about a cell without being impossible."""
    name, manifest = evidence.cell.manifest.name, evidence.manifest
    if manifest.status != "complete":
        yield Finding(name, "status", f"the run is {manifest.status}")
    if manifest.ended is not None and manifest.kind == "measured" and evidence.events:
        wall_s = (
            datetime.fromisoformat(manifest.ended) - datetime.fromisoformat(manifest.started)
        ).total_seconds()
        took_s = evidence.events[-1].t
        if abs(wall_s - took_s) > max(WALL_S, LITTLE * took_s):
            yield Finding(
                name,
                "clock",
                f"the wall clock says the run took {wall_s:.0f} s, the monotonic one {took_s:.1f} s: the wall clock "
                "was set while it ran; figures are by the monotonic clock",
            )
