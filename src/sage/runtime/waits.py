"""Why tasks waited: a pure function of a run's event log, in which every call says what it was started by.

A task waits while others get the places it could have had. Each stretch of its wait, from one start in its pool
to the next, is put down to why that start was not its own; before the first such start, every place was taken.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from sage.events import EndpointSwitched, Event, JobEnded, TaskEnded
from sage.runtime.manifest import Manifest
from sage.runtime.trail import Call, Trail, Trails

__all__ = [
    "CAUSES",
    "Cause",
    "Claim",
    "JobHold",
    "PoolWaits",
    "Started",
    "Waits",
    "down_times",
    "has_waited",
    "holds",
    "owner_of",
    "reason",
    "waits",
]

#: Why a task waited -> in words. The first four are about places, and add up with ``batch`` and ``breaker`` to all
#: of the time in the queue.
CAUSES: Mapping[str, str] = {
    "full": "every place was taken, and none became free",
    "ahead": "a place went to a task that came before it",
    "order": "a place went to a task that came later, by the order",
    "share": "a place went to another owner, whose turn it was",
    "late": "it could not be in time any more, and stepped aside",
    "batch": "it was kept for company in a batch",
    "breaker": "every endpoint was taken out, because calls to it failed",
    "pause": "it paused before another attempt",
}

LEAST_S = (
    1e-4  # where a log does not say, a wait shorter than this is none: to send a call takes time as well
)
ROUNDING_S = 1e-9


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One reason to wait."""

    cause: str  # see CAUSES
    seconds: float  # over all tasks
    tasks: int  # that waited for it


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Whose calls held the places while others waited, or got them before those who came first."""

    tenant: str
    pipeline: str
    seconds: float  # of others' waiting


class PoolWaits(msgspec.Struct, frozen=True, kw_only=True):
    """The waiting for one pool."""

    pool: str
    tasks: int  # that were started
    waited: int  # of them, those that did not start at once
    seconds: float  # of waiting in its queue, all tasks
    causes: tuple[Cause, ...]  # the longest first
    holders: tuple[
        Claim, ...
    ]  # whose calls ran while tasks waited; adds up to ``seconds`` where anybody's did
    overtakers: tuple[Claim, ...]  # who got places before tasks that had come earlier
    limits: (
        tuple[int, int] | None
    )  # the least and the most calls at once that an endpoint got; None: not known
    others: (
        float  # calls of other runs on its endpoints, on average of this run's starts where somebody waited
    )


class JobHold(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that waited outside, by the rule of admission that kept them."""

    rule: str
    seconds: float
    jobs: int


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """Why jobs and tasks of a run waited."""

    is_known: bool  # the log says what calls were started by; older logs do not
    outside: tuple[JobHold, ...]  # before jobs were let in
    pools: tuple[PoolWaits, ...]
    pause: Cause  # between attempts, all pools

    @property
    def seconds(self) -> float:
        """All of it."""
        queued = math.fsum(pool.seconds for pool in self.pools)
        return queued + self.pause.seconds + math.fsum(hold.seconds for hold in self.outside)


class Started(msgspec.Struct, frozen=True):
    """One call of one task, with whose it was."""

    call: Call
    tenant: str
    pipeline: str

    @property
    def task(self) -> TaskEnded:
        """Its event."""
        return self.call.task


def owner_of(policy: str) -> str:
    """Who takes turns under a policy: "pipeline" or "tenant"; "" if nobody does."""
    if "share=fair_pipelines" in policy:
        return "pipeline"
    return "tenant" if policy.startswith("slack") or "share=weighted_fair" in policy else ""


def reason(mine: Started, other: Started, turns: str) -> str:
    """Why a place went to another task and not to one that waited: one of CAUSES.

    Args:
        mine: the task that waited.
        other: the one that got the place.
        turns: who takes turns, see ``owner_of``.
    """
    if turns and getattr(mine, turns) != getattr(other, turns):
        return "share"
    if 0 < _aside_s(mine) >= mine.task.dispatched - other.task.dispatched and not _aside_s(other):
        return "late"
    return "ahead" if _came(other) <= _came(mine) else "order"


def _aside_s(one: Started) -> float:
    return 0.0 if one.task.why is None else one.task.why.aside_s


def _came(one: Started) -> tuple[float, int]:
    """When it came to the queue; of those that came together, in the order of their jobs."""
    return one.call.queue[0], one.task.job


def has_waited(call: Call) -> bool:
    """Whether a call was kept waiting, and not just decided and sent."""
    why = call.task.why
    return call.queue[1] - call.queue[0] > LEAST_S if why is None else why.queued_s > ROUNDING_S


def waits(events: Iterable[Event], manifest: Manifest | None = None) -> Waits:
    """Why the jobs and tasks of a run waited. Keeps a few numbers of every call in memory."""
    study = _Study(manifest)
    for event in events:
        study.add(event)
    return study.found()


class _Study:
    def __init__(self, manifest: Manifest | None) -> None:
        self.turns = owner_of(manifest.policy) if manifest is not None else ""
        self.engines = dict(manifest.engines) if manifest is not None else {}
        self.trails = Trails()
        self.started: defaultdict[str, list[Started]] = defaultdict(list)
        self.switches: defaultdict[str, list[EndpointSwitched]] = defaultdict(list)
        self.outside: defaultdict[str, list[float]] = defaultdict(list)
        self.pauses: list[float] = []

    def add(self, event: Event) -> None:
        if isinstance(event, EndpointSwitched):
            self.switches[event.pool].append(event)
        trail = self.trails.add(event)
        if trail is not None:
            self._job(trail)

    def _job(self, trail: Trail) -> None:
        for rule, seconds in holds(trail.job):
            self.outside[rule].append(seconds)
        for step in trail.steps:
            for call in step.calls:
                self.started[call.task.pool].append(Started(call, trail.job.tenant, trail.job.pipeline))
                start, end = call.pause
                if end - start > LEAST_S:
                    self.pauses.append(end - start)

    def found(self) -> Waits:
        every = [one for started in self.started.values() for one in started]
        return Waits(
            is_known=not every or any(one.task.why is not None for one in every),
            outside=tuple(
                JobHold(rule=rule, seconds=math.fsum(times), jobs=len(times))
                for rule, times in sorted(self.outside.items(), key=lambda item: -math.fsum(item[1]))
            ),
            pools=tuple(
                _pool(pool, started, self.turns, down_times(self.switches[pool], self.engines.get(pool, ())))
                for pool, started in sorted(self.started.items())
            ),
            pause=Cause(cause="pause", seconds=math.fsum(self.pauses), tasks=len(self.pauses)),
        )


def holds(job: JobEnded) -> list[tuple[str, float]]:
    """What kept a job outside, and for how long each."""
    end = job.t if job.admitted is None else job.admitted
    until = [*(hold.since for hold in job.held[1:]), end]
    return [(hold.rule, after - hold.since) for hold, after in zip(job.held, until, strict=False)]


def down_times(switches: Sequence[EndpointSwitched], endpoints: Sequence[str]) -> list[tuple[float, float]]:
    """When every endpoint of a pool was taken out by its breaker."""
    healthy = set(endpoints) | {switch.endpoint for switch in switches}
    found, since = list[tuple[float, float]](), None
    for switch in switches:
        if switch.state == "healthy":
            healthy.add(switch.endpoint)
        else:
            healthy.discard(switch.endpoint)
        if not healthy and since is None:
            since = switch.t
        elif healthy and since is not None:
            found.append((since, switch.t))
            since = None
    return [*found, (since, math.inf)] if since is not None else found


# --- one pool ------------------------------------------------------------------------------------------

Floats = np.ndarray[Any, np.dtype[np.float64]]


class _Columns:
    """The calls of one pool by the time they started."""

    def __init__(self, started: Sequence[Started], turns: str, down: Sequence[tuple[float, float]]) -> None:
        self.started = sorted(started, key=lambda one: one.task.dispatched)
        names: dict[str, int] = {}
        self.queued: Floats = np.array([one.call.queue[0] for one in self.started])
        self.sent: Floats = np.array([one.task.dispatched for one in self.started])
        self.ended: Floats = np.array([one.task.t for one in self.started])
        held = [0.0 if one.task.why is None else one.task.why.held_s for one in self.started]
        self.open: Floats = np.minimum(self.queued + np.array(held), self.sent)
        self.aside: Floats = np.array([_aside_s(one) for one in self.started])
        self.job = np.array([one.task.job for one in self.started])
        owners = [getattr(one, turns) if turns else "" for one in self.started]
        self.owner = np.array([names.setdefault(owner, len(names)) for owner in owners])
        self._down = [(low, min(high, 1e300)) for low, high in down]

    def down_until(self, times: Floats) -> Floats:
        """How long the pool had been down, in all, by each time."""
        total = np.zeros_like(times)
        for low, high in self._down:
            total += np.clip(times, low, high) - low
        return total


def _pool(pool: str, started: list[Started], turns: str, down: Sequence[tuple[float, float]]) -> PoolWaits:
    columns = _Columns(started, turns, down)
    seconds: defaultdict[str, float] = defaultdict(float)
    tasks: Counter[str] = Counter()
    passed = np.zeros(len(started))  # seconds of others' waiting after each start that was not their turn
    waited = columns.sent - columns.queued
    who = np.flatnonzero([has_waited(one.call) for one in columns.started])
    for number in who:
        for cause, length in _task(columns, int(number), passed):
            if length > ROUNDING_S:
                seconds[cause] += length
                tasks[cause] += 1
    limits = [one.task.why.limit for one in started if one.task.why is not None and one.task.why.limit]
    return PoolWaits(
        pool=pool,
        tasks=len(started),
        waited=len(who),
        seconds=float(waited[who].sum()),
        causes=tuple(
            Cause(cause=cause, seconds=total, tasks=tasks[cause])
            for cause, total in sorted(seconds.items(), key=lambda item: -item[1])
        ),
        holders=_claims(columns.started, _held_up(columns)),
        overtakers=_claims(columns.started, passed),
        limits=(min(limits), max(limits)) if limits else None,
        others=_others(columns),
    )


def _task(columns: _Columns, number: int, passed: Floats) -> Iterable[tuple[str, float]]:
    """What one task waited for, each with its length; what went to later tasks is added to ``passed``."""
    start, sent = columns.open[number], columns.sent[number]
    yield "batch", float(start - columns.queued[number])
    low = int(np.searchsorted(columns.sent, start, "right"))
    high = int(np.searchsorted(columns.sent, sent, "left"))
    if start >= sent:
        return
    high = max(low, high)
    marks = np.concatenate(([start], columns.sent[low:high], [sent]))
    down = np.diff(columns.down_until(marks))
    lengths = np.diff(marks) - down
    yield "breaker", float(down.sum())
    yield "full", float(lengths[0])
    others, after = slice(low, high), lengths[1:]
    is_other = columns.owner[others] != columns.owner[number]
    stood_aside = (columns.aside[number] > 0) & (columns.aside[number] >= sent - columns.sent[others])
    is_late = ~is_other & stood_aside & (columns.aside[others] == 0)
    is_later = (columns.queued[others] > columns.queued[number]) | (
        (columns.queued[others] == columns.queued[number]) & (columns.job[others] > columns.job[number])
    )
    is_ahead = ~is_other & ~is_late & ~is_later
    yield "share", float(after[is_other].sum())
    yield "late", float(after[is_late].sum())
    yield "ahead", float(after[is_ahead].sum())
    yield "order", float(after[~is_other & ~is_late & is_later].sum())
    passed[others] += np.where(is_later, after, 0.0)


def _held_up(columns: _Columns) -> Floats:
    """Each call's part of the others' waiting: while it ran, the number that waited over the number that ran."""
    times = np.concatenate((columns.queued, columns.sent, columns.sent, columns.ended))
    ones = np.ones(len(columns.sent))
    none = np.zeros(len(columns.sent))
    order = np.argsort(times, kind="stable")
    times = times[order]
    waiting = np.cumsum(np.concatenate((ones, -ones, none, none))[order])
    running = np.cumsum(np.concatenate((none, none, ones, -ones))[order])
    spans = np.diff(times, append=times[-1:])
    rate = np.divide(waiting, running, out=np.zeros_like(waiting), where=running > 0.5)
    total = np.concatenate(([0.0], np.cumsum(rate * spans)))
    at = np.searchsorted(times, columns.sent, "left"), np.searchsorted(times, columns.ended, "left")
    held: Floats = total[at[1]] - total[at[0]]
    return held


def _claims(started: Sequence[Started], seconds: Floats) -> tuple[Claim, ...]:
    by_owner: defaultdict[tuple[str, str], float] = defaultdict(float)
    for one, part in zip(started, seconds.tolist(), strict=True):
        if part > ROUNDING_S:
            by_owner[one.tenant, one.pipeline] += part
    return tuple(
        Claim(tenant=tenant, pipeline=pipeline, seconds=total)
        for (tenant, pipeline), total in sorted(by_owner.items(), key=lambda item: -item[1])
    )


def _others(columns: _Columns) -> float:
    """Calls that endpoints had beside those in this log: of other runs of the session."""
    marks: list[tuple[float, int, str, float]] = []
    for one in columns.started:
        task, part = one.task, 1 / one.task.batch
        marks += [(task.t, 0, task.endpoint, -part), (task.dispatched, 1, task.endpoint, part)]
    own: defaultdict[str, float] = defaultdict(float)
    at: dict[tuple[str, float], float] = {}
    for time, _, endpoint, change in sorted(marks):
        own[endpoint] += change
        at[endpoint, time] = own[endpoint]
    beside = [
        max(0.0, one.task.why.in_flight - round(at[one.task.endpoint, one.task.dispatched]))
        for one in columns.started
        if one.task.why is not None and one.task.why.limit
    ]
    return math.fsum(beside) / len(beside) if beside else 0.0
