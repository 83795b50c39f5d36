"""``sage bench report``: a page, figures and LaTeX from results that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.output import print_json, say
from sage.errors import InputError

if TYPE_CHECKING:
    from sage.bench.report.build import Checked, Made

__all__ = ["report"]


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR...", help="Folders of results, or with such in them.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the report; one that stands there is replaced.")
    ] = Path("sage-report"),
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT", help="Only check a report that was made: every number against its file."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Make one page, figures, and a LaTeX section from audited results; every number comes from a file."""
    from sage.bench.report.build import check_report, make_report

    if check is not None:
        found = check_report(check)
        _show_checked(check, found, as_json=as_json)
        if found.faults:
            raise typer.Exit(1)
        return
    if not folders:
        raise InputError("sage bench report: say which folders hold the results, such as results/")
    made = make_report(folders, out)
    if as_json:
        print_json(made)
    else:
        _show_made(made)


def _show_made(made: Made) -> None:
    print(
        f"{made.folder}: {_many(len(made.parts), 'section')}, {_many(len(made.figures), 'figure')}, {made.values} "
        "numbers, each with its file"
    )
    if made.missing:
        say(f"no results of: {', '.join(made.missing)}")


def _show_checked(folder: Path, found: Checked, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for fault in found.faults:
        say(f"error: {fault}")
    agrees = "agree" if not found.faults else "do not all agree"
    print(
        f"{folder}: {found.values} numbers in {found.places} places and {found.figures} figures {agrees} with their files"
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
