"""The simulated runtime against a simulator written anew: a heap of events, functions called, no asyncio.

Both ask the real scheduler. Told the same events at the same times in the same order, it decides the same; so the
logs of events and decisions must be equal, of any workload. What the oracle takes from asyncio is one rule: what is
set off now happens after what was set off before, and timers that are due come after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import Pipeline, SageError, Session
from sage.engines.emulated import EmulatedEngine, EmulatedOptions
from sage.engines.emulated_profile import FixedTimes, Profile
from sage.ops import generate
from sage.runtime.options import Tenant
from sage.runtime.simulated import open_loop
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import (
    Admit,
    EndpointJoined,
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
from sage.testing import run_virtual

FIRST_S, TOKEN_S = 0.05, 0.0137
TENANTS = {"a": Tenant(weight=2.0), "b": Tenant(weight=1.0, reserved=1), "c": Tenant()}
POLICIES = (
    "fifo",
    "load_aware",
    "load_aware,max_inflight=3",
    "priority,max_inflight=5",
    "slack",
    "slack,max_inflight=4",
    "order=edf,share=weighted_fair",
    "order=job_fifo,place=pack",
    "order=least_attained,place=random",
    "order=shortest_remaining_job,place=prefix_affinity,share=fair_pipelines",
    "order=strict_priority,admit=stagger(seconds=0.3)",
    "order=slack,admit=token_bucket(rate=300),limit=adaptive",
)


@dataclass(frozen=True)
class Coming:
    """A job of a workload."""

    at: float
    tokens: tuple[int, ...]  # of the answer of each step
    tenant: str
    priority: int
    deadline_s: float | None


@dataclass(frozen=True)
class World:
    """A workload and what it meets. Steps of one stage run at once; each waits for all of the stage before."""

    policy: str
    stages: tuple[int, ...]  # how many steps each has
    endpoints: int
    limit: int
    jobs: tuple[Coming, ...]

    @property
    def names(self) -> list[list[str]]:
        return [[f"s{stage}x{n}" for n in range(width)] for stage, width in enumerate(self.stages)]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    stages = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    rate = draw(st.sampled_from([0.5, 2.0, 8.0, 50.0]))
    at, jobs = 0.0, []
    for _ in range(draw(st.integers(1, 25))):
        at += rng.expovariate(rate) if rng.random() < 0.8 else 0.0
        jobs.append(
            Coming(
                at,
                tuple(rng.randint(1, 60) for _ in range(sum(stages))),
                rng.choice(list(TENANTS)),
                rng.choice([-10, 0, 10]),
                rng.choice([None, rng.uniform(0.2, 12.0)]),
            )
        )
    return World(
        draw(st.sampled_from(POLICIES)), stages, draw(st.integers(1, 3)), draw(st.integers(1, 4)), tuple(jobs)
    )


Log = list[tuple[float, str, Any]]


def question(number: int) -> str:
    return f"{number} " + "why " * (number % 7)


# ---- the product


def pipeline_of(world: World) -> Pipeline:
    steps, before = {}, ""
    for names in world.names:
        for name in names:
            steps[name] = generate(f"{name}: {{question}}{before}", max_tokens=f"{{{name}_tokens}}")
        before = "".join(f" {{{name}}}" for name in names)
    return Pipeline("p", **steps)


async def simulated(world: World) -> Log:
    loop, pipeline, log = asyncio.get_running_loop(), pipeline_of(world), Log()
    profile = Profile(name="fixed", source="a test", fixed=FixedTimes(first_token_s=FIRST_S, token_s=TOKEN_S))
    options = EmulatedOptions(limit=world.limit)
    engines = [EmulatedEngine(profile, options, name=f"e{number}") for number in range(world.endpoints)]
    async with Session(
        engines={"llm": engines}, policy=world.policy, record=False, clock=loop.time, tenants=TENANTS, seed=7
    ) as session:
        handle = session._scheduler.handle

        def heard(event: Any, now: float) -> list[Any]:
            commands = handle(event, now)
            log.append((now, type(event).__name__, commands))
            return commands

        session._scheduler.handle = heard  # type: ignore[method-assign]  # of this one only
        await session.ready(pipeline)

        async def carry(item: tuple[int, Coming]) -> None:
            number, job = item
            steps = itertools.chain.from_iterable(world.names)
            tokens = {f"{name}_tokens": count for name, count in zip(steps, job.tokens, strict=True)}
            said: Any = {"tenant": job.tenant, "priority": job.priority, "deadline_s": job.deadline_s}
            with contextlib.suppress(SageError):  # it may be rejected
                await session.call(pipeline, {"question": question(number), **tokens}, **said)

        await open_loop(((job.at, (number, job)) for number, job in enumerate(world.jobs)), carry)
    return log


# ---- the oracle


@dataclass
class Job:
    number: int
    coming: Coming
    id: int = -1
    arrived: float = 0.0
    is_in: bool | None = None
    left: list[int] = field(default_factory=list)  # steps not done, by stage
    branches: int = 0  # that run beside the first, and are not cleared away
    first_is_over: bool = False


class Oracle:
    """Jobs, engines and time, as lists and a heap."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scheduler = Scheduler(parse_policy(world.policy), random.Random(7))
        self.now = 0.0
        self.log: Log = []
        self.soon: deque[Callable[[], None]] = deque()
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers, self.job_ids, self.task_ids = itertools.count(), itertools.count(), itertools.count()
        self.jobs: dict[int, Job] = {}
        self.prompts: dict[int, int] = {}  # tokens, by task
        self.coming = deque(Job(number, coming) for number, coming in enumerate(world.jobs))
        self.tasks: dict[
            int, tuple[Job, int, int, bool]
        ] = {}  # job, stage, place in it, is in the first branch

    def run(self) -> Log:
        for number in range(self.world.endpoints):
            self.tell(EndpointJoined(f"e{number}", "llm", self.world.limit))
        self.pump()
        while self.soon or self.timers:
            if not self.soon:
                self.now = max(self.now, self.timers[0][0])
            while self.timers and self.timers[0][0] < self.now + 1e-7:
                self.soon.append(heappop(self.timers)[2])
            for _ in range(len(self.soon)):
                self.soon.popleft()()
        return self.log

    def after(self, delay_s: float, then: Callable[[], None]) -> None:
        heappush(self.timers, (self.now + delay_s, next(self.numbers), then))

    def tell(self, event: Any) -> None:
        commands = self.scheduler.handle(event, self.now)
        self.log.append((self.now, type(event).__name__, commands))
        for command in commands:
            match command:
                case Start():
                    self.start(*command.tasks)
                case WakeAt():
                    self.after(max(0.0, command.time - self.now), partial(self.tell, Tick()))
                case Admit() | Reject():
                    job = self.jobs[command.job]
                    waits, job.is_in = job.is_in is False, isinstance(command, Admit)
                    if waits:
                        self.soon.append(partial(self.begin if job.is_in else self.end, job))

    # Jobs come

    def pump(self) -> None:
        while self.coming:
            wait_s = self.coming[0].coming.at - self.now
            if wait_s > 0:
                self.after(wait_s, partial(self.soon.append, self.come))
                return
            self.come_now()

    def come(self) -> None:
        self.come_now()
        self.pump()

    def come_now(self) -> None:
        self.soon.append(partial(self.arrive, self.coming.popleft()))

    def arrive(self, job: Job) -> None:
        job.id, job.arrived, job.left = next(self.job_ids), self.now, list(self.world.stages)
        self.jobs[job.id] = job
        said, tenant = job.coming, TENANTS[job.coming.tenant]
        deadline = None if said.deadline_s is None else self.now + said.deadline_s
        view = JobView(
            job.id, "r", "p", self.now, said.tenant, said.priority, deadline,
            weight=tenant.weight, reserved=tenant.reserved, pulled=False,
        )  # fmt: skip
        self.tell(JobArrived(view))
        if job.is_in is None:
            job.is_in = False  # it waits
        elif job.is_in:
            self.begin(job)
        else:
            self.end(job)

    # and go through their stages

    def begin(self, job: Job) -> None:
        self.stage(job, 0, is_first=True)

    def stage(self, job: Job, stage: int, *, is_first: bool) -> None:
        for place in range(1, self.world.stages[stage]):
            job.branches += 1
            self.soon.append(partial(self.ready, job, stage, place, is_first=False))
        self.ready(job, stage, 0, is_first=is_first)

    def ready(self, job: Job, stage: int, place: int, *, is_first: bool) -> None:
        names = self.world.names
        text = f"{names[stage][place]}: {question(job.number)}"
        chars = len(text) + (sum(1 + 4 * n for n in self.tokens_of(job, stage - 1)) if stage else 0)
        task, said = next(self.task_ids), job.coming
        self.tasks[task] = (job, stage, place, is_first)
        path = (f"p/{names[stage][place]}", *(f"p/{later[0]}" for later in names[stage + 1 :]))
        view = TaskView(
            task, job.id, names[stage][place], "p", "llm", "generate", job.arrived, self.now, said.tenant,
            said.priority, None if said.deadline_s is None else job.arrived + said.deadline_s,
            in_tokens=chars // 4, max_out_tokens=self.tokens_of(job, stage)[place],
            remaining_steps=len(path), path=path, prefix_key=path[0],
        )  # fmt: skip
        self.prompts[task] = int(chars / 4.0) + 1
        self.tell(TaskReady(view))

    def tokens_of(self, job: Job, stage: int) -> tuple[int, ...]:
        start = sum(self.world.stages[:stage])
        return job.coming.tokens[start : start + self.world.stages[stage]]

    def start(self, task: int) -> None:
        job, stage, place, _ = self.tasks[task]
        tokens = self.tokens_of(job, stage)[place]
        self.after(FIRST_S + TOKEN_S * (tokens - 1), partial(self.done, task, tokens))

    def done(self, task: int, tokens: int) -> None:
        self.tell(TaskDone(task, self.prompts[task], tokens))
        job, stage, _, is_first = self.tasks[task]
        self.soon.append(partial(self.go_on, job, stage, is_first=is_first))

    def go_on(self, job: Job, stage: int, *, is_first: bool) -> None:
        job.left[stage] -= 1
        if job.left[stage] == 0 and stage + 1 < len(job.left):
            self.stage(job, stage + 1, is_first=is_first)
        elif not is_first:
            self.soon.append(partial(self.clear_away, job))
        elif job.branches:
            job.first_is_over = True
        else:
            self.end(job)

    def clear_away(self, job: Job) -> None:
        job.branches -= 1
        if job.branches == 0 and job.first_is_over:
            self.soon.append(partial(self.end, job))

    def end(self, job: Job) -> None:
        self.tell(JobOver(job.id))


@given(worlds())
def test_the_simulated_runtime_decides_as_a_plain_heap_of_events_does(world: World) -> None:
    assert run_virtual(simulated(world)) == Oracle(world).run()


def test_the_oracle_sees_what_it_should() -> None:
    jobs = tuple(Coming(n / 10, (9, 5, 7), "a", 0, None) for n in range(5))
    log = Oracle(World("load_aware,max_inflight=2", (2, 1), 1, 1, jobs)).run()
    told = [event for _, event, _ in log]
    assert [told.count(event) for event in ("JobArrived", "TaskReady", "TaskDone", "JobOver")] == [
        5,
        15,
        15,
        5,
    ]
    assert log[-1][0] == pytest.approx(5 * sum(FIRST_S + TOKEN_S * (n - 1) for n in (9, 5, 7)))
