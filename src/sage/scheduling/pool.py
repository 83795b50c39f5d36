"""One pool: interchangeable endpoints and the tasks that want one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.scheduling.batch import BATCHES
from sage.scheduling.fleet import Fleet
from sage.scheduling.lanes import Task
from sage.scheduling.limit import LIMITS
from sage.scheduling.line import Line
from sage.scheduling.place import PLACES
from sage.scheduling.policy import Policy, make
from sage.scheduling.share import SHARES

if TYPE_CHECKING:
    import random

__all__ = ["PARK_S", "Pool", "open_pool"]

#: Tasks are parked so long while all endpoints of their pool keep failing; then they are given up, and those that
#: follow at once, until a probe succeeds. Longer than two probes at the longest distance.
PARK_S = 65.0


@dataclass(slots=True, eq=False)
class Pool:
    """A fleet of endpoints and the line in front of it."""

    name: str
    fleet: Fleet
    line: Line

    @property
    def hopeless_at(self) -> float | None:
        """When its tasks are given up, if no endpoint recovers."""
        since = self.fleet.down_since
        return None if since is None else since + PARK_S

    def next_due(self) -> float | None:
        """When something must be done about it though nothing happens."""
        due = self.line.next_due()
        for time in (self.fleet.next_probe(), self.hopeless_at if self.line.queued else None):
            if time is not None and (due is None or time < due):
                due = time
        return due

    def check(self, tasks: list[Task], *, lingers: bool) -> None:
        """Assert that the books balance with its unfinished tasks. ``lingers``: a free slot is kept for a moment."""
        self.line.check(tasks)
        self.fleet.check(tasks)
        room, queued, held = self.fleet.room, self.line.queued, self.line.held()
        assert lingers or room == 0 or queued == held, f"pool {self.name!r}: room for {room} and tasks queue"


def open_pool(name: str, policy: Policy, rng: random.Random) -> Pool:
    """An empty pool under a policy."""
    place, limit = make(PLACES, policy.place, rng=rng), make(LIMITS, policy.limit)
    fleet = Fleet(name, place, limit, policy.retry_budget, breaks=policy.breaker)
    return Pool(name, fleet, Line(make(SHARES, policy.share), make(BATCHES, policy.batch)))
