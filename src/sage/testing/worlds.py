"""Small random worlds around the real scheduler core, with a witness that checks it after every event.

A world invents jobs, calls that take time, faults, cancellations and endpoints that come and go, all from
one seed and without a clock: thousands of them are played in a minute.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import Literal

import msgspec

from sage.errors import EngineFault
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import (
    Admit,
    Command,
    EndpointJoined,
    EndpointLeft,
    Event,
    GiveUp,
    JobArrived,
    JobOver,
    Reject,
    Start,
    TaskDone,
    TaskDropped,
    TaskFailed,
    TaskReady,
    Tick,
    WakeAt,
)
from sage.scheduling.policy import AXES, Policy
from sage.scheduling.views import BatchLimits, JobView, TaskView
from sage.testing.hosts import Violation, Work
from sage.testing.witness import Witness

__all__ = ["Result", "World", "simulate"]

BATCHES = (
    "none",
    "window",
    "window(max_items=3,max_tokens=40)",
    "window(max_items=4,max_tokens=60,max_wait_ms=80)",
)
#: Members as this module was imported, so that a seed means the same whatever is registered later.
SHARES, ORDERS, PLACES = (tuple(AXES[axis]) for axis in ("share", "order", "place"))
RULES = (
    "feasible(load=0.0)+",
    "feasible+",
    "stagger(seconds=0.3)+",
    "stagger+",
    "token_bucket(rate=40,burst_s=2,wait_s=5)+feasible(load=0.5)+",
)
#: Tenants, their weights and the calls at once that each has for itself.
TENANTS = (("acme", 1.0, 0), ("acme", 1.0, 0), ("blue", 3.0, 1), ("corp", 0.5, 0))
FAULTS: tuple[EngineFault, ...] = ("unreachable", "timeout", "overloaded", "failed", "refused", "stalled")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a world: how its jobs ended, and every event with its time and its answer."""

    jobs: int
    outcomes: Counter[str]
    decisions: list[tuple[float, Event, list[Command]]]

    @property
    def log(self) -> list[str]:
        """The decisions as text, one a line."""
        return [f"{now!r} {event} -> {commands}" for now, event, commands in self.decisions]


@dataclass(slots=True)
class Job:
    """A job: stages of tasks, each ready when the one before is done."""

    view: JobView
    stages: list[list[TaskView]]  # templates: ids and times are set when they are ready
    state: Literal["waiting", "in", "stopping", "over"] = "waiting"
    tasks: set[int] = field(default_factory=set)  # ready and not ended


def random_policy(rng: random.Random) -> Policy:
    """Any combination of the built-in members."""
    rules = rng.choice(("", "", *RULES))
    return Policy(
        admit=f"{rules}max_inflight(jobs={rng.randint(1, 12)})",
        share=rng.choice(("none", *SHARES)),
        order=rng.choice(ORDERS),
        place=rng.choice(PLACES),
        limit=rng.choice(("static", "static", "adaptive")),
        batch=rng.choice(BATCHES),
        retry_budget=rng.choice((0.1, None)),
        breaker=rng.random() < 0.8,
    )


class World:
    """One random world. ``run`` plays it to the end of its last job.

    ``scheduler`` makes the core under test; ``audit`` False leaves all judgement to the witness.
    """

    def __init__(
        self,
        seed: int,
        *,
        policy: Policy | None = None,
        scheduler: Callable[[Policy, random.Random], Scheduler] = Scheduler,
        audit: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        drawn = random_policy(self.rng)
        core = scheduler(policy or drawn, random.Random(seed + 1))
        self.witness = Witness(core, audit=audit)
        self.now = 0.0
        self.decisions: list[tuple[float, Event, list[Command]]] = []
        self.outcomes: Counter[str] = Counter()
        self.jobs: dict[int, Job] = {}
        self.fault_rate = self.rng.choice((0.0, 0.1, 0.4))
        self.sick: dict[str, tuple[float, float]] = {}  # endpoint -> from when to when all its calls fail
        self._task_ids = 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._invent()

    def run(self) -> Result:
        """Play until nothing happens any more.

        Raises:
            Violation: the core broke an invariant.
        """
        while self._agenda:
            self.now, _, act = heappop(self._agenda)
            act()
        stuck = [job.view.id for job in self.jobs.values() if job.state != "over"]
        if stuck:
            raise Violation(f"conservation: nothing happens any more, and jobs {stuck} are not over")
        return Result(len(self.jobs), self.outcomes, self.decisions)

    def _tell(self, event: Event) -> None:
        commands = self.witness.handle(event, self.now)
        self.decisions.append((self.now, event, commands))
        for command in commands:
            match command:
                case Admit():
                    job = self.jobs[command.job]
                    job.state = "in"
                    self._later(0.0, partial(self._go_on, job))
                case Start():
                    took_s = self.rng.expovariate(1.0)
                    self._later(took_s, partial(self._finish, command.tasks, command.endpoint))
                case WakeAt():
                    late_s = self.rng.choice((0.0, 0.0, 0.002))
                    self._later(command.time - self.now + late_s, partial(self._tell, Tick()))
                case GiveUp():
                    self._give_up(command)
                case Reject():
                    self._end(self.jobs[command.job], "rejected")
                case _:
                    pass

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        heappush(self._agenda, (self.now + delay_s, self.rng.getrandbits(40), act))

    # What there is

    def _invent(self) -> None:
        rng = self.rng
        for pool in ("llm", "embedder"):
            for number in range(rng.randint(1, 4)):
                name = f"{pool}-{number}"
                self._later(rng.choice((0.0, 0.0, 2.0)), partial(self._join, name, pool))
                for _ in range(rng.choice((0, 0, 1, 3))):
                    self._later(rng.uniform(0, 20), partial(self._shake, name, pool))
                if rng.random() < 0.2:
                    began = rng.uniform(0, 10)
                    self.sick[name] = (began, began + rng.choice((3.0, 20.0, 150.0)))
        at = 0.0
        for number in range(rng.randint(1, 30)):
            at += rng.choice((0.0, rng.expovariate(3.0)))
            self._later(at, partial(self._arrive, number))
            if rng.random() < 0.15:
                self._later(at + rng.expovariate(0.5), partial(self._lose_interest, number))
        for _ in range(rng.randint(0, 5)):
            self._later(rng.uniform(0, 20), partial(self._tell, Tick()))

    def _arrive(self, number: int) -> None:
        rng = self.rng
        run = rng.choice(("a", "a", "b"))
        tenant, weight, reserved = rng.choice(TENANTS)
        view = JobView(
            number,
            run,
            rng.choice(("p", "p", "q")),
            self.now,
            tenant,
            rng.choice((-10, 0, 0, 3)),
            weight=weight,
            reserved=reserved,
            pulled=rng.random() < 0.5,
            deadline=self.now + rng.uniform(1, 8) if rng.random() < 0.3 else None,
            max_inflight=2 if run == "b" else None,
        )
        num_stages = rng.randint(1, 4)
        knows_path = rng.random() < 0.5
        stages = [
            [
                self._template(view, num_stages - stage, knows_path=knows_path)
                for _ in range(rng.randint(1, 4))
            ]
            for stage in range(num_stages)
        ]
        self.jobs[number] = Job(view, stages)
        self._tell(JobArrived(view))

    def _template(self, job: JobView, remaining_steps: int, *, knows_path: bool) -> TaskView:
        rng = self.rng
        embed = rng.random() < 0.5
        key = rng.choice(("m", "m", "small", None)) if embed else None
        return TaskView(
            id=0,
            job=job.id,
            step=f"s{remaining_steps}[{rng.randint(0, 9)}]",
            pipeline=job.pipeline,
            pool="embedder" if embed else "llm",
            kind="embed" if embed else "generate",
            arrived=job.arrived,
            ready=0.0,
            tenant=job.tenant,
            priority=job.priority,
            deadline=job.deadline,
            remaining_steps=remaining_steps,
            path=tuple(f"{job.pipeline}/{n}" for n in range(remaining_steps, 0, -1)) if knows_path else (),
            prefix_key=rng.choice((None, "a", "b", "c")),
            in_tokens=rng.randint(0, 30),
            max_out_tokens=0 if embed else rng.randint(1, 50),
            batch_key=key,
            batch=BatchLimits(2, 1000, 0.0) if key == "small" else None,
        )

    def _join(self, name: str, pool: str) -> None:
        self._tell(EndpointJoined(name, pool, self.rng.randint(1, 3)))

    def _shake(self, name: str, pool: str) -> None:
        """An endpoint changes its limit, or leaves and comes back."""
        host = self.witness.hosts.get(name)
        if host is not None and host.joined and self.rng.random() < 0.7:
            self._tell(EndpointLeft(name))
            self._later(self.rng.expovariate(0.5), partial(self._join, name, pool))
        else:
            self._join(name, pool)

    # What happens

    def _go_on(self, job: Job) -> None:
        """Make the job's next stage ready; without one, the job is done."""
        if job.state != "in" or job.tasks:
            return
        if not job.stages:
            self._end(job, "done")
            return
        views = []
        for template in job.stages.pop(0):
            self._task_ids += 1
            views.append(msgspec.structs.replace(template, id=self._task_ids, ready=self.now))
        job.tasks = {view.id for view in views}
        for view in views:
            if view.id in job.tasks:  # unless the job was stopped meanwhile
                self._tell(TaskReady(view))

    def _finish(self, tasks: tuple[int, ...], endpoint: str) -> None:
        """A call ends: its tasks are done, or have failed together. Those aborted meanwhile are gone."""
        call = next((call for call in map(self._call_of, tasks) if call is not None), None)
        began, ended = self.sick.get(endpoint, (0.0, 0.0))
        fails = began <= self.now < ended or self.rng.random() < self.fault_rate
        fault = self.rng.choice(FAULTS) if fails else None
        after_s = self.rng.choice((None, 0.5, 5.0)) if fault == "overloaded" else None
        seen = fault == "stalled" and self.rng.random() < 0.5
        for task in tasks:
            work = self.witness.works.get(task)
            if work is None or work.call is None or work.call is not call:
                continue
            if fault is not None:
                self._tell(TaskFailed(task, fault, after_s, seen_tokens=seen))
                continue
            job = self.jobs[work.view.job]
            job.tasks.remove(task)
            self._tell(TaskDone(task, work.view.in_tokens, work.view.max_out_tokens))
            self._go_on(job)

    def _call_of(self, task: int) -> object:
        work = self.witness.works.get(task)
        return None if work is None else work.call

    def _give_up(self, given_up: GiveUp) -> None:
        job = next((job for job in self.jobs.values() if given_up.task in job.tasks), None)
        if job is None:  # stopped meanwhile: another of its tasks was given up in the same answer
            return
        job.tasks.remove(given_up.task)
        if job.state == "in":
            self._stop(job, "failed")

    def _lose_interest(self, number: int) -> None:
        """Somebody cancels the job, or one branch of it."""
        job = self.jobs[number]
        idle = self._works(job, "queued", "delayed")
        if job.state == "waiting":
            self._end(job, "cancelled")
        elif job.state == "in" and idle and self.rng.random() < 0.3:
            self._drop(job, self.rng.choice(idle))
            self._go_on(job)
        elif job.state == "in":
            self._stop(job, "cancelled")

    def _stop(self, job: Job, outcome: str) -> None:
        """Abort what runs, drop some of what queues, and end the job, which drops the rest."""
        job.state = "stopping"
        for work in self._works(job, "queued", "delayed"):
            if self.rng.random() < 0.3:
                self._drop(job, work)
        while running := self._works(job, "running"):  # some may start while others are aborted
            self._tell(TaskFailed(running[0].view.id))
        self._end(job, outcome)

    def _works(self, job: Job, *states: str) -> list[Work]:
        works = [self.witness.works.get(task) for task in sorted(job.tasks)]
        return [work for work in works if work is not None and work.state in states]

    def _drop(self, job: Job, work: Work) -> None:
        job.tasks.remove(work.view.id)
        self._tell(TaskDropped(work.view.id))

    def _end(self, job: Job, outcome: str) -> None:
        job.state = "over"
        job.tasks = set()
        self.outcomes[outcome] += 1
        self._tell(JobOver(job.view.id))


def simulate(
    seed: int,
    *,
    policy: Policy | None = None,
    scheduler: Callable[[Policy, random.Random], Scheduler] = Scheduler,
    audit: bool = True,
) -> Result:
    """Play the world of a seed to its end. ``policy`` None: the world draws one.

    >>> result = simulate(seed=1)
    >>> result.outcomes.total() == result.jobs
    True
    >>> simulate(seed=1).log == result.log
    True

    Raises:
        Violation: the core broke an invariant; the message names it.
    """
    return World(seed, policy=policy, scheduler=scheduler, audit=audit).run()
