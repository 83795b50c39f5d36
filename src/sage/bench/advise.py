"""What to run with, so that jobs meet an objective: policy, endpoints, calls at once, admission; with the evidence.

Nothing here is guessed: every line of advice is a setting that was tried, in simulation of a spec or in replay of a
recorded run. Endpoints are searched by doubling and bisection, since more of them do not make jobs later; policies
are compared at the endpoints there are, and the two best are followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from sage.bench.records import Request
from sage.bench.simulation_figures import CellFigures
from sage.bench.slo import Slo
from sage.bench.stats import spread_of, wilson
from sage.bench.sweetspot import Point, SweetSpot, find_sweet_spot
from sage.bench.timing import is_good
from sage.scheduling.policy import parse_policy

__all__ = ["Advice", "Evidence", "Setting", "Trials", "advise"]

CANDIDATES = ("fifo", "load_aware", "priority", "slack")
FOLLOWED = 2  # policies whose endpoints are searched
LEAST_GAIN = 0.005  # attainment that twice the endpoints must add, or more will not help
FEW_LIMITS = 16  # below it, those between the powers of two are tried as well: a knee needs five points
LEAST_RUNS = 3  # for an interval over seeds


class Setting(msgspec.Struct, frozen=True):
    """Something to try."""

    policy: str
    endpoints: int
    limit: int | None = None  # calls at once on each; None: as the spec, or the run, has it


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that was tried, and what came of it."""

    setting: Setting
    why: Literal["policy", "endpoints", "limit", "admission"]  # what it was tried for
    attainment: float  # share of all jobs that met the objective; those refused or failed did not
    low: float  # of its 95 % interval
    high: float
    interval: Literal["seeds", "jobs"]  # t over seeds, or Wilson over jobs where there are fewer than 3 seeds
    meets: bool  # even the low end of the interval is what was wanted
    worst_class: float  # attainment of the tenant's pipeline that fared worst
    worst_name: str  # its name
    jobs: int
    rejected: int
    jobs_per_s: float | None
    p95_s: float | None  # scheduled arrival to end, of jobs done; None: too few


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to run with."""

    of: str
    kind: Literal["simulated", "replayed"]
    slo: Slo
    wanted: float
    is_met: bool
    best: Evidence  # the fewest endpoints that meet it; where nothing does, what comes nearest
    region: SweetSpot  # calls at once on each endpoint: from the knee of throughput to the most that meets it
    limits_met: tuple[int, int] | None  # the least and the most calls at once tried that meet it
    lines: tuple[str, ...]  # the advice in words
    evidence: tuple[Evidence, ...]
    assumptions: tuple[str, ...]


class Trials(Protocol):
    """Where settings can be tried."""

    of: str
    kind: Literal["simulated", "replayed"]
    endpoints: int  # there are now
    limit: int | None  # calls at once that each takes now; None: it cannot be varied
    seeds: int
    candidates: Sequence[str]  # policies that come into question beside the presets
    assumptions: Sequence[str]

    def run(self, setting: Setting, seed: int, *, at_once: bool = False) -> tuple[CellFigures, list[Request]]:
        """One run; ``at_once``: all jobs come together, to see what the endpoints can do."""


class _Search:
    def __init__(self, trials: Trials, slo: Slo, wanted: float, tell: Callable[[], None]) -> None:
        self.trials = trials
        self.slo = slo
        self.wanted = wanted
        self.tell = tell
        self.tried: dict[Setting, Evidence] = {}

    def of(self, setting: Setting, why: Literal["policy", "endpoints", "limit", "admission"]) -> Evidence:
        """What comes of a setting; tried once."""
        if setting not in self.tried:
            self.tried[setting] = self._try(setting, why)
        return self.tried[setting]

    def _try(self, setting: Setting, why: Literal["policy", "endpoints", "limit", "admission"]) -> Evidence:
        runs = []
        for seed in range(self.trials.seeds):
            runs.append(self.trials.run(setting, seed))
            self.tell()
        good = [
            [(f"{r.pipeline}/{r.tenant}", is_good(r, self.slo)) for r in requests] for _, requests in runs
        ]
        shares = [sum(was for _, was in rows) / len(rows) for rows in good]
        every = [row for rows in good for row in rows]
        mean, low, high, interval = _interval(shares, sum(was for _, was in every), len(every))
        classes: dict[str, list[bool]] = {}
        for name, was in every:
            classes.setdefault(name, []).append(was)
        figures = [cell for cell, _ in runs]
        by_class = {name: sum(was) / len(was) for name, was in classes.items()}
        worst = min(by_class, key=lambda name: by_class[name])
        return Evidence(
            setting=setting,
            why=why,
            attainment=mean,
            low=low,
            high=high,
            interval=interval,
            meets=low >= self.wanted - 1e-12,
            worst_class=by_class[worst],
            worst_name=worst,
            jobs=len(every),
            rejected=sum(cell.rejected for cell in figures),
            jobs_per_s=spread_of([cell.jobs_per_s for cell in figures]).mean,
            p95_s=spread_of([cell.e2e_sched_s.p95 for cell in figures]).mean,
        )

    def fewest(self, policy: str, most: int) -> Evidence:
        """The fewest endpoints that meet it under a policy, at most so many; else the best of those tried."""
        now = self.trials.endpoints
        low, high = 0, now
        best = self.of(Setting(policy, now), "policy")
        while not best.meets and high < most:
            low, high = high, min(most, 2 * high)
            better = self.of(Setting(policy, high), "endpoints")
            if not better.meets and better.attainment < best.attainment + LEAST_GAIN:
                return max(best, better, key=lambda one: one.attainment)
            best = better
        if not best.meets:
            return best
        while high - low > 1:
            middle = (low + high) // 2
            found = self.of(Setting(policy, middle), "endpoints")
            low, high = (low, middle) if found.meets else (middle, high)
            best = found if found.meets else best
        return best


def advise(
    trials: Trials,
    slo: Slo,
    *,
    wanted: float = 0.95,
    policies: Sequence[str] = (),
    most_endpoints: int = 64,
    tell: Callable[[], None] = lambda: None,
) -> Advice:
    """What to run with, so that a wanted share of jobs meets an objective.

    Args:
        trials: where settings are tried.
        slo: the objective.
        wanted: share of jobs, above 0 and at most 1.
        policies: to choose from; none: the presets, and those of the trials.
        most_endpoints: no more are tried.
        tell: called after each run.
    """
    search = _Search(trials, slo, wanted, tell)
    names = list(
        dict.fromkeys(str(parse_policy(policy)) for policy in policies or (*CANDIDATES, *trials.candidates))
    )
    first = [search.of(Setting(name, trials.endpoints), "policy") for name in names]
    leading = sorted(first, key=lambda one: -one.attainment)[:FOLLOWED]
    most = max(most_endpoints, trials.endpoints)
    found = [search.fewest(one.setting.policy, most) for one in leading]
    best = min(found, key=_rank)
    region, met, best = _limits(search, best)
    admission, best = _admission(search, best)
    return Advice(
        of=trials.of,
        kind=trials.kind,
        slo=slo,
        wanted=wanted,
        is_met=best.meets,
        best=best,
        region=region,
        limits_met=met,
        lines=tuple(_lines(search, best, region, met, admission)),
        evidence=tuple(search.tried.values()),
        assumptions=tuple(trials.assumptions),
    )


def _rank(one: Evidence) -> tuple[float, ...]:
    """The best first: what meets it with the fewest endpoints, else what comes nearest; then the quicker one."""
    endpoints = one.setting.endpoints if one.meets else 0
    return (not one.meets, endpoints, -one.attainment, math.inf if one.p95_s is None else one.p95_s)


def _limits(search: _Search, best: Evidence) -> tuple[SweetSpot, tuple[int, int] | None, Evidence]:
    """The region of calls at once on each endpoint, and the best setting with a limit of its own if that is needed."""
    most = search.trials.limit
    if most is None:
        return (
            SweetSpot(why="calls took what they took; with a calibrated --profile it could be told"),
            None,
            best,
        )
    powers = [2**power for power in range(int(math.log2(most)) + 1)]
    between = [3 * power // 2 for power in powers if most < FEW_LIMITS and 2 < 3 * power // 2 < most]
    limits = sorted({*powers, *between, most})
    rows = [
        search.of(Setting(best.setting.policy, best.setting.endpoints, limit), "limit")
        if limit != most
        else best
        for limit in limits
    ]
    points = []
    for limit, row in zip(limits, rows, strict=True):
        setting = Setting("fifo", best.setting.endpoints, limit)
        figures, _ = search.trials.run(setting, 0, at_once=True)
        search.tell()
        points.append(Point(float(limit), figures.jobs_per_s or 0.0, row.meets))
    good = [limit for limit, row in zip(limits, rows, strict=True) if row.meets]
    if not best.meets:
        best = max(
            [best, *rows],
            key=lambda one: (one.meets, (one.setting.limit or 0) if one.meets else one.attainment),
        )
    return find_sweet_spot(points), (good[0], good[-1]) if good else None, best


def _admission(search: _Search, best: Evidence) -> tuple[list[Evidence], Evidence]:
    """Ways to let jobs in, under the best setting; another one only where that one does not do."""
    setting, policy = best.setting, best.setting.policy
    places = setting.endpoints * (setting.limit or search.trials.limit or 1)
    variants = ["admit=max_inflight", "admit=feasible", f"admit=max_inflight(jobs={max(1, places)})"]
    rows = []
    for said in variants:
        other = str(parse_policy(_with_admit(policy, said)))
        rows.append(search.of(msgspec.structs.replace(setting, policy=other), "admission"))
    if not best.meets:
        best = max([best, *rows], key=lambda one: (one.meets, one.attainment))
    return rows, best


def _with_admit(policy: str, said: str) -> str:
    """A policy with another rule of admission, in words that can be parsed."""
    base = str(parse_policy(policy))
    parts = [part for part in _parts(base) if not part.startswith("admit=")]
    return ",".join([*parts, said])


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r",(?![^()]*\))", text) if part]


def _interval(
    shares: Sequence[float], good: int, n: int
) -> tuple[float, float, float, Literal["seeds", "jobs"]]:
    spread = spread_of(list(shares))
    if spread.mean is not None and spread.half is not None and len(shares) >= LEAST_RUNS:
        return spread.mean, max(0.0, spread.mean - spread.half), min(1.0, spread.mean + spread.half), "seeds"
    share = wilson(good, n)
    assert share.share is not None
    assert share.low is not None
    assert share.high is not None
    return share.share, share.low, share.high, "jobs"


# --- in words ------------------------------------------------------------------------------------------


def _lines(
    search: _Search,
    best: Evidence,
    region: SweetSpot,
    met: tuple[int, int] | None,
    admission: Sequence[Evidence],
) -> list[str]:
    setting = best.setting
    share = _share(best)
    many = f"{setting.endpoints} endpoint{'s' if setting.endpoints > 1 else ''}"
    lines = []
    if best.meets:
        lines.append(f"policy {setting.policy} on {many} meets it: {share}")
        if setting.endpoints > 1 and (
            fewer := search.tried.get(msgspec.structs.replace(setting, endpoints=setting.endpoints - 1))
        ):
            lines.append(f"one endpoint less does not: {_share(fewer)}")
    else:
        tried = max(row.setting.endpoints for row in search.tried.values())
        lines.append(
            f"nothing that was tried meets it at {100 * search.wanted:g} %; policy {setting.policy} on {many} comes "
            f"nearest: {share}"
        )
        if tried > search.trials.endpoints:
            lines.append(
                f"up to {tried} endpoints were tried; more do not help jobs that take too long when alone"
            )
        if best.worst_class < best.attainment:
            lines.append(f"class {best.worst_name} meets it in {100 * best.worst_class:.1f} % of its jobs")
    lines.append(_limit_line(setting, region, met))
    lines.append(_admission_line(best, admission))
    return lines


def _limit_line(setting: Setting, region: SweetSpot, met: tuple[int, int] | None) -> str:
    if setting.limit is not None:
        return f"with {setting.limit} calls at once on each endpoint, no more"
    if region.low is not None and region.high is not None:
        return f"calls at once on each endpoint: {region.low:.0f} to {region.high:.0f}, from the knee of throughput on"
    if met is not None:
        span = f"{met[0]} to {met[1]} meet it" if met[0] < met[1] else f"only {met[0]} meets it"
        return f"calls at once on each endpoint: {span}; no knee of throughput: {region.why}"
    return f"calls at once on each endpoint: as they are; {region.why or 'no limit that was tried meets it'}"


def _admission_line(best: Evidence, rows: Sequence[Evidence]) -> str:
    said = str(parse_policy(best.setting.policy).admit)
    others = ", ".join(
        f"{parse_policy(row.setting.policy).admit} {_percent(row)}"
        + (f", {row.rejected} refused" if row.rejected else "")
        for row in rows
        if row.setting != best.setting
    )
    refused = f", which refuses {best.rejected} of {best.jobs} jobs" if best.rejected else ""
    return f"admission {said}{refused}; otherwise: {others}" if others else f"admission {said}{refused}"


def _share(row: Evidence) -> str:
    return f"{100 * row.attainment:.1f} % of jobs ({100 * row.low:.1f} to {100 * row.high:.1f})"


def _percent(row: Evidence) -> str:
    return f"{100 * row.attainment:.1f} %"
