"""Is a result possible? Each check looks at what a cell's folder holds, and says why it cannot be true.

A folder that fails a check is refused: no report is made of it. Nothing is mended here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from sage.bench.audit_checks import CHECKS, LITTLE, Evidence
from sage.bench.results import is_experiment, read_experiment
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
    refused: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()  # odd, but no reason to refuse

    @property
    def is_sound(self) -> bool:
        """Whether every check was passed."""
        return not self.refused


def audit(path: Path) -> Audit:
    """Check every cell of an experiment, or the one cell that ``path`` is.

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
    for cell in cells:
        evidence = Evidence(stored.manifest.experiment, cell)
        refused += _findings(evidence)
        notes += _notes(evidence) if not refused else ()
    return Audit(
        path=str(path), cells=len(cells), checks=tuple(CHECKS), refused=tuple(refused), notes=tuple(notes)
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
