"""A cell of a simulation spec in real time: the same jobs and policies, against emulated engines behind HTTP.

Each endpoint is a server process of its own with the profile of the spec (``sage.testing.server``). What differs from
the simulation is everything that is real: the clock, sockets, and the work of this process.
"""

from __future__ import annotations

import asyncio
import heapq
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import process_time

import msgspec

from sage.bench.arrivals import Schedule, draw
from sage.bench.cell_figures import cell_figures
from sage.bench.records import Request, requests_of
from sage.bench.results import write_json, write_lines
from sage.bench.simulation import carry_all, settings_of, tenants_of
from sage.bench.simulation_figures import CellFigures, figures_of
from sage.bench.simulation_spec import Spec, described, pipelines_of
from sage.clock import monotonic
from sage.engines.emulated_profile import load_profile
from sage.errors import InputError, SageError
from sage.events import Event, JobEnded
from sage.runtime.manifest import read_manifest
from sage.runtime.runs import read_events
from sage.scheduling.core import Scheduler
from sage.session import Session
from sage.testing.behaviour import Behaviour
from sage.testing.server import separate_servers

__all__ = ["measure_cell"]

CONTEXT_TOKENS = 1 << 20  # the profile says how many there are


def measure_cell(
    spec: Spec,
    policy: str,
    load: float,
    seed: int,
    folder: Path,
    on_end: Callable[[], None] = lambda: None,
    *,
    scheduler: Callable[..., Scheduler] = Scheduler,
) -> CellFigures:
    """Run one cell in real time; its ``run.json``, ``events.jsonl`` and ``requests.jsonl`` go into a folder.

    Times count from when jobs were due. If this process was too late to hand jobs over, ``run.json`` has the status
    "generator_limited".

    Raises:
        InputError: the spec has failures of endpoints, which servers do not have.
    """
    if spec.failures:
        raise InputError("failures of endpoints are simulated only; leave 'failures' out")
    pipelines = pipelines_of(spec)
    schedules = {
        name: draw(traffic.arrivals, f"{seed}/{name}", load=load) for name, traffic in spec.traffic.items()
    }
    pools = [pool for pool, said in spec.engines.items() for _ in range(said.count)]
    with (
        separate_servers([_behaviour(spec, pool, seed) for pool in pools]) as urls,
        tempfile.TemporaryDirectory(prefix=".home-", dir=folder) as home,
    ):
        engines: defaultdict[str, list[str]] = defaultdict(list)
        for pool, url in zip(pools, urls, strict=True):
            engines[pool].append(f"openai:{url}?model=emulated&limit={_limit(spec, pool)}")
        settings = settings_of(spec, Path(home))

        async def carried_out() -> None:
            async with Session(
                engines=engines,
                policy=policy,
                settings=settings,
                seed=seed,
                clock=monotonic,
                tenants=tenants_of(spec),
                scheduler=scheduler,
            ) as session:
                await carry_all(session, spec, pipelines, schedules, seed, on_end)

        began = process_time()
        asyncio.run(carried_out())
        cpu_s = process_time() - began
        (run,) = settings.runs_dir.iterdir()
        for name in ("run.json", "events.jsonl"):
            shutil.move(run / name, folder / name)
    events = list(read_events(folder / "events.jsonl"))
    lost = sum(len(one.times) for one in schedules.values()) - sum(isinstance(e, JobEnded) for e in events)
    if lost:
        raise SageError(f"{lost} jobs of {policy!r} have no end in the log; this is a bug in SAGE")
    due = _due(spec, schedules, events)
    hashes = {name: schedule.sha256 for name, schedule in schedules.items()}
    summary, figures = figures_of(
        events, policy=policy, load=load, seed=seed, schedules=hashes, warmup_s=spec.warmup_s, due=due
    )
    if summary.faults:
        raise SageError(f"the log of {policy!r} cannot be true: {summary.faults[0]}; this is a bug in SAGE")
    _keep(folder, spec, load, hashes, _requests(events, due, spec.warmup_s), events, cpu_s)
    return figures


def _limit(spec: Spec, pool: str) -> int:
    said = spec.engines[pool]
    return said.limit or load_profile(said.profile).capacity.max_seqs


def _behaviour(spec: Spec, pool: str, seed: int) -> Behaviour:
    said = spec.engines[pool]
    return Behaviour(
        profile=said.profile,
        output=said.output,
        seed=seed,
        prefix_cache=said.prefix_cache,
        context_tokens=CONTEXT_TOKENS,
    )


def _due(spec: Spec, schedules: Mapping[str, Schedule], events: Sequence[Event]) -> dict[int, float] | None:
    """When each job was to come, on the clock of the log; None if clients make the load.

    Jobs of one pipeline are handed over in the order of their times; the job that was least late marks the beginning.
    """
    if spec.clients is not None or any(schedule.clients is not None for schedule in schedules.values()):
        return None
    pipelines = pipelines_of(spec)
    times: defaultdict[str, list[Sequence[float]]] = defaultdict(list)
    for name, schedule in schedules.items():
        times[pipelines[name].name].append(schedule.times)
    ends = sorted((e for e in events if isinstance(e, JobEnded)), key=lambda end: (end.arrived, end.job))
    pairs = [
        (end, at)
        for name, several in times.items()
        for end, at in zip((end for end in ends if end.pipeline == name), heapq.merge(*several), strict=True)
    ]
    began = min((end.arrived - at for end, at in pairs), default=0.0)
    return {end.job: min(began + at, end.arrived) for end, at in pairs}  # rounding makes nobody early


def _requests(events: Sequence[Event], due: Mapping[int, float] | None, warmup_s: float) -> list[Request]:
    requests = requests_of(events, due)
    since = min((request.scheduled for request in requests), default=0.0) + warmup_s
    return [
        msgspec.structs.replace(request, warmup=request.scheduled < since) if warmup_s else request
        for request in requests
    ]


def _keep(
    folder: Path,
    spec: Spec,
    load: float,
    hashes: Mapping[str, str],
    requests: Sequence[Request],
    events: Sequence[Event],
    cpu_s: float,
) -> None:
    """Write the requests, and into ``run.json`` what was asked for and whether this process kept up."""
    write_lines(folder / "requests.jsonl", requests)
    manifest = read_manifest(folder / "run.json")
    is_late = cell_figures(events, requests, manifest.engines, cpu_s=cpu_s).generator_limited
    arguments = {
        **manifest.arguments,
        "load": load,
        "schedules": hashes,
        "spec": described(spec),
        "cpu_s": cpu_s,
    }
    kept = msgspec.structs.replace(
        manifest, arguments=arguments, status="generator_limited" if is_late else manifest.status
    )
    write_json(folder / "run.json", kept)
