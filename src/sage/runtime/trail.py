"""What became of one job, put together from its events: its steps, their calls, and its critical path.

Everything that looks into a run stands on this: ``explain``, the Gantt chart, the exports.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from sage.events import Event, JobEnded, Notice, PipelineSeen, TaskEnded, TaskRetried, TaskReused

__all__ = [
    "Call",
    "Part",
    "StepSpan",
    "Trail",
    "Trails",
    "critical_path",
    "parts_of_time",
    "pattern",
    "trails",
]

_INDEX = re.compile(r"\[\d+\]")

Interval = tuple[float, float]


class Call(msgspec.Struct, frozen=True):
    """One attempt at one call of a step, or of a step inside its body."""

    task: TaskEnded
    failed_at: float | None = None  # end of the attempt before, if there was one
    queued_from: float = 0.0  # handed to the scheduler; for a retry, the end of its pause

    @property
    def queue(self) -> Interval:
        """From when it could have been sent until it was."""
        return min(self.queued_from, self.task.dispatched), self.task.dispatched

    @property
    def service(self) -> Interval:
        """At the endpoint."""
        return self.task.dispatched, self.task.t

    @property
    def pause(self) -> Interval:
        """Between the attempt before and this one's place in the queue; empty for a first attempt."""
        end = self.queue[0]
        return (end if self.failed_at is None else min(self.failed_at, end)), end


class StepSpan(msgspec.Struct, frozen=True):
    """One step of a job's plan. A step that failed, or never began, has no times."""

    name: str
    operator: str
    after: tuple[str, ...]
    ready: float | None
    done: float | None
    calls: tuple[Call, ...] = ()  # its own and those inside its bodies, in the order they ended
    reused: int = 0
    retries: int = 0


class Trail(msgspec.Struct, frozen=True):
    """One job, from arrival to end."""

    job: JobEnded
    steps: tuple[StepSpan, ...]  # in plan order; empty if the log does not describe the pipeline
    notices: tuple[Notice, ...] = ()

    @property
    def began(self) -> float:
        """When it was let in; its arrival, if it was not."""
        return self.job.arrived if self.job.admitted is None else self.job.admitted

    @property
    def seconds(self) -> float:
        """From arrival to end."""
        return self.job.t - self.job.arrived


class Part(msgspec.Struct, frozen=True):
    """The time a step held a job's end off: from when its last input was there until it was done, in seconds.

    The six below ``start`` and ``end`` add up to ``end - start``.
    """

    step: str
    start: float
    end: float
    waited: float  # its inputs were there, it had not begun
    queued: float  # a call of it could be sent and was not
    paused: float  # between attempts
    service: float  # a call of it was at an endpoint
    other: float  # its own work
    shared: float = 0.0  # its answer was kept, or came with a call that another job made

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.end - self.start


class Trails:
    """Puts events together, a job at a time. Remembers the jobs that have not ended, no others."""

    def __init__(self) -> None:
        self.plans: dict[str, PipelineSeen] = {}
        self._open: defaultdict[int, list[TaskEnded | TaskRetried | TaskReused | Notice]] = defaultdict(list)

    def add(self, event: Event) -> Trail | None:
        """Take one event; the job's trail if it was its end."""
        match event:
            case JobEnded():
                return _trail(event, self.plans.get(event.pipeline), self._open.pop(event.job, ()))
            case TaskEnded() | TaskRetried() | TaskReused():
                self._open[event.job].append(event)
            case Notice() if event.job is not None:
                self._open[event.job].append(event)
            case PipelineSeen():
                self.plans[event.pipeline] = event
        return None


def trails(events: Iterable[Event]) -> Iterator[Trail]:
    """Every job that ended, in the order they ended."""
    all_ = Trails()
    return (trail for event in events if (trail := all_.add(event)) is not None)


def pattern(path: str) -> str:
    """A step inside a body without its place in a list.

    >>> pattern("notes[3].answer")
    'notes[*].answer'
    """
    return _INDEX.sub("[*]", path)


def _trail(
    job: JobEnded, plan: PipelineSeen | None, events: Sequence[TaskEnded | TaskRetried | TaskReused | Notice]
) -> Trail:
    notices = tuple(event for event in events if isinstance(event, Notice))
    if plan is None:
        return Trail(job, (), notices)
    stamps = job.stamps if len(job.stamps) == 2 * len(plan.steps) else (None,) * (2 * len(plan.steps))
    if not events:
        return Trail(
            job,
            tuple(
                StepSpan(*given)
                for given in zip(
                    plan.steps, plan.operators, plan.after, stamps[::2], stamps[1::2], strict=True
                )
            ),
        )
    calls, reused, retried = _by_step(plan.steps, events)
    return Trail(
        job,
        tuple(
            StepSpan(*given, calls=tuple(calls[given[0]]), reused=reused[given[0]], retries=retried[given[0]])
            for given in zip(plan.steps, plan.operators, plan.after, stamps[::2], stamps[1::2], strict=True)
        ),
        notices,
    )


def _by_step(
    steps: tuple[str, ...], events: Sequence[TaskEnded | TaskRetried | TaskReused | Notice]
) -> tuple[dict[str, list[Call]], dict[str, int], dict[str, int]]:
    """The calls of each step of the plan, and how often one was not made, or made again."""
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    reused: defaultdict[str, int] = defaultdict(int)
    retried: defaultdict[str, int] = defaultdict(int)
    ended: dict[tuple[str, float], float] = {}  # step and ready name a task; end of its latest attempt
    paused: dict[tuple[str, int], float] = {}
    for event in events:
        if isinstance(event, Notice):
            continue
        top = _top(event.step, steps)
        if isinstance(event, TaskRetried):
            retried[top] += 1
            paused[event.step, event.attempt] = event.t + event.delay_s
        elif isinstance(event, TaskReused):
            reused[top] += 1
        else:
            before = ended.get((event.step, event.ready)) if event.attempt > 1 else None
            start = event.ready if before is None else paused.get((event.step, event.attempt - 1), before)
            calls[top].append(Call(event, before, start))
            ended[event.step, event.ready] = event.t
    return calls, reused, retried


def _top(path: str, steps: tuple[str, ...]) -> str:
    """The step of the plan that a path into its bodies begins with."""
    if path in steps:
        return path
    inside = (step for step in steps if path.startswith((f"{step}.", f"{step}[")))
    return max(inside, key=len, default=path)


def critical_path(trail: Trail) -> tuple[Part, ...]:
    """The chain of steps that decided when a job was done, the first first.

    From the step that ended last back through, each time, the input that came last (Kelley and Walker,
    "Critical-path planning and scheduling", 1959, on the times that were). A step that reads pieces of
    another while that goes on holds the job only after its end. With the time before admission, and after
    the last step, the parts are all of the job's time.
    """
    ran = {step.name: step for step in trail.steps if step.done is not None}
    if not ran:
        return ()
    began = trail.began
    step: StepSpan | None = max(ran.values(), key=_done)
    parts: list[Part] = []
    end = min(_done(step), trail.job.t) if step is not None else began
    while step is not None:
        before = max((ran[name] for name in step.after if name in ran), key=_done, default=None)
        start = min(max(began, _done(before)), end) if before is not None else min(began, end)
        parts.append(_part(step, start, end))
        step, end = before, start
    return tuple(reversed(parts))


def _done(step: StepSpan) -> float:
    assert step.done is not None
    return step.done


def _part(step: StepSpan, start: float, end: float) -> Part:
    ready = start if step.ready is None else min(max(step.ready, start), end)
    queued, paused, service, other = parts_of_time(step.calls, ready, end)
    own, shared = (0.0, other) if step.reused else (other, 0.0)
    return Part(step.name, start, end, ready - start, queued, paused, service, own, shared)


def parts_of_time(calls: Sequence[Call], start: float, end: float) -> tuple[float, float, float, float]:
    """What passed between two times: queue, pause, service, and neither. Where calls overlap, service wins, then queue."""
    if not calls:
        return 0.0, 0.0, 0.0, end - start
    served = [call.service for call in calls]
    waiting = [call.queue for call in calls]
    pausing = [call.pause for call in calls]
    service = _covered(served, start, end)
    with_queue = _covered(served + waiting, start, end)
    with_pause = _covered(served + waiting + pausing, start, end)
    return with_queue - service, with_pause - with_queue, service, max(0.0, end - start - with_pause)


def _covered(intervals: list[Interval], start: float, end: float) -> float:
    """Length of the union of intervals between two times."""
    total, reached = 0.0, start
    for low, high in sorted(intervals):
        low, high = max(low, reached), min(high, end)  # noqa: PLW2901 - cut to what is not counted yet
        if high > low:
            total += high - low
            reached = high
    return total
