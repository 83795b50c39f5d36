"""``sage bench concurrency`` and its like: the experiments of the paper, one command each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.cli.output import Bar, print_json, say, shown_seconds, table

if TYPE_CHECKING:
    from sage.bench.experiments import Planned, Preset
    from sage.bench.points import Point
    from sage.bench.results import StoredExperiment
    from sage.bench.stats import Spread

__all__ = ["NAMES", "command"]

#: The experiments and what their commands say of themselves.
NAMES: Mapping[str, str] = {
    "concurrency": "Throughput and latency against the number of jobs in flight, beside a plain asyncio loop.",
    "complexity": "Throughput and latency of light, medium and heavy jobs.",
    "pipelines": "Several pipelines at once: what they cost each other.",
    "stagger": "Pipelines started one after the other, at equal load.",
    "nodes": "Throughput and balance as nodes are added.",
}


def command(name: str) -> Callable[..., None]:
    """The command of an experiment."""

    def run(
        preset: Annotated[str, typer.Option(help="quick, full or paper.")] = "quick",
        out: Annotated[
            Path | None,
            typer.Option(
                help="Folder for the results; if it holds a part of them, goes on there.", show_default=False
            ),
        ] = None,
        engines: Annotated[
            str | None, typer.Option(help="emulated, http (an emulated server) or embedded (real models).")
        ] = None,
        runtime: Annotated[
            str | None, typer.Option(help="simulated, local (real time) or ray (nodes on this machine).")
        ] = None,
        workload: Annotated[
            list[str] | None, typer.Option(help="compute, rag or mixed; may be repeated.")
        ] = None,
        policy: Annotated[list[str] | None, typer.Option(help="Of scheduling; may be repeated.")] = None,
        concurrency: Annotated[
            list[int] | None, typer.Option(min=1, help="Jobs in flight; may be repeated.")
        ] = None,
        jobs: Annotated[int | None, typer.Option(min=1, help="Jobs counted in each cell.")] = None,
        repeats: Annotated[int | None, typer.Option(min=1, help="Runs of each cell, by other seeds.")] = None,
        seed: Annotated[int | None, typer.Option(help="Of the first run.")] = None,
        data: Annotated[
            Path | None, typer.Option(help="Folder with passages.jsonl and questions.jsonl to ask.")
        ] = None,
        file: Annotated[
            Path | None, typer.Option(help="A YAML file of presets in place of the built-in one.")
        ] = None,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="Show the cells and the expected time; run nothing but a probe."),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    ) -> None:
        import sage.bench.suites.experiments  # noqa: F401 - registers them
        from sage.bench.experiments import read_preset, run_experiment

        chosen = {
            "engines": engines, "runtime": runtime, "workloads": workload, "policies": policy,
            "concurrency": concurrency, "jobs": jobs, "repeats": repeats, "seed": seed,
        }  # fmt: skip
        what = read_preset(name, preset, file=file, **chosen)
        target = out if out is not None else Path("sage-results") / f"{name}-{preset}"
        if dry_run:
            _show_plan(name, what, out, data, as_json=as_json)
            return
        try:
            with _bars() as progress:
                stored = run_experiment(
                    name,
                    what,
                    target,
                    preset_name=preset,
                    arguments=tuple(_arguments(preset, data, file, chosen)),
                    data=data,
                    progress=progress,
                )
        except KeyboardInterrupt:
            say(f"interrupted; whole cells are kept in {target}, and the same command goes on from there")
            raise
        _show(stored, as_json=as_json)
        say(f"{len(stored.cells)} cells, {stored.manifest.kind} -> {target}")
        if stored.manifest.status != "complete":
            raise typer.Exit(1)

    run.__doc__ = NAMES[name]
    return run


def _arguments(
    preset: str, data: Path | None, file: Path | None, chosen: Mapping[str, object]
) -> Iterator[str]:
    """What was said on the command line, so that it can be said again."""
    options = {"workloads": "workload", "policies": "policy"}
    yield from ("--preset", preset)
    for option, path in (("--data", data), ("--file", file)):
        if path is not None:
            yield from (option, path.name)
    for field, said in chosen.items():
        for value in said if isinstance(said, list) else [] if said is None else [said]:
            yield from (f"--{options.get(field, field)}", str(value))


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    with ExitStack() as stack:
        bar: Bar | None = None
        shown = 0

        def progress(what: str, done: int, total: int) -> None:
            nonlocal bar, shown
            bar = bar or stack.enter_context(Bar(what, total))
            for _ in range(done - shown):
                bar.advance()
            shown = done
            bar.tick()

        yield progress


def _show_plan(name: str, preset: Preset, out: Path | None, data: Path | None, *, as_json: bool) -> None:
    from sage.bench.experiments import expected, lab_of, planned

    cells = planned(name, preset, out)
    left = [cell for cell, is_held in cells if not is_held]
    with lab_of(preset, data) as lab:
        time = expected(lab, left)
    if as_json:
        shown = [{"cell": cell.name, "jobs": cell.setup.jobs, "held": is_held} for cell, is_held in cells]
        print_json({"experiment": name, "kind": lab.kind, "cells": shown, "expected": time})
        return
    rows = [
        (cell.name, str(cell.setup.jobs), _arrivals(cell), "there" if is_held else "to run")
        for cell, is_held in cells
    ]
    print(table(("cell", "jobs", "load", ""), rows))
    span = shown_seconds(time.least_s)
    if time.most_s > time.least_s * 1.01:
        span = f"{span} to {shown_seconds(time.most_s)}, by how far jobs slow each other down"
    print(
        f"{len(left)} cells to run, {lab.kind}; expected time {span} (from {time.probed_jobs} jobs run now)"
    )


def _arrivals(cell: Planned) -> str:
    load = cell.setup.loads[0].arrivals
    count = len(cell.setup.loads)
    each = "" if count == 1 else f"{count} x "
    if load.process == "closed":
        return f"{each}{load.clients} in flight"
    return f"{each}bursts of {load.size}, {load.rate:g} jobs/s, {cell.setup.loads[-1].start_s:g} s to the last start"


def _show(stored: StoredExperiment, *, as_json: bool) -> None:
    from sage.bench.points import points_of

    points = points_of(stored)
    said = stored.manifest
    if as_json:
        print_json(
            {"experiment": said.experiment, "kind": said.kind, "status": said.status, "points": points}
        )
        return
    print(_points_table(points))
    for remark in said.notes:
        print(remark)
    repeats = max(point.repeats for point in points)
    note = "; ± is half of a 95 % t-interval over repeats" if repeats >= 3 else ""
    print(
        f"{said.experiment}: {said.kind}, {repeats} repeat{'' if repeats == 1 else 's'}{note}; times from due to done, "
        "'-': too few jobs to tell"
    )


def _points_table(points: Sequence[Point]) -> str:
    axes = list(points[0].axes)
    header = (*axes, "jobs", "not done", "jobs/s", "mean", "p50", "p95", "p99", "in flight")
    rows = [
        (
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in point.axes.values()),
            str(point.jobs),
            str(point.not_done),
            _shown(point.figures["jobs_per_s"], lambda value: f"{value:.4g}"),
            *(_shown(point.figures[name], shown_seconds) for name in ("mean_s", "p50_s", "p95_s", "p99_s")),
            _shown(point.figures["inflight"], lambda value: f"{value:.2f}"),
        )
        for point in points
    ]
    return table(header, rows)


def _shown(spread: Spread, text: Callable[[float], str]) -> str:
    if spread.mean is None:
        return "-"
    return text(spread.mean) + ("" if spread.half is None else f" ±{text(spread.half)}")
