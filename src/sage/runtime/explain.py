"""Where a run's time went: a pure function of its event log, and of its manifest for the endpoints' limits.

The critical path of a job is the chain of steps that decided when it was done; a step's share of it, over all
jobs that were done, is the time they would gain at most if the step took none.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from sage.events import Event, Notice, RunEnded, StageCounted, StreamSeen, TaskEnded
from sage.runtime.advice import advise
from sage.runtime.figures import Stat, stat_of
from sage.runtime.manifest import Manifest
from sage.runtime.stage_figures import StageTally
from sage.runtime.timings import (
    Blocking,
    EndpointTime,
    Explanation,
    PathShare,
    SlowJob,
    StepTime,
)
from sage.runtime.trail import Call, StepSpan, Trail, Trails, critical_path, pattern

__all__ = ["Explanation", "explain"]

NUM_SLOWEST = 5
NUM_PATHS = 5
BATCHED = frozenset({"embed"})  # operators whose calls may travel together


def explain(events: Iterable[Event], manifest: Manifest | None = None) -> Explanation:
    """Where the time of a run went, and what to change first.

    Args:
        events: in the order of the log; see ``sage.runtime.runs.read_events``. Read once.
        manifest: of the run; without it the endpoints' limits are not known.
    """
    study = _Study(manifest.limits if manifest is not None else {})
    for event in events:
        study.add(event)
    found = study.explanation()
    advice, note = advise(found)
    return msgspec.structs.replace(found, advice=advice, note=note)


class _Study:
    """What is remembered of a log while it is read: numbers only, and the slowest jobs."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = limits
        self.status = "unfinished"
        self.trails = Trails()
        self.outcomes: Counter[str] = Counter(dict.fromkeys(("done", "failed", "rejected", "cancelled"), 0))
        self.start, self.end = math.inf, -math.inf
        self.e2e: list[float] = []
        self.outside_s = self.after_s = 0.0
        self.steps: dict[tuple[str, str], _Step] = {}
        self.endpoints: dict[tuple[str, str], _Endpoint] = {}
        self.paths: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.slowest: list[tuple[float, int, Trail]] = []
        self.blocking: Counter[tuple[str, str]] = Counter()
        self.stages = StageTally()

    def add(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            self.status = event.status
        elif isinstance(event, StreamSeen | StageCounted):
            self.stages.add(event)
        elif isinstance(event, TaskEnded):
            self.endpoints.setdefault((event.pool, event.endpoint), _Endpoint()).add(event)
        trail = self.trails.add(event)
        if trail is not None:
            self._job(trail)

    def _job(self, trail: Trail) -> None:
        job = trail.job
        self.outcomes[job.outcome] += 1
        self.start, self.end = min(self.start, job.arrived), max(self.end, job.t)
        for notice in trail.notices:
            self._notice(trail, notice)
        done = {step.name: step.done for step in trail.steps}
        for step in trail.steps:
            self._step(job.pipeline, step).add(step, _inputs_there(trail, step, done))
            for call in step.calls:
                self.endpoints[call.task.pool, call.task.endpoint].retries += call.task.attempt > 1
                if call.task.step != step.name:
                    self._inside(job.pipeline, pattern(call.task.step)).add_call(call)
        if job.outcome == "failed" and (job.pipeline, job.step or "") in self.steps:
            self.steps[job.pipeline, job.step or ""].failed_jobs += 1
        if job.outcome == "done":
            self._path(trail)

    def _notice(self, trail: Trail, notice: Notice) -> None:
        if notice.kind == "slow_step" and notice.step is not None:
            self.blocking[trail.job.pipeline, notice.step] += 1

    def _path(self, trail: Trail) -> None:
        job, parts = trail.job, critical_path(trail)
        self.e2e.append(trail.seconds)
        self.outside_s += trail.began - job.arrived
        self.after_s += job.t - parts[-1].end if parts else 0.0
        self.paths[job.pipeline, tuple(part.step for part in parts)] += 1
        for part in parts:
            step = self.steps[job.pipeline, part.step]
            step.on_path += 1
            for name in _PARTS:
                step.held[name] += getattr(part, name)
        entry = (trail.seconds, -job.job, trail)
        if len(self.slowest) < NUM_SLOWEST:
            heapq.heappush(self.slowest, entry)
        elif entry > self.slowest[0]:
            heapq.heapreplace(self.slowest, entry)

    def _step(self, pipeline: str, step: StepSpan) -> _Step:
        found = self.steps.get((pipeline, step.name))
        if found is None:
            found = self.steps[pipeline, step.name] = _Step(step.operator)
        return found

    def _inside(self, pipeline: str, path: str) -> _Step:
        return self.steps.setdefault((pipeline, path), _Step("", is_inside=True))

    def explanation(self) -> Explanation:
        window_s = self.end - self.start if sum(self.outcomes.values()) else 0.0
        e2e_s = math.fsum(self.e2e)
        steps_s = math.fsum(math.fsum(step.times) for step in self.steps.values())
        return Explanation(
            status=self.status,
            jobs=dict(self.outcomes),
            window_s=window_s,
            e2e_s=stat_of(self.e2e),
            all_e2e_s=e2e_s,
            outside_share=_share(self.outside_s, e2e_s),
            after_share=_share(self.after_s, e2e_s),
            steps=tuple(self.steps[key].time(*key, steps_s, e2e_s) for key in self._in_order()),
            endpoints=tuple(
                endpoint.time(*key, window_s, self.limits.get(key[1]))
                for key, endpoint in sorted(self.endpoints.items())
            ),
            paths=tuple(
                PathShare(pipeline=key[0], steps=key[1], jobs=count)
                for key, count in self.paths.most_common(NUM_PATHS)
            ),
            slowest=tuple(
                SlowJob(
                    job=trail.job.job,
                    pipeline=trail.job.pipeline,
                    e2e_s=seconds,
                    outside_s=trail.began - trail.job.arrived,
                    path=critical_path(trail),
                )
                for seconds, _, trail in sorted(self.slowest, reverse=True)
            ),
            blocking=tuple(self._blocked(*key, window_s) for key in self.blocking),
            stages=self.stages.figures(),
        )

    def _in_order(self) -> list[tuple[str, str]]:
        """Steps in plan order, each followed by what runs inside it."""
        place = {
            (name, step): (number, at)
            for number, (name, plan) in enumerate(self.trails.plans.items())
            for at, step in enumerate(plan.steps)
        }

        def rank(key: tuple[str, str]) -> tuple[int, int, str]:
            pipeline, step = key
            while (pipeline, step) not in place and step:
                step = step[: max(step.rfind("."), step.rfind("["), 0)]
            return (*place.get((pipeline, step), (len(place), 0)), key[1])

        return sorted(self.steps, key=rank)

    def _blocked(self, pipeline: str, step: str, window_s: float) -> Blocking:
        known = self.steps.get((pipeline, step))
        times = known.times if known is not None else []
        return Blocking(
            pipeline=pipeline,
            step=step,
            time_s=stat_of(times),
            window_share=_share(math.fsum(times), window_s),
        )


_PARTS = ("waited", "queued", "paused", "service", "other", "shared")


class _Step:
    """One step over all jobs, or one kind of call inside a step."""

    def __init__(self, operator: str, *, is_inside: bool = False) -> None:
        self.operator = operator
        self.is_inside = is_inside
        self.times: list[float] = []
        self.waits: list[float] = []
        self.queue: list[float] = []
        self.service: list[float] = []
        self.first: list[float] = []
        self.counts: Counter[str] = Counter()
        self.pools: set[str] = set()
        self.failed_jobs = 0
        self.on_path = 0
        self.held: defaultdict[str, float] = defaultdict(float)
        self.spans: list[tuple[float, float, int]] = []  # of batched calls: queued from, sent, with how many

    def add(self, step: StepSpan, inputs_there: float) -> None:
        if step.ready is not None and step.done is not None:
            self.times.append(step.done - step.ready)
            self.waits.append(max(0.0, step.ready - inputs_there))
        self.counts["reused"] += step.reused
        self.counts["retries"] += step.retries
        for call in step.calls:
            self.add_call(call)

    def add_call(self, call: Call) -> None:
        task = call.task
        self.counts["calls"] += 1
        self.pools.add(task.pool)
        self.counts["failed"] += task.outcome == "failed"
        self.counts["prompt"] += task.prompt_tokens
        self.counts["completion"] += task.completion_tokens
        self.queue.append(call.queue[1] - call.queue[0])
        self.service.append(task.t - task.dispatched)
        if task.first is not None:
            self.first.append(task.first - task.dispatched)
        if self.operator in BATCHED:
            self.spans.append((call.queue[0], task.dispatched, task.batch))
        if self.is_inside:
            self.counts["retries"] += task.attempt > 1

    def time(self, pipeline: str, step: str, steps_s: float, e2e_s: float) -> StepTime:
        held_s = math.fsum(self.held.values())
        alone, waiting = _sent_alone(self.spans)
        return StepTime(
            pipeline=pipeline,
            step=step,
            operator=self.operator,
            is_inside=self.is_inside,
            pools=tuple(sorted(self.pools)),
            n=len(self.service) if self.is_inside else len(self.times),
            share=None if self.is_inside else _share(math.fsum(self.times), steps_s),
            path_share=None if self.is_inside else _share(held_s, e2e_s),
            path_jobs=self.on_path,
            path_s={name: self.held[name] for name in _PARTS},
            time_s=stat_of(self.times),
            waited_s=stat_of(self.waits),
            queue_s=stat_of(self.queue),
            service_s=stat_of(self.service),
            first_s=stat_of(self.first),
            calls=self.counts["calls"],
            failed_calls=self.counts["failed"],
            retries=self.counts["retries"],
            reused=self.counts["reused"],
            failed_jobs=self.failed_jobs,
            prompt_tokens=self.counts["prompt"],
            completion_tokens=self.counts["completion"],
            sent_alone=alone,
            waiting_then=waiting,
        )


class _Endpoint:
    def __init__(self) -> None:
        self.tasks: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.calls = self.busy_s = 0.0
        self.retries = 0
        self.batches: list[float] = []

    def add(self, task: TaskEnded) -> None:
        self.tasks[task.outcome] += 1
        if task.outcome == "failed":
            self.faults[task.error or ""] += 1
        self.calls += 1 / task.batch
        self.busy_s += (task.t - task.dispatched) / task.batch
        self.batches.append(task.batch)

    def time(self, pool: str, endpoint: str, window_s: float, limit: int | None) -> EndpointTime:
        in_flight = _share(self.busy_s, window_s)
        return EndpointTime(
            pool=pool,
            endpoint=endpoint,
            tasks=dict(self.tasks),
            faults=dict(self.faults.most_common()),
            calls=round(self.calls),
            retries=self.retries,
            busy_s=self.busy_s,
            in_flight=in_flight,
            limit=limit,
            utilisation=None if limit is None or in_flight is None else in_flight / limit,
            batch=stat_of(self.batches)
            if any(size > 1 for size in self.batches)
            else Stat(n=len(self.batches)),
        )


def _inputs_there(trail: Trail, step: StepSpan, done: Mapping[str, float | None]) -> float:
    """When the last input of a step was there, or of those read as they come, had begun: then at most its start."""
    return max((at for name in step.after if (at := done.get(name)) is not None), default=trail.began)


def _sent_alone(spans: list[tuple[float, float, int]]) -> tuple[int, float | None]:
    """Calls that took one task while others of the step waited; and how many waited, on average of these."""
    if not spans:
        return 0, None
    queued = sorted(start for start, _, _ in spans)
    sent = sorted(end for _, end, _ in spans)
    waiting = [bisect_right(queued, at) - bisect_right(sent, at) for _, at, batch in spans if batch == 1]
    found = [count for count in waiting if count > 0]
    return len(found), math.fsum(found) / len(found) if found else None


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
