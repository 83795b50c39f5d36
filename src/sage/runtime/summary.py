"""A run in figures: a pure function of its event log. Nothing here measures, guesses or corrects.

Times follow the clock of the log, in seconds. A percentile is given only where the sample carries it, and the
log is checked for what cannot be: a job without an end, times out of order.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from sage.events import (
    Event,
    JobEnded,
    Notice,
    PipelineSeen,
    RunEnded,
    StageCounted,
    StreamSeen,
    TaskEnded,
    TaskRetried,
)
from sage.runtime.figures import Share, Stat, percentile, stat_of, wilson
from sage.runtime.stage_figures import StageFigures, StageTally

__all__ = [
    "PoolFigures",
    "Share",
    "StageFigures",
    "Stat",
    "StepFigures",
    "Summary",
    "percentile",
    "stat_of",
    "summarize",
    "wilson",
]

_MAX_FAULTS = 20


class StepFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One step over all jobs: from ready to done, whatever it did in between."""

    pipeline: str
    step: str
    operator: str
    ms: Stat  # milliseconds
    calls: int = 0  # to endpoints, every attempt
    retries: int = 0


class PoolFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One pool: its tasks that ended, failed attempts included in the counts only."""

    pool: str
    tasks: Mapping[str, int]  # outcome -> tasks
    queue_s: Stat  # ready to dispatched: SAGE's own wait
    service_s: Stat  # dispatched to end
    endpoints: Mapping[str, int]  # endpoint -> tasks it served


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run. JSON by ``msgspec.json.encode``."""

    status: str  # of the log: complete, partial or failed; "unfinished" without a last line
    jobs: Mapping[str, int]  # outcome -> jobs; their sum is the number that arrived
    window_s: float  # first arrival to last end
    e2e_s: Stat  # arrival to end, of jobs that were done
    adjusted_e2e_s: Stat  # the same over all jobs, one that was not done counting as endless
    in_time: Share  # done by their deadline, of all jobs that had one
    jobs_per_s: float | None  # done, over the window
    out_tokens_per_s: float | None  # of jobs that were done, over the window
    prompt_tokens: int  # every attempt of every job
    completion_tokens: int
    cached_tokens: int
    ttft_s: Stat  # dispatched to first token, of calls that gave one and were done
    tpot_s: Stat  # between tokens on average, per such call that came in 2 tokens and pieces or more
    tbt_s: Stat  # between pieces as they came, pooled
    worst_tbt_s: Stat  # the longest of these gaps, per call
    steps: tuple[StepFigures, ...]
    pools: tuple[PoolFigures, ...]
    retries: Mapping[str, int]  # endpoint -> calls made again
    notices: Mapping[str, int]  # kind -> how often
    stages: tuple[StageFigures, ...] = ()  # of its stream, if it is one
    faults: tuple[str, ...] = ()  # why the log cannot be true; empty when it is sound
    percentile_method: str = "linear"


def summarize(events: Iterable[Event], *, num_arrived: int | None = None) -> Summary:
    """The figures of a log, read once from its start.

    Args:
        events: in the order of the log; see ``sage.runtime.runs.read_events``.
        num_arrived: jobs that arrived, where someone else counted them; compared with the log.
    """
    tally = _Tally()
    for event in events:
        tally.add(event)
    return tally.summary(num_arrived)


class _Tally:
    """What is remembered of a log while it is read: numbers only."""

    def __init__(self) -> None:
        self.status = "unfinished"
        self.plans: dict[str, PipelineSeen] = {}
        self.outcomes: Counter[str] = Counter(dict.fromkeys(("done", "failed", "rejected", "cancelled"), 0))
        self.ended: dict[int, tuple[str, bool]] = {}  # job -> pipeline, whether it was done
        self.calling: set[int] = set()  # jobs that made calls
        self.start, self.end = math.inf, -math.inf
        self.e2e: list[float] = []
        self.with_deadline = self.in_time = 0
        self.tokens: Counter[str] = Counter()
        self.job_tokens: Counter[int] = Counter()  # completion tokens by job
        self.ttft: list[float] = []
        self.tpot: list[float] = []
        self.tbt: list[float] = []
        self.worst_tbt: list[float] = []
        self.step_ms: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.calls: Counter[tuple[int, str]] = Counter()
        self.pools: dict[str, _Pool] = {}
        self.retried: Counter[str] = Counter()
        self.retried_steps: Counter[tuple[int, str]] = Counter()
        self.notices: Counter[str] = Counter()
        self.stages = StageTally()
        self.faults: list[str] = []

    def add(self, event: Event) -> None:
        match event:
            case TaskEnded():
                self._task(event)
            case JobEnded():
                self._job(event)
            case TaskRetried():
                self.retried[event.endpoint] += 1
                self.retried_steps[event.job, event.step] += 1
            case Notice():
                self.notices[event.kind] += 1
            case PipelineSeen():
                self.plans[event.pipeline] = event
            case RunEnded():
                self.status = event.status
            case StreamSeen() | StageCounted():
                self.stages.add(event)

    def _job(self, event: JobEnded) -> None:
        if event.job in self.ended:
            self._fault(f"job {event.job} ended twice")
            return
        done = event.outcome == "done"
        self.ended[event.job] = (event.pipeline, done)
        self.outcomes[event.outcome] += 1
        self.start, self.end = min(self.start, event.arrived), max(self.end, event.t)
        self._check_order(f"job {event.job}", event.arrived, event.admitted, event.t)
        if done:
            self.e2e.append(event.t - event.arrived)
        if event.deadline is not None:
            self.with_deadline += 1
            self.in_time += done and event.t <= event.deadline
        plan = self.plans.get(event.pipeline)
        if plan is None:
            self._fault(f"job {event.job}: pipeline {event.pipeline!r} is not described before it")
            return
        if event.stamps and len(event.stamps) != 2 * len(plan.steps):
            self._fault(f"job {event.job}: {len(event.stamps)} stamps for {len(plan.steps)} steps")
            return
        for step, ready, end in zip(plan.steps, event.stamps[::2], event.stamps[1::2], strict=False):
            if ready is not None and end is not None:
                self._check_order(f"job {event.job}, step {step!r}", event.arrived, ready, end, event.t)
                self.step_ms[event.pipeline, step].append((end - ready) * 1000)

    def _task(self, event: TaskEnded) -> None:
        where = f"job {event.job}, step {event.step!r}"
        self._check_order(where, event.ready, event.dispatched, event.first, *event.pieces[-1:], event.t)
        self.calling.add(event.job)
        self.calls[event.job, event.step] += 1
        self.tokens["prompt"] += event.prompt_tokens
        self.tokens["completion"] += event.completion_tokens
        self.tokens["cached"] += event.cached_tokens
        pool = self.pools.setdefault(event.pool, _Pool())
        pool.tasks[event.outcome] += 1
        if event.outcome != "done":
            return
        self.job_tokens[event.job] += event.completion_tokens
        pool.endpoints[event.endpoint] += 1
        pool.queue.append(event.dispatched - event.ready)
        pool.service.append(event.t - event.dispatched)
        if event.first is not None:
            self._pace(event, event.first)

    def _pace(self, event: TaskEnded, first: float) -> None:
        self.ttft.append(first - event.dispatched)
        if event.completion_tokens > 1 and len(event.pieces) > 1:
            self.tpot.append((event.pieces[-1] - first) / (event.completion_tokens - 1))
        gaps = [later - earlier for earlier, later in itertools.pairwise(event.pieces)]
        if gaps:
            self.tbt += gaps
            self.worst_tbt.append(max(gaps))

    def _check_order(self, where: str, *times: float | None) -> None:
        known = [time for time in times if time is not None]
        if any(later < earlier for earlier, later in itertools.pairwise(known)):
            self._fault(f"{where}: times out of order: {', '.join(f'{time:.6f}' for time in known)}")

    def _fault(self, text: str) -> None:
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append(text)
        elif len(self.faults) == _MAX_FAULTS:
            self.faults.append("and more")

    def _check_conservation(self, num_arrived: int | None) -> None:
        """Jobs are numbered from 0: each that arrived has exactly one end."""
        seen = self.ended.keys() | self.calling
        expected = max(seen, default=-1) + 1
        if self.status != "unfinished":
            lost = sorted(set(range(expected)) - self.ended.keys())
            if lost:
                self._fault(f"{len(lost)} of {expected} jobs never ended, first job {lost[0]}")
            if num_arrived is not None and num_arrived != sum(self.outcomes.values()):
                self._fault(f"{num_arrived} jobs arrived, {sum(self.outcomes.values())} ended")

    def summary(self, num_arrived: int | None) -> Summary:
        self._check_conservation(num_arrived)
        num_jobs, done = sum(self.outcomes.values()), self.outcomes["done"]
        window_s = self.end - self.start if num_jobs else 0.0
        good_tokens = sum(
            count for job, count in self.job_tokens.items() if self.ended.get(job, ("", False))[1]
        )
        return Summary(
            status=self.status,
            jobs=dict(self.outcomes),
            window_s=window_s,
            e2e_s=stat_of(self.e2e),
            adjusted_e2e_s=stat_of(self.e2e, endless=num_jobs - done),
            in_time=wilson(self.in_time, self.with_deadline),
            jobs_per_s=done / window_s if window_s > 0 else None,
            out_tokens_per_s=good_tokens / window_s if window_s > 0 else None,
            prompt_tokens=self.tokens["prompt"],
            completion_tokens=self.tokens["completion"],
            cached_tokens=self.tokens["cached"],
            ttft_s=stat_of(self.ttft),
            tpot_s=stat_of(self.tpot),
            tbt_s=stat_of(self.tbt),
            worst_tbt_s=stat_of(self.worst_tbt),
            steps=tuple(self._steps()),
            pools=tuple(pool.figures(name) for name, pool in sorted(self.pools.items())),
            retries=dict(self.retried),
            notices=dict(self.notices),
            stages=self.stages.figures(),
            faults=tuple(self.faults),
        )

    def _steps(self) -> Iterable[StepFigures]:
        calls = self._by_step(self.calls)
        retries = self._by_step(self.retried_steps)
        for plan in self.plans.values():
            for step, operator in zip(plan.steps, plan.operators, strict=False):
                key = (plan.pipeline, step)
                yield StepFigures(
                    pipeline=plan.pipeline,
                    step=step,
                    operator=operator,
                    ms=stat_of(self.step_ms.get(key, ())),
                    calls=calls[key],
                    retries=retries[key],
                )

    def _by_step(self, counts: Mapping[tuple[int, str], int]) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for (job, step), count in counts.items():
            if job in self.ended:
                found[self.ended[job][0], step] += count
        return found


class _Pool:
    def __init__(self) -> None:
        self.tasks: Counter[str] = Counter()
        self.endpoints: Counter[str] = Counter()
        self.queue: list[float] = []
        self.service: list[float] = []

    def figures(self, name: str) -> PoolFigures:
        return PoolFigures(
            pool=name,
            tasks=dict(self.tasks),
            queue_s=stat_of(self.queue),
            service_s=stat_of(self.service),
            endpoints=dict(self.endpoints),
        )
