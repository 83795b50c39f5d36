"""Rules of admission that put jobs off or refuse them: stagger, token_bucket, feasible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from sage.errors import InputError
from sage.scheduling.admit import ADMITS, Refusal, Rule
from sage.scheduling.views import ClusterView, Forecast, JobView

__all__ = ["Feasible", "Stagger", "TokenBucket"]


class Stagger(Rule):
    """Jobs are let in one after the other, so many seconds apart; 0: as far apart as the engines need for one.

    The computed distance is the work expected of a job over the calls at once of the pool it keeps busiest.

    When: many jobs come at once and would all run their first steps together, then all their last. When not:
    jobs come spread out already. Source: the staggered starts of workflow experiments, made a rule.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        if seconds < 0:
            raise InputError(f"admit stagger: seconds is {seconds}, expected at least 0")
        self._seconds = seconds
        self._free = float("-inf")  # when the next may come

    def judge(self, job: JobView, forecast: Forecast, cluster: ClusterView) -> float:  # noqa: ARG002 - all alike
        """The time of its turn."""
        turn = max(cluster.now, self._free)
        self._free = turn + (self._seconds or _busiest_s(forecast.work_s, cluster))
        return turn


class TokenBucket(Rule):
    """Each tenant gets so many tokens per second, in and out; what it saves up is at most ``burst_s`` of it.

    A job reserves the p90 of what its pipeline's jobs used, and is settled with the true count when it is over.
    It is put off until its tokens are there; if that is longer than ``wait_s`` or past its deadline, it is
    refused, unless it was pulled from a source.

    When: tenants have bought a rate. When not: capacity should not lie idle while anyone has work; see the share
    ``weighted_fair``. Source: the token bucket (Turner, "New Directions in Communications", 1986), as virtual
    scheduling. A tenant's own rate (``tokens_per_s``) takes the place of ``rate`` for it.
    """

    def __init__(self, rate: float = 1000.0, burst_s: float = 10.0, wait_s: float = 30.0) -> None:
        for name, value in (("rate", rate), ("burst_s", burst_s), ("wait_s", wait_s)):
            if value <= 0:
                raise InputError(f"admit token_bucket: {name} is {value}, expected more than 0")
        self._rate = rate
        self._burst_s = burst_s
        self._wait_s = wait_s
        self._terms: dict[str, tuple[float, float]] = {}  # tenant -> its rate, and what it may save up
        self._levels: dict[str, tuple[float, float]] = {}  # tenant -> tokens saved up, at a time
        self._reserved: dict[int, tuple[str, float]] = {}  # job -> its tenant, and what it has yet to use

    def judge(self, job: JobView, forecast: Forecast, cluster: ClusterView) -> Refusal | float:
        """When its tokens are there, or that this is too late."""
        now, tenant = cluster.now, job.tenant
        rate = self._rate if job.tokens_per_s is None else job.tokens_per_s
        if math.isinf(rate):
            return now
        burst = rate * self._burst_s if job.burst_tokens is None else job.burst_tokens
        self._terms[tenant] = rate, burst
        saved = self._saved(tenant, now) - forecast.tokens_p90
        wait_s = max(0.0, -saved / rate)
        left_s = self._wait_s if job.deadline is None else min(self._wait_s, job.deadline - now)
        if wait_s > left_s and not job.pulled:
            return Refusal(f"tenant {tenant!r} is above its {rate:g} tokens per second", wait_s)
        self._levels[tenant] = (saved, now)
        self._reserved[job.id] = (tenant, forecast.tokens_p90)
        return now + wait_s

    def served(self, job: int, pool: str, service_s: float, tokens: float) -> None:  # noqa: ARG002 - tokens only
        """Use up what is reserved."""
        if job in self._reserved:
            tenant, left = self._reserved[job]
            self._reserved[job] = (tenant, left - tokens)

    def over(self, job: int) -> None:
        """Give back what was not used, or take what was used beyond."""
        tenant, left = self._reserved.pop(job, ("", 0.0))
        if tenant in self._levels:
            level, at = self._levels[tenant]
            self._levels[tenant] = (min(self._terms[tenant][1], level + left), at)

    def _saved(self, tenant: str, now: float) -> float:
        rate, burst = self._terms[tenant]
        if tenant not in self._levels:
            self._forget_the_full(now)
            return burst
        level, at = self._levels[tenant]
        return min(burst, level + (now - at) * rate)

    def _forget_the_full(self, now: float) -> None:
        if len(self._levels) % 64 == 63:
            busy = {tenant for tenant, _ in self._reserved.values()}
            full = [t for t in self._levels if t not in busy and self._saved(t, now) >= self._terms[t][1]]
            for tenant in full:
                del self._levels[tenant], self._terms[tenant]


#: A job without a deadline takes its turn like one that is due so long after its arrival (as in the order slack).
RELAXED_S = 60.0


#: Deadlines are looked at on a grid of so many seconds, so that the work due is a short list.
GRID_S = 0.25

#: What is overdue must be done after so many marks more.
PATIENCE = int(RELAXED_S / GRID_S)


class Demand(NamedTuple):
    """What a job that asks to be let in would need in one pool."""

    tenant: str
    deadline: float
    mark: int  # the last one of the grid before its deadline
    path_s: float
    work_s: float


class Promise(NamedTuple):
    """The work of a job that was let in: half of it is due when half of its path must be behind it, half in the end."""

    tenant: str
    marks: tuple[int, int]  # of the grid
    left: dict[str, list[float]]  # pool -> service times to come of each half


class Backlog:
    """The work ahead in one pool: tenant -> the mark of the grid its jobs are due after -> service times."""

    def __init__(self) -> None:
        self._due: dict[str, dict[int, float]] = {}  # tenant -> mark -> seconds
        self._everyone: dict[int, float] = {}  # mark -> seconds of all tenants

    def add(self, tenant: str, mark: int, work_s: float) -> None:
        """Take in work, or take it out if it is negative."""
        due = self._due.setdefault(tenant, {})
        for marks in (due, self._everyone):
            marks[mark] = marks.get(mark, 0.0) + work_s
            if marks[mark] <= 1e-9:  # a rounding error
                del marks[mark]
        if not due:
            del self._due[tenant]

    def late_s(self, job: Demand, now: float, slots: int, weights: Mapping[str, float]) -> float:
        """By how much the job, or work due after it, would be late if it were let in; 0 or less: nothing would.

        Where tenants share fairly, it is enough that the tenant's own work fits into its share.
        """
        late_s = _late_s(self._everyone, job, now, slots)
        if weights and late_s > 0:
            own = weights.get(job.tenant, 1.0)
            others = sum(weights.get(name, 1.0) for name in self._due if name != job.tenant)
            late_s = min(
                late_s, _late_s(self._due.get(job.tenant, {}), job, now, slots * own / (own + others))
            )
        return late_s


def _late_s(due: Mapping[int, float], job: Demand, now: float, slots: float) -> float:
    """The demand bound: at every mark, all that is due until then must fit into the slots until then.

    What is overdue steps aside, for as long as the order ``slack`` lets it wait.
    """
    first, last = int(now / GRID_S), job.mark
    before_s, later = 0.0, []
    for mark, work_s in due.items():
        if mark < first:
            mark += PATIENCE  # noqa: PLW2901 - its second deadline
        if mark <= last:
            before_s += work_s
        else:
            later.append((mark, work_s))
    late_s = before_s / slots + job.path_s - (job.deadline - now)
    demand_s = before_s + job.work_s
    later.sort()
    for mark, work_s in later:
        demand_s += work_s
        by_then_s = demand_s / slots - ((mark + 1) * GRID_S - now)
        if by_then_s > late_s:
            late_s = by_then_s
    return late_s


class Feasible(Rule):
    """A job is refused if it would be late, or would make a job late that was let in before it.

    Its path and the work due before it must fit into the time to its deadline, and all work due later into the
    time until then; half of a job's work is due when half of its path must be behind it. What is overdue counts
    again when it has waited for a minute. What is expected comes from earlier jobs of its pipeline; before there were any, and for jobs without a
    deadline, everyone is let in. Below ``load`` of the busiest pool nothing is refused. ``margin`` stretches the
    path: above 1 is stricter.

    When: requests have deadlines and there may be more than can be served: those let in are then in time. When
    not: late answers are worth as much as none refused. It counts on an order that heeds deadlines (``slack``,
    ``edf``). Source: admission by demand bound (Baruah, Rosier and Howell, 1990), on learned figures.
    """

    def __init__(self, margin: float = 1.25, load: float = 0.8, *, is_fair: bool) -> None:
        if margin <= 0:
            raise InputError(f"admit feasible: margin is {margin}, expected more than 0")
        if not 0 <= load <= 1:
            raise InputError(f"admit feasible: load is {load}, expected 0 to 1")
        self._margin = margin
        self._load = load
        self._is_fair = is_fair  # tenants share by weight
        self._backlogs: dict[str, Backlog] = {}
        self._weights: dict[str, float] = {}
        self._jobs: dict[int, Promise] = {}

    def judge(self, job: JobView, forecast: Forecast, cluster: ClusterView) -> Refusal | None:
        """Whether it can be in time."""
        if job.deadline is None or forecast.path_s == 0 or self._is_calm(forecast, cluster):
            return None
        weights = self._weights if self._is_fair else {}
        path_s = self._margin * forecast.path_s
        late_s = path_s - (job.deadline - cluster.now)
        for pool, work_s in forecast.work_s.items():
            seen, backlog = cluster.pools.get(pool), self._backlogs.get(pool)
            if seen is not None and seen.slots and backlog is not None:
                demand = Demand(job.tenant, job.deadline, int(job.deadline / GRID_S), path_s, work_s)
                late_s = max(late_s, backlog.late_s(demand, cluster.now, seen.slots, weights))
        if late_s <= 0:
            return None
        hopeless = path_s >= job.deadline - job.arrived
        return Refusal(
            f"it, or a job let in before it, would be {late_s:.3g} s late", None if hopeless else late_s
        )

    def _is_calm(self, forecast: Forecast, cluster: ClusterView) -> bool:
        seen = [cluster.pools[pool] for pool in forecast.work_s if pool in cluster.pools]
        return all(pool.in_flight < self._load * pool.slots for pool in seen if pool.slots)

    def passed(self, job: JobView, forecast: Forecast) -> None:
        """Its work is ahead of others from now on."""
        due = job.arrived + RELAXED_S if job.deadline is None else job.deadline
        half_way = int((due - self._margin * forecast.path_s / 2) / GRID_S)
        marks = (half_way, int(due / GRID_S))
        halves = {pool: [work_s / 2, work_s / 2] for pool, work_s in forecast.work_s.items()}
        self._jobs[job.id] = Promise(job.tenant, marks, halves)
        self._weights[job.tenant] = job.weight
        if len(self._weights) > 2 * len(self._jobs) + 64:
            here = {promise.tenant for promise in self._jobs.values()}
            self._weights = {tenant: self._weights[tenant] for tenant in here}
        for pool, work in halves.items():
            backlog = self._backlogs.setdefault(pool, Backlog())
            for mark, work_s in zip(marks, work, strict=True):
                backlog.add(job.tenant, mark, work_s)

    def served(self, job: int, pool: str, service_s: float, tokens: float) -> None:  # noqa: ARG002 - time only
        """Some of its work is done."""
        promise = self._jobs.get(job)
        if promise is None or pool not in promise.left:
            return
        left = promise.left[pool]
        for half, mark in enumerate(promise.marks):
            done_s = min(service_s, left[half])
            if done_s:
                left[half] -= done_s
                service_s -= done_s
                self._backlogs[pool].add(promise.tenant, mark, -done_s)

    def over(self, job: int) -> None:
        """What it did not need is not ahead of anybody."""
        promise = self._jobs.pop(job, None)
        if promise is None:
            return
        for pool, left in promise.left.items():
            for mark, work_s in zip(promise.marks, left, strict=True):
                if work_s:
                    self._backlogs[pool].add(promise.tenant, mark, -work_s)
        if not self._jobs:  # nobody is ahead: rounding errors leave with the last
            self._backlogs.clear()
            self._weights.clear()


def _busiest_s(work_s: Mapping[str, float], cluster: ClusterView) -> float:
    """The time between jobs at which the busiest pool just keeps up."""
    pools = ((cluster.pools[pool], marks) for pool, marks in work_s.items() if pool in cluster.pools)
    return max((marks / pool.slots for pool, marks in pools if pool.slots), default=0.0)


ADMITS["stagger"] = Stagger
ADMITS["token_bucket"] = TokenBucket
ADMITS["feasible"] = Feasible
