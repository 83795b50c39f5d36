"""Which steps travel together: a function of the cpu pool and the plain functions around it make one hop.

A hop is one task for the scheduler and one round trip. Its first step leads; when it is done elsewhere, so are the
others, and the driver finds their values when it comes to them. A step joins the hop before it if all it needs is
in the record by then or is made in the hop, and if nobody has to wait longer for it: a function of the pool does
not join where another step could begin meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sage.graph.plan import Plan, PlannedStep
from sage.graph.shape import CPU_POOL
from sage.graph.values import Record
from sage.ops.base import Compute, Inline, Work
from sage.scheduling.views import BatchLimits

__all__ = ["TRAVELLERS", "Ahead", "Carrier", "Hop", "hops_of"]

#: Operators whose inline work is a function of the record alone, worth no more than its code.
TRAVELLERS = frozenset({"fn", "template"})

BATCH_S = 0.002  # a call holds so many records that it takes about this long: more would only delay its first
MAX_BATCH = 32  # with 64 jobs in flight, one half travels while the other is worked at
FORGET = 0.9  # by each call, of the longest a record took

_ids = itertools.count()


@dataclass(slots=True, eq=False)
class Hop:
    """Steps that run in one go where a worker is; and about how long that takes, as the hop itself learns."""

    id: int  # unique in the process
    pool: str
    steps: tuple[str, ...]  # in the order they run; the first leads
    calls: tuple[Callable[[Record], Any], ...]
    needs: tuple[str, ...]  # fields it reads, as far as the record has them
    last: int | None  # place in the plan of its last step, if all steps from the first to it are the hop's
    took_s: float | None = None  # about the longest that a record took lately
    is_short: bool = False  # a call for one record would cost more than the record
    #: Which tasks may share its call, and how many: as many as take about ``BATCH_S`` together. Each goes alone
    #: until it is known how long one takes.
    company: tuple[str | None, BatchLimits | None] = (None, None)

    def learn(self, longest_s: float) -> None:
        """Take in the longest that a record of a call took."""
        took_s = self.took_s = max(longest_s, FORGET * (self.took_s or 0.0), 1e-6)
        self.is_short = took_s <= BATCH_S / 2
        items = 1 << min(MAX_BATCH, int(BATCH_S / took_s)).bit_length() - 1 if self.is_short else 1
        if items > 1 and (self.company[1] is None or self.company[1].max_items != items):
            self.company = f"hop {self.id}/{items}", BatchLimits(items)
        elif items == 1:
            self.company = None, None


@dataclass(frozen=True, slots=True)
class Ahead:
    """What came of a step before the driver got to it. Times are the driver's clock."""

    value: Any
    error: Exception | None
    ready: float
    done: float


class Carrier(Protocol):
    """Brings functions to where they run."""

    def check(self, call: Callable[[Record], Any]) -> str | None:
        """Why a function cannot travel; None if it can."""


def hops_of(plan: Plan, works: Mapping[str, Work], carrier: Carrier) -> dict[str, Hop]:
    """By the name of its leading step, each hop of a plan.

    Every function of the cpu pool leads one, for the case that the hop it is part of did not get to it. A plain
    function leads one if a function of the pool follows at once.
    """
    can = {
        planned.name: _call(planned, works[planned.name], carrier)
        for planned in plan.steps
        if _is_simple(planned, plan)
    }
    found: dict[str, Hop] = {}
    led: set[str] = set()  # plain functions that are part of a hop already
    for planned in plan.steps:
        work = works[planned.name]
        if isinstance(work, Inline) and (can.get(planned.name) is None or planned.name in led):
            continue
        if not isinstance(work, Inline | Compute):
            continue
        members = _members(plan, planned, works, can)
        pool = _pool(members)
        if pool is None:
            continue
        led |= {member.name for member in members}
        found[planned.name] = _hop(plan, members, pool, works)
    return found


def _is_simple(planned: PlannedStep, plan: Plan) -> bool:
    """Whether a step just runs once, and its failure is its job's."""
    step = planned.step
    return (
        (step.attempts, step.timeout_s, step.condition, step.instead, step.otherwise, step.reuse)
        == (None,) * 6
        and step.max_concurrency is None
        and not planned.live
        and not any(planned.name in reader.live for reader in plan.steps)
    )


def _call(planned: PlannedStep, work: Work, carrier: Carrier) -> Callable[[Record], Any] | None:
    if isinstance(work, Compute):
        return work.call
    if not isinstance(work, Inline) or work.is_async or planned.step.operator not in TRAVELLERS:
        return None
    return work.call if carrier.check(work.call) is None else None


def _members(
    plan: Plan,
    lead: PlannedStep,
    works: Mapping[str, Work],
    can: Mapping[str, Callable[[Record], Any] | None],
) -> list[PlannedStep]:
    """The steps of the hop that a step would lead, plain functions at its end left out if no reader is beyond."""
    members = [lead]
    known = plan.ancestors(lead.name) | {lead.name}
    pool = lead.step.pool
    for planned in plan.steps[plan.steps.index(lead) + 1 :]:
        if can.get(planned.name) is None or not known.issuperset(planned.after):
            continue
        if not any(name in (member.name for member in members) for name in planned.after):
            continue  # it is none of the hop's business
        if isinstance(works[planned.name], Compute):
            if pool not in {None, planned.step.pool} or _someone_waits(plan, members, planned):
                continue
            pool = planned.step.pool
        members.append(planned)
        known |= {planned.name}
    return members


def _someone_waits(plan: Plan, members: list[PlannedStep], joining: PlannedStep) -> bool:
    """Whether a step outside the hop could begin before ``joining`` is done, but for the hop."""
    inside = {member.name for member in members}
    return any(
        reader.name not in inside
        and reader is not joining
        and inside.intersection(reader.after)
        and joining.name not in plan.ancestors(reader.name)
        for reader in plan.steps
    )


def _pool(members: list[PlannedStep]) -> str | None:
    return next((member.step.pool for member in members if member.step.pool is not None), None)


def _hop(plan: Plan, members: list[PlannedStep], pool: str, works: Mapping[str, Work]) -> Hop:
    made: set[str] = set()
    needs: dict[str, None] = {}
    calls = []
    for member in members:
        work = works[member.name]
        assert isinstance(work, Inline | Compute)
        calls.append(work.call)
        needs |= {name: None for name in member.needs if name not in made}
        made.add(member.name)
    assert pool.startswith(CPU_POOL)
    first = plan.steps.index(members[0])
    in_a_row = list(plan.steps[first : first + len(members)]) == members
    last = first + len(members) - 1 if in_a_row else None
    return Hop(next(_ids), pool, tuple(member.name for member in members), tuple(calls), tuple(needs), last)
