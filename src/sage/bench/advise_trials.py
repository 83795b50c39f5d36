"""Where settings are tried for advice: a spec that is simulated, or a recorded run that is replayed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from sage.bench.advise import Setting
from sage.bench.records import Request
from sage.bench.replay import Source, assumptions_of, replay_events, source_of
from sage.bench.simulation import Cell, simulate_cell
from sage.bench.simulation_figures import CellFigures, figures_of
from sage.bench.simulation_spec import Spec, pipelines_of
from sage.bench.slo import NAMES, Slo
from sage.engines.emulated import Pieces
from sage.engines.emulated_profile import load_profile
from sage.errors import InputError, nearest
from sage.runtime.runs import StoredRun

__all__ = ["RunTrials", "SpecTrials", "slo_in_seconds"]

AT_ONCE = 1e6  # a load at which all jobs come together

_OBJECTIVE = re.compile(r"(?P<name>[a-z0-9]+):(?P<value>[0-9.]+)(?P<unit>ms|s)?")


def slo_in_seconds(text: str) -> Slo:
    """An objective as text, in seconds unless it says ms: ``e2e:3 ttft:500ms``.

    >>> slo_in_seconds("e2e:3 ttft:500ms")
    Slo(ttft_s=0.5, tpot_s=None, e2e_s=3.0)

    Raises:
        InputError: a part of it is unknown, no number above 0, or said twice; or there is none.
    """
    limits: dict[str, float] = {}
    for word in text.replace(",", " ").split():
        found = _OBJECTIVE.fullmatch(word)
        name = word.partition(":")[0]
        if name not in NAMES:
            raise InputError(f"objective {word!r}: unknown name {name!r}: {nearest(name, NAMES)}")
        try:
            limit_s = float(found["value"]) / (1000 if found["unit"] == "ms" else 1) if found else 0.0
        except ValueError:
            limit_s = 0.0
        if limit_s <= 0:
            raise InputError(
                f"objective {word!r}: expected {name}:SECONDS, above 0, such as {name}:3 or {name}:500ms"
            )
        if NAMES[name] in limits:
            raise InputError(f"objective {name!r} stands twice; say it once")
        limits[NAMES[name]] = limit_s
    if not limits:
        raise InputError("there is no objective; say one, such as --slo 'e2e:3 ttft:0.5', in seconds")
    return Slo(**limits)


class SpecTrials:
    """Simulates a spec; jobs without a deadline get that of the objective.

    Args:
        spec: what to simulate.
        slo: the objective.
        pool: whose endpoints are varied; None: the only one that is used, or "llm".
        load: multiplies all rates.
        seeds: runs of each setting.

    Raises:
        InputError: several pools are used and none is named, or there is no such pool.
    """

    kind: Literal["simulated", "replayed"] = "simulated"

    def __init__(self, spec: Spec, slo: Slo, *, pool: str | None, load: float, seeds: int) -> None:
        if load <= 0:
            raise InputError(f"load is {load:g}, expected a number above 0")
        used = sorted({pool for one in pipelines_of(spec).values() for pool in one.plan.pools()})
        self.pool = _pool(pool, used)
        engine = spec.engines[self.pool]
        self.of = spec.simulate
        self.endpoints = engine.count
        self.limit: int | None = engine.limit or load_profile(engine.profile).capacity.max_seqs
        self.seeds = seeds
        self.candidates: Sequence[str] = spec.policies
        self.assumptions: Sequence[str] = (
            f"engines are emulated by profile {engine.profile!r}, no better than its calibration",
            *(() if slo.e2e_s is None else (f"jobs without a deadline are due after {slo.e2e_s:g} s",)),
        )
        self._load = load
        self._pieces: Pieces | None = "all" if slo.tpot_s is not None else None
        self._spec = _with_deadlines(spec, slo)

    def run(self, setting: Setting, seed: int, *, at_once: bool = False) -> tuple[CellFigures, list[Request]]:
        """One simulated run."""
        engine = self._spec.engines[self.pool]
        varied = msgspec.structs.replace(
            engine, count=setting.endpoints, limit=engine.limit if setting.limit is None else setting.limit
        )
        failures = tuple(
            failure
            for failure in self._spec.failures
            if failure.pool != self.pool or failure.endpoint <= setting.endpoints
        )
        spec = msgspec.structs.replace(
            self._spec, engines={**self._spec.engines, self.pool: varied}, failures=failures
        )
        return simulate_cell(
            spec, Cell(setting.policy, AT_ONCE if at_once else self._load, seed), self._pieces
        )


class RunTrials:
    """Replays a recorded run.

    Raises:
        InputError: it cannot be replayed, or several pools were used.
    """

    kind: Literal["simulated", "replayed"] = "replayed"
    seeds = 1

    def __init__(self, run: StoredRun, slo: Slo, *, pool: str | None, profile: str | None) -> None:
        if slo.tpot_s is not None:
            raise InputError("a replay has no times of single tokens; leave tpot out, or advise on a spec")
        self._source: Source = source_of(run, profile, deadline_s=slo.e2e_s)
        pools = self._source.recorded.pools
        self.pool = _pool(pool, sorted(pools))
        self.of = run.manifest.run_id
        self.endpoints = len(pools[self.pool])
        self.candidates: Sequence[str] = (run.manifest.policy,)
        self.limit = (
            None if profile is None else max(self._source.recorded.limits[name] for name in pools[self.pool])
        )
        deadlines = () if slo.e2e_s is None else (f"jobs without a deadline are due after {slo.e2e_s:g} s",)
        self.assumptions: Sequence[str] = (*assumptions_of(self._source), *deadlines)

    def run(self, setting: Setting, seed: int, *, at_once: bool = False) -> tuple[CellFigures, list[Request]]:  # noqa: ARG002 - one recorded run has one seed
        """One replay."""
        from sage.bench.records import requests_of

        varied: dict[str, Any] = {self.pool: (setting.endpoints, setting.limit)}
        events = replay_events(self._source, setting.policy, varied=varied, at_once=at_once)
        _, figures = figures_of(events, policy=setting.policy, load=1.0, seed=0, schedules={})
        return figures, requests_of(events)


def _pool(said: str | None, used: Sequence[str]) -> str:
    if said is not None:
        if said not in used:
            raise InputError(f"unknown engine pool {said!r}: {nearest(said, used)}")
        return said
    if len(used) == 1:
        return used[0]
    if "llm" in used:
        return "llm"
    raise InputError(
        f"say --pool, whose endpoints are to be advised on: {', '.join(map(repr, used)) or 'none is used'}"
    )


def _with_deadlines(spec: Spec, slo: Slo) -> Spec:
    """The spec with the objective as the deadline of jobs that have none."""
    traffic = {}
    for name, said in spec.traffic.items():
        tenant = spec.tenants.get(said.tenant)
        has_one = said.deadline_s is not None or (tenant is not None and tenant.deadline_s is not None)
        traffic[name] = said if has_one else msgspec.structs.replace(said, deadline_s=slo.e2e_s)
    return msgspec.structs.replace(spec, traffic=traffic)
