"""A cell of a simulation spec in real time: the same jobs and policies, against emulated engines behind HTTP.

Each endpoint is a server process of its own with the profile of the spec (``sage.testing.server``). What differs from
the simulation is everything that is real: the clock, sockets, and the work of this process.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from sage.bench.arrivals import Schedule, draw
from sage.bench.simulation import carry_all, settings_of, tenants_of
from sage.bench.simulation_figures import CellFigures, figures_of
from sage.bench.simulation_spec import Spec, pipelines_of
from sage.clock import monotonic
from sage.engines.emulated_profile import load_profile
from sage.errors import InputError, SageError
from sage.events import JobEnded
from sage.runtime.runs import read_events
from sage.session import Session
from sage.testing.behaviour import Behaviour
from sage.testing.server import separate_server

__all__ = ["measure_cell"]

CONTEXT_TOKENS = 1 << 20  # the profile says how many there are


def measure_cell(
    spec: Spec, policy: str, load: float, seed: int, folder: Path, on_end: Callable[[], None] = lambda: None
) -> CellFigures:
    """Run one cell in real time; its ``run.json`` and ``events.jsonl`` go into a folder.

    Raises:
        InputError: the spec has failures of endpoints, which servers do not have.
    """
    if spec.failures:
        raise InputError("failures of endpoints are simulated only; leave 'failures' out")
    pipelines = pipelines_of(spec)
    schedules = {
        name: draw(traffic.arrivals, f"{seed}/{name}", load=load) for name, traffic in spec.traffic.items()
    }
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix=".home-", dir=folder) as home:
        engines = {
            pool: [
                f"openai:{stack.enter_context(separate_server(_behaviour(spec, pool, seed)))}"
                f"?model=emulated&limit={said.limit or load_profile(said.profile).capacity.max_seqs}"
                for _ in range(said.count)
            ]
            for pool, said in spec.engines.items()
        }
        settings = settings_of(spec, Path(home))

        async def carried_out() -> None:
            async with Session(
                engines=engines,
                policy=policy,
                settings=settings,
                seed=seed,
                clock=monotonic,
                tenants=tenants_of(spec),
            ) as session:
                await carry_all(session, spec, pipelines, schedules, seed, on_end)

        asyncio.run(carried_out())
        (run,) = settings.runs_dir.iterdir()
        for name in ("run.json", "events.jsonl"):
            shutil.move(run / name, folder / name)
    return _figures(folder, spec, policy, load, seed, schedules)


def _behaviour(spec: Spec, pool: str, seed: int) -> Behaviour:
    said = spec.engines[pool]
    return Behaviour(
        profile=said.profile,
        output=said.output,
        seed=seed,
        prefix_cache=said.prefix_cache,
        context_tokens=CONTEXT_TOKENS,
    )


def _figures(
    folder: Path, spec: Spec, policy: str, load: float, seed: int, schedules: Mapping[str, Schedule]
) -> CellFigures:
    events: Sequence[Any] = list(read_events(folder / "events.jsonl"))
    hashes = {name: schedule.sha256 for name, schedule in schedules.items()}
    summary, figures = figures_of(
        events, policy=policy, load=load, seed=seed, schedules=hashes, warmup_s=spec.warmup_s
    )
    if summary.faults:
        raise SageError(f"the log of {policy!r} cannot be true: {summary.faults[0]}; this is a bug in SAGE")
    lost = sum(len(one.times) for one in schedules.values()) - sum(isinstance(e, JobEnded) for e in events)
    if lost:
        raise SageError(f"{lost} jobs of {policy!r} have no end in the log; this is a bug in SAGE")
    return msgspec.structs.replace(figures, folder=None)
