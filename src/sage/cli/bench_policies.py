"""``sage bench policies``: a grid of policies on one mix of jobs, at equal offered load."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.output import Bar, print_json, say, shown_seconds, table

if TYPE_CHECKING:
    from sage.bench.stats import Spread
    from sage.bench.suites.policies import PolicyRow, Report

__all__ = ["policies"]


def policies(
    preset: Annotated[
        str,
        typer.Option(
            help="quick, presets (the named policies), full (the grid), or http (measured, 12 minutes)."
        ),
    ] = "quick",
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy to try, in place of the preset's; may be repeated.")
    ] = None,
    load: Annotated[
        list[float] | None,
        typer.Option(help="A share of saturation, in place of the preset's; may be repeated."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds.", show_default=False)] = None,
    first_seed: Annotated[int | None, typer.Option(min=0, help="The first of them; otherwise 0.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds in which jobs come.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Seconds of it whose jobs are not counted.")] = None,
    mix: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Another mix of jobs, or a built-in one: bursty, http."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; if it holds a part of them, goes on there.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Compare policies on chat, retrieval, agents and map-reduce jobs, at shares of the measured saturation.

    Simulated, but for the preset http: that measures a few policies in real time, on emulated engines behind HTTP, with
    a mix that is scaled down. The first word printed says which. The last table holds the goals, and what was reached.
    """
    from sage.bench.suites.policies import run_policies
    from sage.bench.suites.policies_presets import mix as read_mix
    from sage.bench.suites.policies_presets import read_preset

    chosen = {
        "policies": tuple(policy or ()), "shares": tuple(load or ()), "seeds": seeds, "first_seed": first_seed,
        "duration_s": duration, "warmup_s": warmup,
    }  # fmt: skip
    what = read_preset(preset, **chosen)
    with _bars() as progress:
        report = run_policies(
            what,
            name=preset,
            spec=None if mix is None else read_mix(mix),
            out=out,
            command=_command(preset, mix, chosen),
            progress=progress,
        )
    if as_json:
        print_json(report)
    else:
        print(_shown(report))
    if out is not None:
        say(f"{len(report.rows)} rows, marked {report.kind} -> {out}")


def _command(preset: str, mix: Path | None, chosen: Mapping[str, object]) -> str:
    """The line that makes it again."""
    names = {"policies": "policy", "shares": "load", "duration_s": "duration", "warmup_s": "warmup"}
    said = [f"--preset {preset}", *([] if mix is None else [f"--mix {mix.name}"])]
    for key, value in chosen.items():
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        said += [f"--{names.get(key, key).replace('_', '-')} {one}" for one in values]
    return f"sage bench policies {' '.join(said)}"


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each stage."""
    with ExitStack() as stack:
        stage, bar, before = "", None, 0

        def progress(what: str, done: int, total: int) -> None:
            nonlocal stage, bar, before
            if what != stage or bar is None:
                stack.close()
                stage, bar, before = what, stack.enter_context(Bar(what, total)), 0
            for _ in range(done - before):
                bar.advance()
            before = done
            bar.tick()

        yield progress


def _shown(report: Report) -> str:
    header = (
        "policy", "load", "in time", "by work", "worst class", "fairness", "p50", "p95", "p99", "jobs/s", "rejected", "decision p99",
    )  # fmt: skip
    saturation = report.saturation
    note = (
        f"{report.kind}; saturation {saturation.jobs_per_s:.1f} jobs/s, measured in {len(saturation.runs)} closed-loop "
        f"run{'' if len(saturation.runs) == 1 else 's'} of {saturation.runs[0].clients} clients; load is a share of it"
    )
    rows = [_row(row) for row in report.rows]
    goals = [
        (
            goal.what,
            goal.wanted,
            _reached(goal.reached, goal.wanted),
            {True: "yes", False: "NO", None: "-"}[goal.met],
        )
        for goal in report.goals
    ]
    ends = "± is half of a 95 % t-interval over seeds, where there are three; '-': too few jobs, or not run"
    lags = [row.lag_p95_s for row in report.rows if row.lag_p95_s is not None]
    if lags:
        ends += (
            f"\ntimes count from when jobs were due; they were handed over {shown_seconds(max(lags))} later at most "
            f"(p95 of the worst run); runs in which this machine was too busy to be prompt: {report.late_cells}"
        )
    return f"{note}\n{table(header, rows)}\n{ends}\n\n{table(('goal', 'wanted', 'reached', 'met'), goals)}"


def _row(row: PolicyRow) -> tuple[str, ...]:
    figures = row.figures
    p99_us = row.decision_us.p99
    return (
        figures.policy,
        f"{row.share:g}",
        *(_percent(spread) for spread in (figures.in_time, figures.work_in_time, figures.worst_class)),
        _with_half(row.fairness, lambda value: f"{value:.3f}"),
        *(_with_half(spread, shown_seconds) for spread in (figures.p50_s, figures.p95_s, figures.p99_s)),
        _with_half(figures.jobs_per_s, lambda value: f"{value:.2f}"),
        _percent(row.rejected_share),
        "-" if p99_us is None else f"{p99_us:.0f} us",
    )


def _reached(value: float | None, wanted: str) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if wanted.endswith("%") else f"{value:.0f}"


def _percent(spread: Spread) -> str:
    return _with_half(spread, lambda value: f"{100 * value:.1f}") + (" %" if spread.mean is not None else "")


def _with_half(spread: Spread, shown: Callable[[float], str]) -> str:
    if spread.mean is None:
        return "-"
    return shown(spread.mean) + ("" if spread.half is None else f" ±{shown(spread.half)}")
