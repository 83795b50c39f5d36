"""A small shop around the real scheduler core: jobs of known sizes, endpoints of known speed, virtual time.

For properties of policies over time, such as fairness, deadlines met and goodput. ``sage.testing.worlds`` is for
everything that may go wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from sage.scheduling.core import Scheduler
from sage.scheduling.messages import (
    Admit,
    EndpointJoined,
    Event,
    JobArrived,
    JobOver,
    Reject,
    Start,
    TaskDone,
    TaskReady,
    Tick,
    WakeAt,
)
from sage.scheduling.policy import parse_policy
from sage.scheduling.views import JobView, TaskView

__all__ = ["Op", "Order", "Played", "Ran", "Shop"]


class Op(NamedTuple):
    """One call that a job needs."""

    service_s: float  # alone on its endpoint
    out_tokens: int = 10
    in_tokens: int = 0
    pool: str = "llm"


@dataclass(frozen=True, slots=True)
class Order:
    """A job as it is ordered: stages of calls, each stage after the one before."""

    at: float
    stages: Sequence[Sequence[Op]]
    tenant: str = "default"
    priority: int = 0
    deadline_s: float | None = None  # from its arrival
    pipeline: str = "p"
    weight: float = 1.0
    reserved: int = 0

    @property
    def work_s(self) -> float:
        """The service times of all its calls."""
        return sum(op.service_s for stage in self.stages for op in stage)


@dataclass(slots=True)
class Ran:
    """One call that was made."""

    job: int
    tenant: str
    endpoint: str
    ready: float
    started: float
    ended: float
    tokens: int


@dataclass(slots=True)
class Played:
    """What came of the orders, by their place in the list."""

    orders: Sequence[Order]
    done: dict[int, float] = field(default_factory=dict)  # job -> when
    rejected: dict[int, Reject] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)  # in the order they ended
    started: list[int] = field(default_factory=list)  # jobs of the calls, in the order they started
    limits: list[tuple[float, int]] = field(default_factory=list)  # of the first endpoint, where limits adapt

    def took_s(self, job: int) -> float:
        """From its arrival to its end."""
        return self.done[job] - self.orders[job].at

    def in_time(self, job: int) -> bool:
        """Whether it was done by its deadline."""
        deadline_s = self.orders[job].deadline_s
        return job in self.done and (deadline_s is None or self.took_s(job) <= deadline_s + 1e-9)

    @property
    def makespan_s(self) -> float:
        """When the last job was done."""
        return max(self.done.values())


class Shop:
    """Endpoints under a policy.

    Args:
        policy: as text.
        endpoints: pool -> calls at once of each of its endpoints.
        slow_down: how much longer a call takes that starts with so many in flight, itself included, at a time.
        step: names a call's step; by default the pipeline and the stage, which makes service times learnable.

    >>> shop = Shop("load_aware", {"llm": [1]})
    >>> shop.play([Order(0.0, [[Op(2.0)]]), Order(0.5, [[Op(1.0)]])]).done
    {0: 2.0, 1: 3.0}
    """

    def __init__(
        self,
        policy: str,
        endpoints: dict[str, Sequence[int]],
        *,
        slow_down: Callable[[int, float], float] = lambda in_flight, now: 1.0,  # noqa: ARG005 - a constant
        seed: int = 0,
    ) -> None:
        self.scheduler = Scheduler(parse_policy(policy), random.Random(seed))
        self._adapts = self.scheduler.policy.limit != "static"
        self.now = 0.0
        self._slow_down = slow_down
        self._endpoints = endpoints
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._in_flight: dict[str, int] = {}
        self._tasks: dict[int, tuple[int, int, Op, float]] = {}  # task -> job, stage, call, ready
        self._left: dict[int, int] = {}  # job -> calls of its stage that are not done
        self._played = Played(())

    def play(self, orders: Sequence[Order]) -> Played:
        """Everything, to the end."""
        played = self._played = Played(orders)
        for pool, limits in self._endpoints.items():
            for number, limit in enumerate(limits):
                self._in_flight[f"{pool}-{number}"] = 0
                self._tell(EndpointJoined(f"{pool}-{number}", pool, limit))
        for job, order in enumerate(orders):
            self._later(order.at, lambda job=job: self._arrive(job))  # type: ignore[misc]  # a default that binds
        while self._agenda:
            self.now, _, act = heappop(self._agenda)
            act()
        lost = len(orders) - len(played.done) - len(played.rejected)
        assert lost == 0, f"{lost} jobs neither done nor rejected"
        return played

    def _later(self, at: float, act: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._agenda, (at, self._number, act))

    def _tell(self, event: Event) -> None:
        for command in self.scheduler.handle(event, self.now):
            match command:
                case Admit():
                    self._later(self.now, lambda job=command.job: self._stage(job, 0))  # type: ignore[misc]  # binds
                case Reject():
                    self._played.rejected[command.job] = command
                    self._later(self.now, lambda job=command.job: self._tell(JobOver(job)))  # type: ignore[misc]  # binds
                case Start():
                    self._start(command)
                case WakeAt():
                    self._later(command.time, lambda: self._tell(Tick()))
                case _:
                    raise AssertionError(command)

    def _arrive(self, job: int) -> None:
        order = self._played.orders[job]
        self._tell(
            JobArrived(
                JobView(
                    job,
                    "r",
                    order.pipeline,
                    self.now,
                    order.tenant,
                    order.priority,
                    None if order.deadline_s is None else self.now + order.deadline_s,
                    weight=order.weight,
                    reserved=order.reserved,
                    max_inflight=1_000_000,
                )
            )
        )

    def _stage(self, job: int, stage: int) -> None:
        order = self._played.orders[job]
        if stage == len(order.stages):
            self._played.done[job] = self.now
            self._tell(JobOver(job))
            return
        path = tuple(f"{order.pipeline}/{number}" for number in range(stage, len(order.stages)))
        self._left[job] = len(order.stages[stage])
        for op in order.stages[stage]:
            self._number += 1
            self._tasks[self._number] = (job, stage, op, self.now)
            view = TaskView(
                self._number,
                job,
                path[0],
                order.pipeline,
                op.pool,
                "generate",
                order.at,
                self.now,
                order.tenant,
                order.priority,
                None if order.deadline_s is None else order.at + order.deadline_s,
                op.in_tokens,
                op.out_tokens,
                remaining_steps=len(path),
                path=path,
            )
            self._tell(TaskReady(view))

    def _start(self, command: Start) -> None:
        (task,) = command.tasks
        job, _, op, _ = self._tasks[task]
        self._in_flight[command.endpoint] += 1
        self._played.started.append(job)
        took_s = op.service_s * self._slow_down(self._in_flight[command.endpoint], self.now)
        started = self.now
        self._later(self.now + took_s, lambda: self._end(task, command.endpoint, started))

    def _end(self, task: int, endpoint: str, started: float) -> None:
        job, stage, op, ready = self._tasks.pop(task)
        self._in_flight[endpoint] -= 1
        tenant = self._played.orders[job].tenant
        tokens = op.in_tokens + op.out_tokens
        self._played.ran.append(Ran(job, tenant, endpoint, ready, started, self.now, tokens))
        self._tell(TaskDone(task, op.in_tokens, op.out_tokens))
        if self._adapts:
            self._played.limits.append((self.now, self.scheduler.snapshot().endpoints[0].limit))
        self._left[job] -= 1
        if not self._left[job]:
            self._stage(job, stage + 1)
