"""How long one scheduling decision takes: 10,000 queued tasks of 8 tenants, on 64 and on 1,000 endpoints.

    python benchmarks/decision.py [--decisions N]

Prints one JSON object. Times are microseconds of CPU of one ``handle`` call, collector on; reading the
clock (``clock_us``) is in them. ``pair`` is a task's whole
way through the core: its TaskReady (which queues it) and the TaskDone of another (which starts the next, in some
orders with the Tick after it, whose time is counted in).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from collections import deque
from time import thread_time_ns

from sage.scheduling.core import Scheduler
from sage.scheduling.messages import (
    EndpointJoined,
    Event,
    JobArrived,
    JobOver,
    Start,
    TaskDone,
    TaskReady,
    Tick,
    WakeAt,
)
from sage.scheduling.policy import parse_policy
from sage.scheduling.views import JobView, TaskView

QUEUED, TENANTS, LIMIT = 10_000, 8, 4
EVENT_S = 6.4e-3  # between two events of one endpoint, so that a call takes as long whatever their number
PATH = ("p/a", "p/b", "p/c", "p/d")


class World:
    """A scheduler whose pool is full and whose queue stays as long as it is."""

    def __init__(self, policy: str, endpoints: int, queued: int = QUEUED, tenants: int = TENANTS) -> None:
        self.rng = random.Random(1)
        self.tenants = tenants
        self.num_jobs = max(64, tenants)
        self.scheduler = Scheduler(parse_policy(policy), random.Random(0))
        self.running: list[int] = []
        self.now = 0.0
        self.event_s = EVENT_S / endpoints
        self.ids = 0
        for number in range(endpoints):
            self.tell(EndpointJoined(f"e{number}", "llm", LIMIT))
        for job in range(self.num_jobs):
            self.tell(JobArrived(self.job(job)))
        self.queue(queued + endpoints * LIMIT)

    def job(self, number: int) -> JobView:
        tenant = f"t{number % self.tenants}"
        return JobView(number, "r", "p", 0.0, tenant=tenant, deadline=9e9, max_inflight=1 << 30)

    def queue(self, tasks: int) -> None:
        """Line up more tasks, at once; as many start as there are places."""
        for _ in range(tasks):
            self.tell(self.task(), after_s=0.0)  # running calls are no slower for it, which a limit would see

    def task(self) -> TaskReady:
        self.ids += 1
        job = self.rng.randrange(self.num_jobs)
        return TaskReady(
            TaskView(
                self.ids, job, "s", "p", "llm", "generate", 0.0, self.now, f"t{job % self.tenants}",
                deadline=self.now + self.rng.uniform(5, 60), in_tokens=self.rng.randrange(2000), max_out_tokens=256,
                path=PATH[self.rng.randrange(4) :], prefix_key=f"p{self.rng.randrange(100)}",
            )
        )  # fmt: skip

    def done(self) -> TaskDone:
        index = self.rng.randrange(len(self.running))
        self.running[index], self.running[-1] = self.running[-1], self.running[index]
        return TaskDone(self.running.pop(), 100, 50)

    def tell(self, event: Event, after_s: float | None = None) -> float:
        """Hand over an event so long after the last; returns how long it took, in microseconds."""
        self.now += self.event_s if after_s is None else after_s
        began = thread_time_ns()
        commands = self.scheduler.handle(event, self.now)
        took = thread_time_ns() - began
        ticks = False
        for command in commands:
            if type(command) is Start:
                self.running.extend(command.tasks)
            elif type(command) is WakeAt and command.time <= self.now:
                ticks = True  # the core kept the slot for a moment; the Tick gives it away
        return took / 1000 + (self.tell(Tick(), after_s) if ticks else 0.0)


def figures(times_us: list[float]) -> dict[str, float]:
    ordered = sorted(times_us)
    last = len(ordered) - 1
    return {
        "mean": round(sum(ordered) / len(ordered), 2),
        "p50": round(ordered[last // 2], 2),
        "p99": round(ordered[last * 99 // 100], 2),
        "max": round(ordered[last], 2),
    }


def decisions(policy: str, endpoints: int, number: int) -> dict[str, object]:
    world = World(policy, endpoints)
    ready_us, done_us = [], []
    for _ in range(number):
        ready_us.append(world.tell(world.task()))
        done_us.append(world.tell(world.done()))
    pairs_us = [a + b for a, b in zip(ready_us, done_us, strict=True)]
    assert world.scheduler.snapshot().queued["llm"] == QUEUED
    return {
        "policy": policy,
        "endpoints": endpoints,
        "ready_us": figures(ready_us),
        "done_us": figures(done_us),
        "pair_us": figures(pairs_us),
    }


def admission(number: int) -> dict[str, float]:
    """A job's arrival and its end, below the limit; the mean of both together, of whole rounds."""
    scheduler = Scheduler(parse_policy("fifo"), random.Random(0))
    handle = scheduler.handle
    for job in range(32):
        handle(JobArrived(JobView(job, "r", "p", 0.0)), 0.0)
    waiting = deque(range(32))
    rounds_us = []
    for start in range(32, 32 + number, 1000):
        events: list[Event] = []
        for job in range(start, start + 1000):
            events += [JobArrived(JobView(job, "r", "p", 0.0)), JobOver(waiting.popleft())]
            waiting.append(job)
        began = thread_time_ns()
        for event in events:
            handle(event, 0.0)
        rounds_us.append((thread_time_ns() - began) / 1e6)
    return figures(rounds_us)


def clock_us() -> float:
    """What reading the clock costs."""
    times = [thread_time_ns() for _ in range(10_001)]
    return (times[-1] - times[0]) / 10_000 / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=50_000)
    number: int = parser.parse_args().decisions
    results = [
        decisions(policy, endpoints, number)
        for policy in ("fifo", "load_aware", "order=job_fifo", "priority", "slack")
        for endpoints in (64, 1000)
    ]
    report = {
        "queued": QUEUED,
        "tenants": TENANTS,
        "limit": LIMIT,
        "n": number,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "decisions": results,
        "admission_pair_us": admission(number),
        "clock_us": clock_us(),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
