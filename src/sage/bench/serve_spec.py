"""What ``sage bench serve`` is told, and the load that is drawn from it before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from sage.bench.arrivals import Arrivals, Schedule, Timetable, draw
from sage.bench.prompts import Prompts, Sampling
from sage.bench.slo import Slo

__all__ = ["Plan", "Serve", "Target", "plan_of"]

LEAST_WARMUPS = 10  # of an open loop, whose concurrency nobody knows before
WARMUP_S = 2.0  # of an open loop at its rate


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server, as far as it is no part of a pipeline."""

    base_url: str  # up to /v1
    model: str | None = None
    api: str = "chat"
    count_along: bool = False  # ask for token counts with every piece
    extra: Mapping[str, Any] = {}  # further fields of every request

    def address(self, timeout_s: float) -> str:
        """What ``open_engine`` takes; ``timeout_s`` is how long any answer may take, to its first token and its last."""
        said: dict[str, Any] = {
            "model": self.model,
            "api": self.api,
            "usage": "each" if self.count_along else None,
        }
        options = {name: value for name, value in said.items() if value is not None}
        options |= {"timeout_s": f"{timeout_s:g}", "stall_s": f"{timeout_s:g}"}
        if self.extra:
            options["extra"] = json.dumps(self.extra)
        return f"openai:{self.base_url.rstrip('/')}?{urlencode(options)}"


class Serve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One load, as it stands in the manifest. Either ``target`` or ``pipeline`` says what is loaded."""

    arrivals: Arrivals
    target: Target | None = None
    pipeline: str | None = None  # as YAML, or its name
    records: str | None = None  # of a pipeline: the file they come from
    options: Mapping[str, Any] = {}  # of a pipeline's jobs
    session: Mapping[str, Any] = {}  # of a pipeline: engines, indexes and policy, as JSON data
    prompts: Prompts = Prompts()
    sampling: Sampling = Sampling()
    warmups: int | None = None  # None: as many as the concurrency
    max_concurrency: int | None = None  # of an open loop: calls at once; further requests wait here
    slo: Slo | None = None
    seed: int = 0

    def num_warmups(self, schedule: Schedule) -> int:
        """As many as the concurrency, where it is known before; else for so long at the rate."""
        most = schedule.clients or self.max_concurrency
        if self.warmups is not None or most is not None:
            return self.warmups if self.warmups is not None else most or 0
        at_rate = 0 if self.arrivals.process == "burst" else round((self.arrivals.rate or 0.0) * WARMUP_S)
        return max(LEAST_WARMUPS, at_rate)


@dataclass(frozen=True, slots=True)
class Plan:
    """A load as drawn."""

    spec: Serve
    table: Timetable
    seed: str
    arguments: Mapping[str, Any]  # for the manifest

    @property
    def schedule(self) -> Schedule:
        """Of the counted requests."""
        return self.table.schedule


def plan_of(spec: Serve, repeat: int = 0) -> Plan:
    """Draw a load. Warm-up requests come first, and the counted ones after them without a pause.

    Raises:
        InputError: the arrivals or the prompts cannot be.
    """
    spec.prompts.check()
    seed = f"{spec.seed}/{repeat}"
    schedule = draw(spec.arrivals, seed)
    table = _with_warmup(spec, schedule, seed)
    arguments = {
        **msgspec.to_builtins(spec),
        "repeat": repeat,
        "num_warmups": table.num_warmups,
        "num_requests": len(table.due),
        "schedule_sha256": schedule.sha256,
    }
    return Plan(spec, table, seed, arguments)


def _with_warmup(spec: Serve, schedule: Schedule, seed: str) -> Timetable:
    """Of an open loop, warm-up requests come at its rate; where it has none, all at the beginning."""
    warmups = spec.num_warmups(schedule)
    span_s = schedule.times[-1] - schedule.times[0]
    rate = spec.arrivals.rate or (len(schedule.times) / span_s if span_s > 0 else None)
    if not warmups:
        return Timetable(schedule, schedule.times)
    if schedule.clients is not None or rate is None or spec.arrivals.process == "burst":
        return Timetable(schedule, ((0.0,) * warmups) + schedule.times)
    before = draw(Arrivals(rate=rate, jobs=warmups), f"{seed}/warm-up").times
    return Timetable(schedule, (*before, *(warmups / rate + time for time in schedule.times)))
