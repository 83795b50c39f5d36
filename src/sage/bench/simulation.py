"""Simulated sweeps: every policy at every load with every seed, each cell a run of the product in virtual time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.bench.arrivals import Schedule, draw
from sage.bench.records import Request, requests_of
from sage.bench.results import Axis, open_experiment, write_json, write_lines
from sage.bench.simulation_figures import CellFigures, Row, figures_of, row_of
from sage.bench.simulation_spec import Spec, described, options_of, pipelines_of, records_of
from sage.engines.base import Engine
from sage.engines.emulated import EmulatedEngine, EmulatedOptions, Pieces
from sage.engines.emulated_profile import answer_lengths, load_profile
from sage.errors import InputError, SageError
from sage.pipeline import Pipeline
from sage.runtime.manifest import read_manifest
from sage.runtime.options import JobOptions
from sage.runtime.runs import read_events
from sage.runtime.simulated import FailingEngine, Outage, closed_loop, open_loop
from sage.runtime.virtual import run_virtual
from sage.scheduling.core import Scheduler
from sage.scheduling.policy import parse_policy
from sage.session import Session
from sage.settings import Settings
from sage.tenants import Tenant

__all__ = [
    "Cell", "Sweep", "carry_all", "cells_of", "settings_of", "simulate", "simulate_cell", "tenants_of",
]  # fmt: skip

#: Told of progress: jobs that ended so far, of so many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep."""

    policy: str
    load: float
    seed: int

    @property
    def name(self) -> str:
        """A name for its folder."""
        policy = re.sub(r"[^\w.=-]+", "_", self.policy).strip("_")
        return f"{policy}_load-{self.load:g}_seed-{self.seed}"


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep came to."""

    name: str
    kind: Literal["simulated"] = "simulated"
    status: Literal["complete", "partial"] = "complete"  # partial: it was interrupted
    rows: tuple[Row, ...]
    cells: tuple[CellFigures, ...]


def cells_of(spec: Spec) -> list[Cell]:
    """Every combination a spec asks for.

    Raises:
        InputError: a policy is none.
    """
    for policy in spec.policies:
        parse_policy(policy)
    every = itertools.product(spec.policies, spec.loads, range(spec.first_seed, spec.first_seed + spec.seeds))
    return list(dict.fromkeys(Cell(policy, load, seed) for policy, load, seed in every))


def simulate(
    spec: Spec,
    out: Path | None = None,
    progress: Progress | None = None,
    *,
    scheduler: Callable[..., Scheduler] = Scheduler,
) -> Sweep:
    """Run every cell of a spec. Deterministic: the same spec gives byte-identical event logs.

    Every policy meets the same load: schedules, records and lengths of answers depend on traffic and seed alone.

    Args:
        spec: what to simulate.
        out: folder of an experiment (``sage.bench.results``), with the sweep's own ``summary.json``; if it holds a
            part of this sweep, only the rest is run. None keeps nothing.
        progress: told now and then.
        scheduler: makes the scheduler of each cell; for measurements that watch it decide.

    Interrupted, it keeps the cells that are over, in ``out``.

    Raises:
        InputError: something in the spec cannot be.
        PipelineError: a pipeline has faults, or names what the spec lacks.
    """
    pipelines = pipelines_of(spec)
    cells = cells_of(spec)
    drawn = {
        (load, seed): {name: _drawn(name, spec, seed, load) for name in spec.traffic}
        for load, seed in dict.fromkeys((cell.load, cell.seed) for cell in cells)
    }
    for schedules in drawn.values():
        _check(spec, schedules)
    total = sum(len(one.times) for cell in cells for one in drawn[cell.load, cell.seed].values())
    found: list[CellFigures] = []
    ended = itertools.count(1)

    def tell() -> None:
        number = next(ended)
        if progress is not None and (number % 256 == 0 or number == total):
            progress(number, total)

    if out is None:
        for cell in cells:
            with tempfile.TemporaryDirectory(prefix="sage-simulate-") as scratch:
                found.append(
                    _run_cell(
                        spec,
                        pipelines,
                        cell,
                        drawn[cell.load, cell.seed],
                        Path(scratch),
                        tell,
                        scheduler=scheduler,
                    )
                )
        return _swept(spec, found, "complete")
    try:
        with open_experiment(
            out, "simulate", kind="simulated", config=described(spec), planned=len(cells)
        ) as kept:
            for cell in cells:
                schedules = drawn[cell.load, cell.seed]
                if kept.has(cell.name):
                    found.append(_kept(out / cell.name))
                    for schedule in schedules.values():
                        for _ in schedule.times:
                            tell()
                    continue
                axes: dict[str, Axis] = {"policy": cell.policy, "load": cell.load}
                with kept.running(cell.name, axes=axes, repeat=cell.seed, seed=cell.seed) as path:
                    found.append(_run_cell(spec, pipelines, cell, schedules, path, tell, scheduler=scheduler))
    except BaseException:
        if found:
            write_json(out / "summary.json", _swept(spec, found, "partial"))
        raise
    sweep = _swept(spec, found, "complete")
    write_json(out / "summary.json", sweep)
    return sweep


def simulate_cell(spec: Spec, cell: Cell, pieces: Pieces | None = None) -> tuple[CellFigures, list[Request]]:
    """One cell alone, with its jobs; nothing is kept. ``pieces`` "all": also when each token came.

    Raises:
        InputError: something in the spec cannot be.
    """
    parse_policy(cell.policy)
    schedules = {name: _drawn(name, spec, cell.seed, cell.load) for name in spec.traffic}
    _check(spec, schedules)
    with tempfile.TemporaryDirectory(prefix="sage-simulate-") as scratch:
        figures = _run_cell(spec, pipelines_of(spec), cell, schedules, Path(scratch), lambda: None, pieces)
        return figures, requests_of(read_events(Path(scratch) / "events.jsonl"))


def _check(spec: Spec, schedules: Mapping[str, Schedule]) -> None:
    """Say what is wrong with a spec before anything runs."""
    for name in spec.traffic:
        options_of(spec, name)
        next(records_of(name, spec.traffic[name], schedules[name], 0), None)
    for engine in spec.engines.values():
        load_profile(engine.profile)
        answer_lengths(engine.output, 0)


def _kept(folder: Path) -> CellFigures:
    """The figures of a cell that was run before."""
    summary = msgspec.json.decode((folder / "summary.json").read_bytes(), type=dict[str, Any])
    return msgspec.convert(summary["simulated"], CellFigures)


def _swept(spec: Spec, cells: Sequence[CellFigures], status: Literal["complete", "partial"]) -> Sweep:
    by_row: dict[tuple[str, float], list[CellFigures]] = {}
    for cell in cells:
        by_row.setdefault((cell.policy, cell.load), []).append(cell)
    rows = tuple(row_of(several) for several in by_row.values())
    return Sweep(name=spec.simulate, status=status, rows=rows, cells=tuple(cells))


def _drawn(name: str, spec: Spec, seed: int, load: float) -> Schedule:
    try:
        return draw(spec.traffic[name].arrivals, f"{seed}/{name}", load=load)
    except InputError as error:
        raise InputError(f"traffic {name!r}: {error}") from error


def _run_cell(
    spec: Spec,
    pipelines: Mapping[str, Pipeline],
    cell: Cell,
    schedules: Mapping[str, Schedule],
    folder: Path,
    tell: Callable[[], None],
    pieces: Pieces | None = None,
    scheduler: Callable[..., Scheduler] = Scheduler,
) -> CellFigures:
    """Run a cell and leave its files in a folder."""
    with tempfile.TemporaryDirectory(prefix=".home-", dir=folder) as home:
        settings = settings_of(spec, Path(home))

        async def carried_out() -> None:
            async with Session(
                engines=_engines(spec, cell.seed, pieces or ("all" if _reads_pieces(pipelines) else "first")),
                policy=cell.policy,
                settings=settings,
                seed=cell.seed,
                clock=asyncio.get_running_loop().time,
                tenants=tenants_of(spec),
                kind="simulated",
                scheduler=scheduler,
            ) as session:
                await carry_all(session, spec, pipelines, schedules, cell.seed, tell)

        run_virtual(carried_out())
        (run,) = settings.runs_dir.iterdir()
        for name in ("run.json", "events.jsonl"):
            shutil.move(run / name, folder / name)
    hashes = {name: schedule.sha256 for name, schedule in schedules.items()}
    events = list(read_events(folder / "events.jsonl"))
    summary, figures = figures_of(
        events, policy=cell.policy, load=cell.load, seed=cell.seed, schedules=hashes, warmup_s=spec.warmup_s
    )
    if summary.faults:
        raise SageError(
            f"cell {cell.name}: its log cannot be true: {summary.faults[0]}; this is a bug in SAGE"
        )
    manifest = read_manifest(folder / "run.json")
    arguments = {**manifest.arguments, "load": cell.load, "schedules": hashes, "spec": described(spec)}
    write_json(folder / "run.json", msgspec.structs.replace(manifest, arguments=arguments))
    figures = msgspec.structs.replace(figures, folder=cell.name)
    write_json(folder / "summary.json", {**msgspec.to_builtins(summary), "simulated": figures})
    write_lines(folder / "requests.jsonl", requests_of(events))
    return figures


def settings_of(spec: Spec, home: Path) -> Settings:
    """For a session that carries out one cell of a spec."""
    return Settings(home=home, engines={}, indexes=dict(spec.indexes), max_inflight=spec.max_inflight)


def tenants_of(spec: Spec) -> dict[str, Tenant]:
    """What the tenants of a spec may claim."""
    return {
        name: Tenant(
            weight=said.weight,
            reserved=said.reserved,
            tokens_per_s=said.tokens_per_s,
            burst_tokens=said.burst_tokens,
        )
        for name, said in spec.tenants.items()
    }


async def carry_all(
    session: Session,
    spec: Spec,
    pipelines: Mapping[str, Pipeline],
    schedules: Mapping[str, Schedule],
    seed: int,
    tell: Callable[[], None],
) -> None:
    """All jobs of one cell, each when it is due, to their ends."""
    for pipeline in pipelines.values():
        await session.ready(pipeline)
    coming = {
        name: (
            records_of(name, spec.traffic[name], schedules[name], seed),
            _carrier(session, pipeline, options_of(spec, name), tell),
        )
        for name, pipeline in pipelines.items()
    }
    if spec.clients is not None:
        await closed_loop(_in_order(schedules, coming), _carry_out, clients=spec.clients)
        return
    async with asyncio.TaskGroup() as group:
        for name, (records, carry) in coming.items():
            schedule = schedules[name]
            if schedule.clients is None:
                group.create_task(open_loop(zip(schedule.times, records, strict=True), carry))
            else:
                loop = closed_loop(records, carry, clients=schedule.clients, think_s=schedule.think_s)
                group.create_task(loop)


#: Carries a record to the end of its job.
Carry = Callable[[dict[str, Any]], Awaitable[None]]


def _in_order(
    schedules: Mapping[str, Schedule], coming: Mapping[str, tuple[Iterator[dict[str, Any]], Carry]]
) -> Iterator[tuple[dict[str, Any], Carry]]:
    """The jobs of all traffic by their times."""
    times = [[(time, name) for time in schedules[name].times] for name in coming]
    for _, name in heapq.merge(*times):
        records, carry = coming[name]
        yield next(records), carry


async def _carry_out(job: tuple[dict[str, Any], Carry]) -> None:
    record, carry = job
    await carry(record)


def _carrier(session: Session, pipeline: Pipeline, options: JobOptions, tell: Callable[[], None]) -> Carry:
    said: Any = msgspec.to_builtins(options)

    async def carry(record: dict[str, Any]) -> None:
        try:
            await session.call(pipeline, record, **said)
        except SageError:
            pass  # the log says how it ended
        finally:
            tell()

    return carry


def _reads_pieces(pipelines: Mapping[str, Pipeline]) -> bool:
    """Whether a step reads an answer while it is written; otherwise when each token comes is nobody's concern."""
    return any(step.live for pipeline in pipelines.values() for step in pipeline.plan.steps)


def _engines(spec: Spec, seed: int, pieces: Pieces) -> dict[str, Sequence[Engine]]:
    """The emulated endpoints of every pool. Answers are as long whichever of them gives it."""
    pools: dict[str, Sequence[Engine]] = {}
    for pool, said in spec.engines.items():
        options = EmulatedOptions(
            output=said.output, seed=seed, limit=said.limit, pieces=pieces, prefix_cache=said.prefix_cache
        )
        profile = load_profile(said.profile)
        endpoints: list[Engine] = []
        for number in range(1, said.count + 1):
            engine: Engine = EmulatedEngine(profile, options, name=f"{pool}-{number}")
            outages = [
                Outage(failure.at_s, failure.at_s + failure.for_s)
                for failure in spec.failures
                if (failure.pool, failure.endpoint) == (pool, number)
            ]
            endpoints.append(FailingEngine(engine, outages) if outages else engine)
        pools[pool] = endpoints
    return pools


def with_choices(spec: Spec, *, policies: Sequence[str], loads: Sequence[float], seeds: int | None) -> Spec:
    """The spec with what the caller chose in place of what it says; empty choices change nothing."""
    changes: dict[str, Any] = {}
    if policies:
        changes["policies"] = tuple(policies)
    if loads:
        changes["loads"] = tuple(loads)
    if seeds is not None:
        changes["seeds"] = seeds
    return msgspec.structs.replace(spec, **changes)
