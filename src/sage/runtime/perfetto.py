"""A run as a trace for https://ui.perfetto.dev or chrome://tracing, in the Trace Event Format.

A process per endpoint, whose threads are its places, and one process for the jobs: a thread per job that runs at
the same time, with the job's steps below it. Times are microseconds since the run began.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from sage.events import Event, TaskEnded
from sage.runtime.manifest import Manifest
from sage.runtime.trail import Trail, Trails

__all__ = ["perfetto_trace"]

JOBS_PID = 1  # endpoints follow

Span = tuple[float, float, str, str, dict[str, Any]]  # start, end, name, category, arguments


def perfetto_trace(events: Iterable[Event], manifest: Manifest | None = None) -> dict[str, Any]:
    """The trace as JSON data. It holds names, times, sizes and errors in a word; no prompts, no answers."""
    trails = Trails()
    calls: dict[tuple[str, str], list[TaskEnded]] = {}
    jobs: list[Trail] = []
    for event in events:
        if isinstance(event, TaskEnded):
            calls.setdefault((event.pool, event.endpoint), []).append(event)
        trail = trails.add(event)
        if trail is not None:
            jobs.append(trail)
    out: list[dict[str, Any]] = []
    out += _job_events(jobs)
    for number, (key, tasks) in enumerate(sorted(calls.items())):
        out += _endpoint_events(JOBS_PID + 1 + number, *key, tasks)
    trace: dict[str, Any] = {"traceEvents": out, "displayTimeUnit": "ms"}
    if manifest is not None:
        trace["otherData"] = {"run": manifest.run_id, "started": manifest.started, "kind": manifest.kind}
    return trace


def _calls(tasks: Iterable[TaskEnded]) -> Iterable[list[TaskEnded]]:
    """Tasks by the call they travelled in: those of one batch left at one moment."""
    together: dict[tuple[float, int], list[TaskEnded]] = {}
    for task in tasks:
        if task.batch == 1:
            yield [task]
            continue
        company = together.setdefault((task.dispatched, task.batch), [])
        company.append(task)
        if len(company) == task.batch:
            yield together.pop((task.dispatched, task.batch))
    yield from together.values()


def _endpoint_events(
    pid: int, pool: str, endpoint: str, tasks: Iterable[TaskEnded]
) -> Iterable[dict[str, Any]]:
    yield _named("process_name", pid, 0, f"{pool}: {endpoint}")
    yield {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    spans = [_call_span(company) for company in _calls(tasks)]
    num_places = 0
    for place, span in _placed(spans):
        if place == num_places:
            num_places += 1
            yield _named("thread_name", pid, place + 1, f"place {place + 1}")
        yield _complete(pid, place + 1, span)


def _call_span(company: list[TaskEnded]) -> Span:
    task = company[-1]
    said: dict[str, Any] = {
        "jobs": [one.job for one in company],
        "outcome": task.outcome,
        "attempt": task.attempt,
        "batch": task.batch,
        "prompt_tokens": sum(one.prompt_tokens for one in company),
        "completion_tokens": sum(one.completion_tokens for one in company),
        "queue_ms": round(1000 * max(0.0, *(one.dispatched - one.ready for one in company)), 3),
    }
    if task.first is not None:
        said["first_token_ms"] = round(1000 * (task.first - task.dispatched), 3)
    if task.error is not None:
        said["error"] = task.error
    return task.dispatched, task.t, task.step, "call", said


def _job_events(jobs: list[Trail]) -> Iterable[dict[str, Any]]:
    """Jobs on as few threads as they need; steps of one job that overlap get threads of their own beside it."""
    yield _named("process_name", JOBS_PID, 0, "jobs")
    yield {"name": "process_sort_index", "ph": "M", "pid": JOBS_PID, "tid": 0, "args": {"sort_index": 0}}
    free: list[int] = []  # threads that were used and are free again
    running: list[tuple[float, list[int]]] = []
    num_threads = 0
    for trail in sorted(jobs, key=lambda trail: (trail.job.arrived, trail.job.job)):
        while running and running[0][0] <= trail.job.arrived:
            for tid in heapq.heappop(running)[1]:
                heapq.heappush(free, tid)
        steps = _placed(_step_spans(trail))
        own: list[int] = []
        for _ in range(max((place for place, _ in steps), default=0) + 1):
            if free:
                own.append(heapq.heappop(free))
            else:
                num_threads += 1
                own.append(num_threads)
                yield _named("thread_name", JOBS_PID, num_threads, f"jobs {num_threads}")
        heapq.heappush(running, (trail.job.t, own))
        yield _complete(JOBS_PID, own[0], _job_span(trail))
        for place, span in steps:
            yield _complete(JOBS_PID, own[place], span)


def _job_span(trail: Trail) -> Span:
    job = trail.job
    said: dict[str, Any] = {"outcome": job.outcome, "tenant": job.tenant, "priority": job.priority}
    if job.deadline is not None:
        said["deadline_s"] = job.deadline
    if job.step is not None:
        said["failed_step"] = job.step
    return job.arrived, job.t, f"{job.pipeline} #{job.job}", "job", said


def _step_spans(trail: Trail) -> list[Span]:
    return [
        (step.ready, step.done, step.name, "step", {"operator": step.operator, "job": trail.job.job})
        for step in trail.steps
        if step.ready is not None and step.done is not None
    ]


def _placed(spans: list[Span]) -> list[tuple[int, Span]]:
    """Each span with the lowest place where no other runs at its time, in the order they start."""
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    found = []
    for span in sorted(spans, key=lambda span: (span[0], span[1], span[2])):
        while busy and busy[0][0] <= span[0]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        place = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (span[1], place))
        found.append((place, span))
    return found


def _complete(pid: int, tid: int, span: Span) -> dict[str, Any]:
    start, end, name, category, said = span
    begun, ended = round(start * 1e6, 3), round(end * 1e6, 3)
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": begun,
        "dur": round(ended - begun, 3),
        "pid": pid,
        "tid": tid,
        "args": said,
    }


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
