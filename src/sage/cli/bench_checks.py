"""``sage bench audit`` and ``sage bench compare``: whether results can be true, and whether they got worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.output import print_json, say, shown_seconds, table

if TYPE_CHECKING:
    from sage.bench.compare import Change, Comparison

__all__ = ["audit", "compare"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def audit(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Results, or one cell of them.", show_default=False)
    ],
    repeat: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="How many cells that keep no logs are simulated again."),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Check whether results that were kept can be true, and refuse those that cannot.

    Files are as they were written, every request has one end, times are in order, no call was sent beyond a limit,
    Little's law holds, idle nodes are counted, percentiles are in order, and every figure is what its files give.
    A simulated grid keeps no logs: the hashes of its figures are checked, and some of its cells are simulated again.
    Ends with 1 if something is refused.
    """
    from sage.bench.audit import audit as checked

    found = [checked(folder, repeat=repeat) for folder in folders]
    if as_json:
        print_json({"sound": all(one.is_sound for one in found), "folders": found})
    else:
        for one in found:
            verdict = "sound" if one.is_sound else f"refused, {len(one.refused)} findings"
            print(f"{one.path}: {verdict}; {one.cells} cells, checks of each: {', '.join(one.checks)}")
            for name in one.repeated:
                print(f"  simulated again: {name}")
            for finding in one.refused:
                print(f"  {finding}")
            for note in one.notes:
                print(f"  note: {note}")
    if not all(one.is_sound for one in found):
        raise typer.Exit(1)


def compare(
    old: Annotated[Path, typer.Argument(metavar="A", help="Results to compare with.", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="B", help="Results that are judged.", show_default=False)],
    figure: Annotated[
        list[str] | None, typer.Option(help="A figure to show, such as e2e_sched_p95; may be repeated.")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE:+5%",
            help="A change that must not be; +20ms and -5% work as well. May be repeated.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="What cannot be told fails, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two results, point by point, with intervals where both have three repeats or more.

    A change fails if its whole interval lies beyond the limit, or without intervals if the bare figure does. Results
    that cannot be true are refused. Ends with 1 if a change fails.
    """
    from sage.bench.audit import refuse_unsound
    from sage.bench.compare import compare as compared
    from sage.bench.compare import parse_gate

    gates = [parse_gate(text) for text in fail_if or []]
    for folder in (old, new):
        refuse_unsound(folder)
    found = compared(old, new, figures=figure or [], gates=gates)
    fails = found.failed or (strict and found.unsure)
    if as_json:
        print_json({"failed": fails, "comparison": found})
    else:
        print(_shown(found))
    for note in found.notes:
        say(f"note: {note}")
    if fails:
        raise typer.Exit(1)


def _shown(found: Comparison) -> str:
    axes = list(dict.fromkeys(name for change in found.changes for name in change.axes))
    header = (*axes, "figure", "A", "B", "change", "95 % interval", "")
    rows = [
        (
            *(str(change.axes.get(name, "-")) for name in axes),
            change.figure,
            _value(change.figure, change.old),
            _value(change.figure, change.new),
            "-" if change.share is None else f"{100 * change.share:+.1f} %",
            _interval(change),
            change.sure,
        )
        for change in found.changes
    ]
    lines = [table(header, rows)]
    if any(change.share is not None and change.low is None for change in found.changes):
        lines.append("no interval: both sides need 3 repeats or more (--repeats 5)")
    return "\n".join([*lines, *(f"{gate.verdict}: {gate.text}" for gate in found.gates)])


def _interval(change: Change) -> str:
    if change.low is None or change.high is None:
        return "-"
    return f"{100 * change.low:+.1f} to {100 * change.high:+.1f} %"


def _value(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    is_time = figure.partition("_")[0] in {
        "ttft",
        "tpot",
        "itl",
        "tbt",
        "worst",
        "e2e",
        "adjusted",
        "lag",
        "queue",
    }
    return shown_seconds(value) if is_time else f"{value:.4g}"
