"""Whose turn: the queue of one pool, made of one lane or of one for each tenant."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

from sage.registry import Registry
from sage.scheduling.lanes import Lane, Task
from sage.scheduling.learn import expected_tokens
from sage.scheduling.views import TaskView

__all__ = ["SHARES", "FairPipelines", "OneLane", "Share", "WeightedFair"]


class Share(Protocol):
    """The queued tasks of one pool. It decides from which lane the next one comes."""

    def push(self, task: Task) -> None:
        """Line up a task that holds a ticket."""

    def pop(self, now: float) -> Task | None:
        """Take out the task whose turn it is; None when nobody waits. The caller takes its ticket away."""

    def left(self, task: Task) -> None:
        """Note that a queued task lost its ticket without being popped here."""

    def charge(self, task: Task) -> None:
        """A task starts: by its turn, or in the company of another."""

    def settle(self, task: Task, tokens: float | None) -> None:
        """A started task ended, having used so many tokens; None: not known, what was charged stands."""

    def check(self) -> None:
        """Assert that the books balance."""


class OneLane:
    """``none``: all tenants in one lane, in the order's key order.

    When: one tenant, or tenants that trust each other. When not: one of them can flood the others.
    """

    def __init__(self) -> None:
        self._lane = Lane()

    def push(self, task: Task) -> None:
        """Line up a task."""
        self._lane.push(task)

    def pop(self, now: float) -> Task | None:
        """The first task."""
        return self._lane.pop(now)

    def left(self, task: Task) -> None:  # noqa: ARG002 - other shares find the lane by the task
        """Note that a task left by another way."""
        self._lane.left()

    def charge(self, task: Task) -> None:
        """Nobody is charged."""

    def settle(self, task: Task, tokens: float | None) -> None:
        """Nobody was charged."""

    def check(self) -> None:
        """Assert that the lane's count is right."""
        self._lane.check()


class Tenant:
    """The lane of one tenant, and what it owes."""

    __slots__ = ("entry", "in_flight", "lane", "name", "queued", "reserved", "tag", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.lane = Lane()
        self.queued = 0
        self.in_flight = 0  # tasks
        self.tag = 0.0  # virtual time at which its next task starts
        self.weight = 1.0
        self.reserved = 0
        self.entry: Any = None  # its one live entry among those whose turn it may be


class WeightedFair:
    """Tenants take turns so that their tokens, in and out, are as their weights.

    A task is charged what it is expected to use when it starts, and the true count is settled when it ends.
    Who was idle gets no credit for it, and the share of the idle goes to the others by weight. A tenant with a
    reserve gets its turn first while it has fewer tasks in flight than that; what it gets so counts.

    When: several tenants on the same engines; one that floods cannot make the others wait. When not: one
    tenant. Source: start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996),
    in tokens as in Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024.
    """

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}  # those who queue, run, or owe
        self._turns: list[
            Any
        ] = []  # heap: (0 in reserve or 1, tag, number, tenant), of those who queue; some dead
        self._number = 0
        self._virtual = 0.0  # the tag of the latest turn

    def _whose(self, task: TaskView) -> str:
        return task.tenant

    def _terms(self, task: TaskView) -> tuple[float, int]:
        """Its weight and its reserve."""
        return task.weight, task.reserved

    def push(self, task: Task) -> None:
        """Line up a task in its tenant's lane."""
        tenant = self._tenant(task.view)
        tenant.lane.push(task)
        tenant.queued += 1
        if tenant.queued == 1:
            tenant.tag = max(tenant.tag, self._virtual)
            self._line_up(tenant)

    def pop(self, now: float) -> Task | None:
        """The first task of the tenant whose turn it is."""
        turns = self._turns
        while turns:
            entry = turns[0]
            tenant: Tenant = entry[3]
            if tenant.entry is not entry:
                heappop(turns)
                continue
            task = tenant.lane.pop(now)
            assert task is not None, tenant.name
            task.turn, task.reserve = tenant.tag, not entry[0]
            if entry[0]:
                self._virtual = max(self._virtual, tenant.tag)
            self._one_less(tenant)
            return task
        return None

    def left(self, task: Task) -> None:
        """Note that a task left by another way."""
        tenant = self._tenants[self._whose(task.view)]
        tenant.lane.left()
        self._one_less(tenant)

    def charge(self, task: Task) -> None:
        """Charge the tenant what the task is expected to use."""
        tenant = self._tenant(task.view)
        task.charged = expected_tokens(task.view)
        tenant.in_flight += 1
        self._owe(tenant, task.charged)

    def settle(self, task: Task, tokens: float | None) -> None:
        """Correct the charge by the true count."""
        tenant = self._tenants[self._whose(task.view)]
        tenant.in_flight -= 1
        self._owe(tenant, 0.0 if tokens is None else tokens - task.charged)
        task.charged = 0.0
        if not tenant.queued and not tenant.in_flight and tenant.tag <= self._virtual:
            del self._tenants[tenant.name]

    def check(self) -> None:
        """Assert that everyone who queues has a turn, and nobody else."""
        for tenant in self._tenants.values():
            tenant.lane.check()
            assert tenant.queued == len(tenant.lane.tasks()), tenant.name
            assert (tenant.entry is not None) == (tenant.queued > 0), tenant.name
            assert tenant.in_flight >= 0, tenant.name
            assert tenant.entry is None or any(entry is tenant.entry for entry in self._turns), tenant.name

    def _tenant(self, task: TaskView) -> Tenant:
        name = self._whose(task)
        tenant = self._tenants.get(name)
        if tenant is None:
            self._forget_the_idle()
            tenant = self._tenants[name] = Tenant(name)
            tenant.tag = self._virtual
        tenant.weight, tenant.reserved = self._terms(task)
        return tenant

    def _forget_the_idle(self) -> None:
        """Keep no more than twice the busy ones: who owes nothing any more is as good as new."""
        if len(self._tenants) % 64 == 63:
            for tenant in list(self._tenants.values()):
                if not tenant.queued and not tenant.in_flight and tenant.tag <= self._virtual:
                    del self._tenants[tenant.name]

    def _owe(self, tenant: Tenant, tokens: float) -> None:
        tenant.tag += tokens / tenant.weight
        if tenant.queued:
            self._line_up(tenant)

    def _one_less(self, tenant: Tenant) -> None:
        tenant.queued -= 1
        if not tenant.queued:
            tenant.entry = None

    def _line_up(self, tenant: Tenant) -> None:
        """Give a tenant its turn anew: what it owes, or what it has in flight, changed."""
        self._number += 1
        borrows = tenant.in_flight >= tenant.reserved
        entry = tenant.entry = (borrows, tenant.tag, self._number, tenant)
        heappush(self._turns, entry)
        if len(self._turns) > 4 * len(self._tenants) + 64:
            self._turns = [entry for entry in self._turns if entry[3].entry is entry]
            heapify(self._turns)


class FairPipelines(WeightedFair):
    """``fair_pipelines``: as ``weighted_fair``, but pipelines take turns instead of tenants, with equal weights.

    When: several pipelines of one tenant share the engines and none may hold the others up. When not: tenants
    must be kept apart; one with many pipelines would get many shares. Source: as ``weighted_fair``.
    """

    def _whose(self, task: TaskView) -> str:
        return task.pipeline

    def _terms(self, task: TaskView) -> tuple[float, int]:  # noqa: ARG002 - the tenant's terms are not the pipeline's
        return 1.0, 0


SHARES: Registry[Callable[..., Share]] = Registry("share")
SHARES["none"] = OneLane
SHARES["weighted_fair"] = WeightedFair
SHARES["fair_pipelines"] = FairPipelines
