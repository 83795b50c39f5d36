"""What a policy is held to at each load, and what it reached: the goals that were set before anything was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from sage.bench.suites.policies import PolicyRow

__all__ = ["MANAGED", "UNMANAGED", "Goal", "goals_of"]

#: No scheduler to speak of: everything goes to the engines at once, in turn.
UNMANAGED = "fifo"
#: The graph-aware preset, as one would use it for a service.
MANAGED = "slack"


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One goal. ``reached`` and ``met`` are None where the loads it speaks of were not run."""

    what: str
    wanted: str
    reached: float | None
    met: bool | None


def goals_of(rows: Sequence[PolicyRow], unmanaged: str, managed: str) -> tuple[Goal, ...]:
    """The goals of the managed policy, beside what the unmanaged one reached at the same loads."""
    found = {(row.figures.policy, row.share): row for row in rows}
    ours = {share: row for (policy, share), row in found.items() if policy == managed}
    theirs = {share: row for (policy, share), row in found.items() if policy == unmanaged}
    both = sorted(ours.keys() & theirs.keys())
    below = [share for share in both if share <= 0.95]
    calm = [share for share in both if share <= 0.7]

    def jobs(side: dict[float, PolicyRow], share: float) -> float | None:
        return side[share].figures.in_time.mean if share in side else None

    worst = [ours[share].figures.worst_class.mean for share in (0.95, 1.2) if share in ours]
    p99s = [row.decision_us.p99 for row in ours.values()]
    return (
        _least("jobs in time at 0.95 of saturation", 0.90, jobs(ours, 0.95)),
        _least("jobs in time at 1.2 of saturation", 0.85, jobs(ours, 1.2)),
        _most("unmanaged: jobs in time at 0.95", 0.55, jobs(theirs, 0.95)),
        _most("unmanaged: jobs in time at 1.2", 0.05, jobs(theirs, 1.2)),
        _least(
            "work in time less unmanaged, worst load up to 0.95",
            0.0,
            _min(
                [_less(ours[s].figures.work_in_time.mean, theirs[s].figures.work_in_time.mean) for s in below]
            ),
        ),
        _least("worst class in time, at 0.95 and 1.2", 0.60, _min(worst)),
        _least(
            "throughput over unmanaged, worst load up to 0.7",
            0.97,
            _min([_over(ours[s].figures.jobs_per_s.mean, theirs[s].figures.jobs_per_s.mean) for s in calm]),
        ),
        _most("decision, p99 in microseconds of CPU", 100.0, _max(p99s), unit=""),
    )


def _least(what: str, wanted: float, reached: float | None) -> Goal:
    met = None if reached is None else reached >= wanted
    return Goal(what=what, wanted=f"at least {100 * wanted:g} %", reached=reached, met=met)


def _most(what: str, wanted: float, reached: float | None, unit: str = " %") -> Goal:
    shown = f"{100 * wanted:g} %" if unit else f"{wanted:g}"
    met = None if reached is None else reached <= wanted
    return Goal(what=what, wanted=f"at most {shown}", reached=reached, met=met)


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _min(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None


def _max(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
