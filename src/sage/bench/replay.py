"""What a run would have been under another policy: its log, replayed through the real scheduler in virtual time.

No prompt is in a log and none is needed. The run is also replayed under the policy it had: what that differs from
what was measured is the error of the replay, and is said beside every answer.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.bench.replay_log import Recorded, RecordedJob, read_recorded
from sage.bench.replay_pipelines import ProfiledEngine, Replayed, ReplayEngine, pipelines_of, pool_of
from sage.bench.simulation_figures import CellFigures, figures_of
from sage.engines.base import Engine
from sage.engines.emulated import EmulatedEngine, EmulatedOptions
from sage.engines.emulated_profile import load_profile
from sage.errors import SageError
from sage.events import Event
from sage.runtime.options import MAX_INFLIGHT
from sage.runtime.runs import StoredRun, read_events
from sage.runtime.simulated import open_loop
from sage.runtime.virtual import run_virtual
from sage.scheduling.policy import parse_policy
from sage.session import Session
from sage.settings import Settings

__all__ = ["Replay", "Source", "assumptions_of", "replay", "replay_events", "replay_one", "source_of"]

#: Pool -> how many endpoints it has instead, if another number, and how many calls at once each takes, if others.
Varied = Mapping[str, tuple[int | None, int | None]]

#: To pull a record takes a moment, as it did, at most so long: else jobs that came one after the other would come at the
#: same instant, and orders could not tell them apart.
PULL_S = 1e-3

#: Told of every job that ended: how many so far, of how many.
Progress = Callable[[int, int], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The run under one policy, replayed."""

    policy: str
    is_own: bool  # the policy the run had
    figures: CellFigures


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A run, and what it would have been."""

    run_id: str
    kind: Literal["replayed"] = "replayed"
    recorded_kind: str  # what the run itself is: measured or simulated
    recorded: CellFigures  # its own figures, not replayed
    rows: tuple[Row, ...]  # replayed; the first under its own policy
    #: Figure -> replayed under its own policy over what was recorded, less 1; of ``in_time`` the difference.
    error: Mapping[str, float]
    assumptions: tuple[str, ...]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A run, read, in the form replays need it."""

    run: StoredRun
    recorded: Recorded
    replayed: Replayed
    profile: str | None = None  # emulate calls by it; None: each takes as long as it did

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the run was started with."""
        return self.run.manifest.arguments


def source_of(run: StoredRun, profile: str | None = None, *, deadline_s: float | None = None) -> Source:
    """Read a run; ``deadline_s`` is for its jobs that have none.

    Raises:
        InputError: it made no calls, or its log or manifest lacks what a replay needs; or there is no such profile.
    """
    if profile is not None:
        load_profile(profile)
    recorded = read_recorded(run.events(), run.manifest, deadline_s)
    return Source(run=run, recorded=recorded, replayed=pipelines_of(recorded), profile=profile)


def replay(
    run: StoredRun, policies: Sequence[str], *, profile: str | None = None, progress: Progress | None = None
) -> Replay:
    """Replay a run under its own policy and under others. Deterministic.

    Raises:
        InputError: a policy is none, or see ``source_of``.
    """
    wanted = [str(parse_policy(policy)) for policy in policies]
    own = str(parse_policy(run.manifest.policy))
    source = source_of(run, profile)
    every = list(dict.fromkeys([own, *wanted]))
    total = len(every) * len(source.recorded.jobs)
    number = 0

    def tell() -> None:
        nonlocal number
        number += 1
        if progress is not None:
            progress(number, total)

    rows = tuple(
        Row(policy=policy, is_own=policy == own, figures=replay_one(source, policy, tell)) for policy in every
    )
    _, recorded = figures_of(run.events(), policy=own, load=1.0, seed=run.manifest.seed or 0, schedules={})
    return Replay(
        run_id=run.manifest.run_id,
        recorded_kind=run.manifest.kind,
        recorded=recorded,
        rows=rows,
        error=_error(recorded, rows[0].figures),
        assumptions=tuple(assumptions_of(source)),
    )


def replay_one(
    source: Source,
    policy: str,
    tell: Callable[[], None] = lambda: None,
) -> CellFigures:
    """The run under one policy."""
    events = replay_events(source, policy, tell)
    summary, figures = figures_of(
        events, policy=policy, load=1.0, seed=source.run.manifest.seed or 0, schedules={}
    )
    if summary.faults:
        raise SageError(f"the replay's log cannot be true: {summary.faults[0]}; this is a bug in SAGE")
    return figures


def replay_events(
    source: Source,
    policy: str,
    tell: Callable[[], None] = lambda: None,
    *,
    varied: Varied | None = None,
    at_once: bool = False,
) -> list[Event]:
    """The log of a replay under a policy.

    Args:
        source: the run.
        policy: as text.
        tell: called with the end of each job.
        varied: pool -> how many endpoints it has instead, and how many calls at once each takes; None: as they had.
        at_once: all jobs come together.
    """
    with tempfile.TemporaryDirectory(prefix="sage-replay-") as home:
        settings = Settings(home=Path(home), engines={}, indexes={})
        run_virtual(_carried_out(source, policy, settings, tell, varied or {}, at_once=at_once))
        (folder,) = settings.runs_dir.iterdir()
        return list(read_events(folder / "events.jsonl"))


async def _carried_out(
    source: Source,
    policy: str,
    settings: Settings,
    tell: Callable[[], None],
    varied: Varied,
    *,
    at_once: bool,
) -> None:
    arguments = source.arguments
    async with Session(
        engines=_engines(source, varied),
        policy=policy,
        settings=settings,
        max_inflight=arguments.get("max_inflight"),
        seed=source.run.manifest.seed or 0,
        clock=asyncio.get_running_loop().time,
        tenants=arguments.get("tenants") or {},
        kind="replayed",
    ) as session:
        for pipeline in source.replayed.pipelines.values():
            await session.ready(pipeline)
        if arguments.get("pulled", True) and not at_once:
            await _pulled(session, source, tell)
        else:
            await _asked(session, source, tell, at_once=at_once)


def _said(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of every job, each by its record."""
    return {
        "tenant": "{replayed_tenant}",
        "priority": "{replayed_priority}",
        "deadline_s": "{replayed_deadline_s}",
        "expire": bool(arguments.get("expire", False)),
        "timeout_s": arguments.get("timeout_s"),
    }


async def _asked(session: Session, source: Source, tell: Callable[[], None], *, at_once: bool) -> None:
    """Jobs that were asked for one by one come when they came."""
    jobs, said = source.recorded.jobs, _said(source.arguments)

    async def carry(job: RecordedJob) -> None:
        try:
            await session.call(source.replayed.pipelines[job.pipeline], source.replayed.record(job), **said)
        except SageError:
            pass  # the log says how it ended
        finally:
            tell()

    start = jobs[0].arrived
    await open_loop(iter([(0.0 if at_once else job.arrived - start, job) for job in jobs]), carry)


async def _pulled(session: Session, source: Source, tell: Callable[[], None]) -> None:
    """Jobs that were pulled from a source come as places become free, each pipeline from its first on."""
    by_pipeline: dict[str, list[RecordedJob]] = {}
    for job in source.recorded.jobs:
        by_pipeline.setdefault(job.pipeline, []).append(job)
    start = source.recorded.jobs[0].arrived
    limits = source.arguments.get("parts") or {}

    async def records(jobs: list[RecordedJob]) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(jobs[0].arrived - start)
        earlier = jobs[0].arrived
        for job in _from(jobs):
            gap_s = min(job.arrived - earlier, PULL_S)
            if gap_s > 0:
                await asyncio.sleep(gap_s)
            earlier = job.arrived
            yield source.replayed.record(job)

    parts = [
        (
            source.replayed.pipelines[name],
            records(jobs),
            {"max_inflight": limits.get(name, source.arguments.get("max_inflight")) or MAX_INFLIGHT},
        )
        for name, jobs in by_pipeline.items()
    ]
    await session.run_all(parts, on_end=lambda _outcome: tell(), **_said(source.arguments))


def _from(jobs: Sequence[RecordedJob]) -> Iterator[RecordedJob]:
    return iter(sorted(jobs, key=lambda job: job.number))


def _engines(source: Source, varied: Varied) -> dict[str, list[Engine]]:
    recorded, done = source.recorded, dict[str, int]()
    pools: dict[str, list[Engine]] = {}
    for pool, had in recorded.pools.items():
        endpoints, limit = varied.get(pool, (None, None))
        names = had if endpoints is None else [f"{pool}-{number}" for number in range(1, endpoints + 1)]
        pools[pool_of(pool)] = [
            _engine(source, name, limit or recorded.limits[had[number % len(had)]], done)
            for number, name in enumerate(names)
        ]
    return pools


def _engine(source: Source, name: str, limit: int, done: dict[str, int]) -> Engine:
    if source.profile is None:
        return ReplayEngine(name, limit, source.replayed.calls, done)
    options = EmulatedOptions(output="max", limit=limit, pieces="first")
    emulated = EmulatedEngine(load_profile(source.profile), options, name=name)
    return ProfiledEngine(emulated, source.replayed.calls)


# --- what is said about it -----------------------------------------------------------------------------

#: Figures that are compared with what was recorded.
COMPARED = ("mean", "p50", "p95", "p99")


def _error(recorded: CellFigures, own: CellFigures) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in COMPARED:
        was, now = getattr(recorded.e2e_sched_s, name), getattr(own.e2e_sched_s, name)
        if was and now is not None:
            found[f"{name}_s"] = now / was - 1
    if recorded.in_time.share is not None and own.in_time.share is not None:
        found["in_time"] = own.in_time.share - recorded.in_time.share
    if recorded.jobs_per_s and own.jobs_per_s is not None:
        found["jobs_per_s"] = own.jobs_per_s / recorded.jobs_per_s - 1
    return found


def assumptions_of(source: Source) -> Iterator[str]:
    """What a replay takes for granted."""
    recorded = source.recorded
    if source.profile is None:
        yield (
            "each call takes as long as it did, whatever runs beside it; with a calibrated --profile it would "
            "depend on that"
        )
    else:
        yield (
            f"calls take the time that profile {source.profile!r} gives them, for as many tokens as they had; "
            "see the error that its calibration printed"
        )
    if source.arguments.get("pulled", True):
        yield "records were there whenever a place was free, as those of a file are"
    else:
        yield "jobs come when they came, whatever became of earlier ones"
    yield "calls inside a step follow the calls they followed; steps of Python take the time they took"
    if recorded.reused:
        yield f"the {recorded.reused} calls that were not made, because their answer was there, are not made either"
    stand_ins = sum(job.stands_in for job in recorded.jobs)
    if stand_ins:
        yield f"{stand_ins} jobs that were refused would have done what the nearest done job of their kind did"
    if recorded.left_out:
        yield f"{recorded.left_out} jobs that were cancelled, or like no other, are left out"
