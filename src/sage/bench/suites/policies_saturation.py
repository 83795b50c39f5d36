"""The most jobs a second that the engines of a mix get done: what loads are shares of.

It is the throughput of a closed loop of a quarter more clients than the engines have slots, while all of them are
busy. The jobs are those of the mix, in the order an open loop would bring them, so that the mix stays what it is.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from sage.bench.over_http import measure_cell
from sage.bench.simulation import simulate
from sage.bench.simulation_spec import Spec
from sage.bench.stats import Spread, spread_of
from sage.events import Event, JobEnded, TaskEnded
from sage.runtime.runs import read_events

__all__ = ["LOOP_POLICY", "UNBOUNDED", "Saturation", "SaturationRun", "saturation_of", "saturation_run"]

#: More jobs at once than ever come: where a policy says no ``max_inflight``, its other rules decide who gets in.
UNBOUNDED = 1_000_000

LOOP_POLICY = "load_aware"
JOBS_PER_CLIENT = 6


class SaturationRun(msgspec.Struct, frozen=True, kw_only=True):
    """One closed-loop run: what its engines got done while all of them were busy."""

    seed: int
    clients: int
    jobs: int
    window_s: float  # from a quarter of the jobs done to the last one begun
    tokens_per_s: float  # in and out, of calls that ended in the window
    tokens_per_job: float  # of all jobs
    jobs_per_s: float  # the one over the other
    work_shares: Mapping[str, float]  # pipeline -> its share of all tokens


class Saturation(msgspec.Struct, frozen=True, kw_only=True):
    """The most jobs a second that the engines get done, and the runs it comes from."""

    jobs_per_s: float
    over_runs: Spread
    runs: tuple[SaturationRun, ...]


def saturation_of(runs: Sequence[SaturationRun]) -> Saturation:
    """The mean over runs."""
    over = spread_of([run.jobs_per_s for run in runs])
    assert over.mean is not None, "there is no run"
    return Saturation(jobs_per_s=over.mean, over_runs=over, runs=tuple(runs))


def saturation_run(
    spec: Spec, kind: Literal["simulated", "measured"], seed: int, folder: Path
) -> SaturationRun:
    """One closed loop; what was measured leaves its log in a folder."""
    slots = sum(engine.count * (engine.limit or 1) for pool, engine in spec.engines.items() if pool == "llm")
    clients = slots * 5 // 4
    loop = msgspec.structs.replace(
        spec.lasting(float(JOBS_PER_CLIENT * clients)),
        clients=clients,
        policies=(LOOP_POLICY,),
        max_inflight=UNBOUNDED,
        loads=(1.0,),
        first_seed=seed,
        seeds=1,
        warmup_s=0.0,
    )
    if kind == "measured":
        measure_cell(loop, LOOP_POLICY, 1.0, seed, folder)
        return _saturated(list(read_events(folder / "events.jsonl")), seed, clients)
    with tempfile.TemporaryDirectory(prefix="sage-saturation-") as scratch:
        out = Path(scratch) / "loop"
        (cell,) = simulate(loop, out).cells
        return _saturated(list(read_events(out / str(cell.folder) / "events.jsonl")), seed, clients)


def _saturated(events: Sequence[Event], seed: int, clients: int) -> SaturationRun:
    jobs = {event.job: event for event in events if isinstance(event, JobEnded)}
    ends = sorted(job.t for job in jobs.values())
    since, until = ends[len(ends) // 4], max(job.arrived for job in jobs.values())
    used: defaultdict[str, int] = defaultdict(int)
    inside = 0
    for event in events:
        if isinstance(event, TaskEnded) and event.outcome == "done":
            tokens = event.prompt_tokens + event.completion_tokens
            used[jobs[event.job].pipeline] += tokens
            inside += tokens if since < event.t <= until else 0
    total = sum(used.values())
    per_job, per_s = total / len(jobs), inside / (until - since)
    return SaturationRun(
        seed=seed,
        clients=clients,
        jobs=len(jobs),
        window_s=until - since,
        tokens_per_s=per_s,
        tokens_per_job=per_job,
        jobs_per_s=per_s / per_job,
        work_shares={name: tokens / total for name, tokens in sorted(used.items())},
    )
