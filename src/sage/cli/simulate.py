"""``sage simulate``: policies, loads and seeds on emulated engines, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.output import Bar, print_json, say, shown_seconds, table

if TYPE_CHECKING:
    from sage.bench.simulation import Sweep
    from sage.bench.stats import Spread

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def simulate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to simulate.", show_default=False)],
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy to try, in place of the spec's; may be repeated.")
    ] = None,
    load: Annotated[
        list[float] | None,
        typer.Option(help="What all rates are multiplied by, in place of the spec's; may be repeated."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds, from 0.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; if it holds a part of them, goes on there.")
    ] = None,
    imports: Annotated[
        list[Path] | None, typer.Option("--import", help="A Python file that registers functions for YAML.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Run the pipelines of a spec in virtual time, once for each policy, load and seed.

    Everything printed is simulated. The same spec gives the same figures, and byte-identical event logs in --out.
    """
    from sage.bench.simulation import simulate as run_sweep
    from sage.bench.simulation import with_choices
    from sage.bench.simulation_spec import read_spec
    from sage.cli.target import import_files

    import_files(imports or [])
    chosen = with_choices(read_spec(spec), policies=policy or [], loads=load or [], seeds=seeds)
    with ExitStack() as stack:
        bar: Bar | None = None
        shown = 0

        def progress(number: int, total: int) -> None:
            nonlocal bar, shown
            bar = bar or stack.enter_context(Bar("simulated jobs", total))
            for _ in range(number - shown):
                bar.advance()
            shown = number
            bar.tick()

        sweep = run_sweep(chosen, out, progress)
    if as_json:
        print_json(sweep)
    else:
        print(_shown(sweep))
    if out is not None:
        say(f"{len(sweep.cells)} runs, marked simulated -> {out}")


def _shown(sweep: Sweep) -> str:
    """The table, a policy and load a row."""
    header = (
        "policy", "load", "jobs", "in time", "by work", "worst class", "mean", "p50", "p95", "p99",
        "jobs/s", "tokens/s", "rejected",
    )  # fmt: skip
    rows = [
        (
            row.policy,
            f"{row.load:g}",
            str(row.jobs),
            *(_percent(spread) for spread in (row.in_time, row.work_in_time, row.worst_class)),
            *(_seconds(spread) for spread in (row.mean_s, row.p50_s, row.p95_s, row.p99_s)),
            _number(row.jobs_per_s),
            _number(row.out_tokens_per_s),
            str(row.rejected),
        )
        for row in sweep.rows
    ]
    seeds = sweep.rows[0].seeds
    note = f"{sweep.name}: simulated, {seeds} seed{'' if seeds == 1 else 's'}"
    if seeds >= 3:
        note += "; ± is half of a 95 % interval over seeds"
    ends = (
        "times from scheduled arrival to end, of jobs that were done; '-': nothing to tell, or too few jobs"
    )
    return f"{note}\n{table(header, rows)}\n{ends}"


def _percent(spread: Spread) -> str:
    return _with_half(spread, lambda value: f"{100 * value:.1f}") + (" %" if spread.mean is not None else "")


def _seconds(spread: Spread) -> str:
    return _with_half(spread, shown_seconds)


def _number(spread: Spread) -> str:
    return _with_half(spread, lambda value: f"{value:.2f}" if value < 100 else f"{value:.0f}")


def _with_half(spread: Spread, shown: Callable[[float], str]) -> str:
    if spread.mean is None:
        return "-"
    return shown(spread.mean) + ("" if spread.half is None else f" ±{shown(spread.half)}")
