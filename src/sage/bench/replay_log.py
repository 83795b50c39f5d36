"""What a log tells of its jobs, as far as a replay needs it: when they came, what they called, how long it took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from sage.errors import EngineFault, InputError
from sage.events import Event, JobEnded, PipelineSeen, TaskEnded
from sage.runtime.manifest import Manifest
from sage.runtime.trail import StepSpan, Trail, Trails

__all__ = ["Chain", "Made", "Recorded", "RecordedJob", "RecordedStep", "read_recorded"]

FAULTS = frozenset(get_args(EngineFault))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a call: how long it was at the endpoint, and what it failed with."""

    service_s: float
    fault: EngineFault | None
    first_s: float | None  # to its first token


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made, for one task."""

    path: str  # of its step
    pool: str
    after_s: float  # since the call it followed in its chain, or since its step began
    attempts: tuple[Attempt, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


Chain = tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of one job: calls that followed each other, in chains that ran side by side; or its own time."""

    chains: tuple[Chain, ...] = ()
    own_s: float = 0.0  # where it made no call


@dataclass(frozen=True, slots=True)
class RecordedJob:
    """One job of the run."""

    number: int
    pipeline: str
    tenant: str
    priority: int
    arrived: float
    deadline_s: float | None
    steps: Mapping[str, RecordedStep]
    fails_in: str | None = None  # a step that raised by itself
    stands_in: bool = False  # it was refused, so that what it would have done is another job's


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run as a replay sees it."""

    plans: Mapping[str, PipelineSeen]
    jobs: Sequence[RecordedJob]
    left_out: int  # jobs that were cancelled, or refused without a like one that was done
    reused: int  # calls that were not made, because their answer was there
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # pool -> endpoints
    limits: Mapping[str, int] = field(default_factory=dict)  # endpoint -> calls at once


def read_recorded(events: Iterable[Event], manifest: Manifest, deadline_s: float | None = None) -> Recorded:
    """The jobs of a log, in the order they came; ``deadline_s`` is for those that have none.

    Raises:
        InputError: there is nothing in it that could be replayed.
    """
    trails, jobs, refused = Trails(), list[RecordedJob](), list[JobEnded]()
    left_out = reused = 0
    for event in events:
        trail = trails.add(event)
        if trail is None:
            continue
        reused += sum(step.reused for step in trail.steps)
        if trail.job.outcome == "rejected":
            refused.append(trail.job)
        elif trail.job.outcome == "cancelled" or not trail.steps:
            left_out += 1
        else:
            jobs.append(_job(trail))
    stand_ins = [one for end in refused if (one := _stand_in(end, jobs)) is not None]
    left_out += len(refused) - len(stand_ins)
    every = [
        job if job.deadline_s is not None or deadline_s is None else replace(job, deadline_s=deadline_s)
        for job in (*jobs, *stand_ins)
    ]
    every.sort(key=lambda job: (job.arrived, job.number))
    if not any(step.chains for job in every for step in job.steps.values()):
        raise InputError(
            f"run {manifest.run_id} made no calls to engines that can be replayed: a policy decides nothing else"
        )
    return Recorded(trails.plans, every, left_out, reused, *_endpoints(every, manifest))


def _endpoints(
    jobs: Sequence[RecordedJob], manifest: Manifest
) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    used = {
        call.pool for job in jobs for step in job.steps.values() for chain in step.chains for call in chain
    }
    missing = sorted(used - manifest.engines.keys())
    if missing:
        raise InputError(
            f"run {manifest.run_id}: its manifest does not say which endpoints pool {missing[0]!r} had"
        )
    pools = {pool: tuple(manifest.engines[pool]) for pool in sorted(used)}
    names = [name for several in pools.values() for name in several]
    unknown = [name for name in names if name not in manifest.limits]
    if unknown:
        raise InputError(
            f"run {manifest.run_id}: its manifest does not say the limit of endpoint {unknown[0]!r}"
        )
    return pools, {name: manifest.limits[name] for name in names}


def _job(trail: Trail) -> RecordedJob:
    end = trail.job
    failed_calls = {
        call.task.step for step in trail.steps for call in step.calls if call.task.outcome == "failed"
    }
    by_itself = end.outcome == "failed" and end.step is not None and end.step not in failed_calls
    return RecordedJob(
        number=end.job,
        pipeline=end.pipeline,
        tenant=end.tenant,
        priority=end.priority,
        arrived=end.arrived,
        deadline_s=None if end.deadline is None else end.deadline - end.arrived,
        steps={step.name: _step(step) for step in trail.steps},
        fails_in=end.step if by_itself else None,
    )


def _stand_in(end: JobEnded, jobs: Sequence[RecordedJob]) -> RecordedJob | None:
    """What a job that was refused might have done: what the nearest like it did."""
    like = [job for job in jobs if job.pipeline == end.pipeline and job.fails_in is None]
    own = [job for job in like if job.tenant == end.tenant] or like
    if not own:
        return None
    nearest = min(own, key=lambda job: (abs(job.number - end.job), job.number))
    return replace(
        nearest,
        number=end.job,
        tenant=end.tenant,
        priority=end.priority,
        arrived=end.arrived,
        deadline_s=None if end.deadline is None else end.deadline - end.arrived,
        stands_in=True,
    )


def _step(step: StepSpan) -> RecordedStep:
    tasks = _tasks(step)
    if tasks:
        return RecordedStep(tuple(_chains(tasks, step.ready)))
    own_s = step.done - step.ready if step.ready is not None and step.done is not None else 0.0
    return RecordedStep(own_s=max(0.0, own_s))


def _tasks(step: StepSpan) -> list[list[TaskEnded]]:
    """The attempts of each task, by when it was ready."""
    by_task: defaultdict[tuple[str, float], list[TaskEnded]] = defaultdict(list)
    many: defaultdict[tuple[str, float, int], int] = defaultdict(int)
    for call in sorted(step.calls, key=lambda call: (call.task.ready, call.task.t)):
        task = call.task
        if task.outcome == "cancelled":
            continue
        twin = many[task.step, task.ready, task.attempt]  # several answers to one request are ready together
        many[task.step, task.ready, task.attempt] += 1
        by_task[f"{task.step}#{twin}", task.ready].append(task)
    return sorted(by_task.values(), key=lambda tasks: tasks[0].ready)


def _chains(tasks: Sequence[list[TaskEnded]], began: float | None) -> list[Chain]:
    """Calls that followed each other: each is put behind the one that ended last before it was ready.

    Of several that could be, the one whose path is most like its own: the steps of one item of a list.
    """
    start = tasks[0][0].ready if began is None else began
    chains: list[list[Made]] = []
    ends: list[tuple[float, str]] = []
    for attempts in tasks:
        ready, path = attempts[0].ready, attempts[0].step
        open_ = [n for n, (end, _) in enumerate(ends) if end <= ready + 1e-9]
        if open_:
            at = max(open_, key=lambda n: (_alike(ends[n][1], path), ends[n][0], -n))
            after_s = ready - ends[at][0]
        else:
            at, after_s = len(chains), ready - start
            chains.append([])
            ends.append((start, path))
        chains[at].append(_made(attempts, max(0.0, after_s)))
        ends[at] = attempts[-1].t, path
    return [tuple(chain) for chain in chains]


def _alike(one: str, other: str) -> int:
    """How much two paths have in common at their beginning, up to the last index."""
    length = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return one.count("]", 0, length)


def _made(attempts: Sequence[TaskEnded], after_s: float) -> Made:
    last = attempts[-1]
    return Made(
        path=last.step,
        pool=last.pool,
        after_s=after_s,
        attempts=tuple(
            Attempt(
                task.t - task.dispatched,
                _fault(task),
                None if task.first is None else task.first - task.dispatched,
            )
            for task in attempts
        ),
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
        cached_tokens=last.cached_tokens,
    )


def _fault(task: TaskEnded) -> EngineFault | None:
    if task.outcome != "failed":
        return None
    said = (task.error or "").partition(" ")[0]
    return said if said in FAULTS else "refused"  # type: ignore[return-value]  # one of its names
