"""What happened to one task, or to every task of one job, in words: when, behind whom, and by which rule."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from sage.errors import InputError, nearest
from sage.events import EndpointSwitched, Event, TaskEnded
from sage.runtime.manifest import Manifest
from sage.runtime.trail import Call, Trail, Trails
from sage.runtime.waits import (
    CAUSES,
    LEAST_S,
    ROUNDING_S,
    Cause,
    Started,
    down_times,
    has_waited,
    holds,
    owner_of,
    reason,
)

__all__ = ["Moment", "Story", "TaskStory", "story"]

MAX_NAMED = 4  # jobs, owners or places named one by one
MAX_STRETCHES = 8  # of a wait told one by one; above it, those for one reason together

#: A length of time in words.
Shown = Callable[[float | None], str]


class Moment(msgspec.Struct, frozen=True):
    """Something that happened to it."""

    t: float  # seconds since the run began
    text: str


class TaskStory(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a step: an attempt."""

    step: str  # with the path to it, where it is inside a body
    attempt: int
    moments: tuple[Moment, ...]
    waited_s: float  # in the queue
    causes: tuple[Cause, ...]  # of that, the longest first


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One job, and those of its tasks that were asked for."""

    job: int
    pipeline: str
    tenant: str
    outcome: str
    e2e_s: float
    moments: tuple[Moment, ...]  # of the job
    tasks: tuple[TaskStory, ...]


def story(
    events: Iterable[Event], manifest: Manifest, shown: Shown, *, job: int, step: str | None = None
) -> Story:
    """What happened to a job and to its tasks; with ``step``, to those of one step only.

    Raises:
        InputError: there is no such job, or it made no call in such a step.
    """
    trails, every = Trails(), list[Trail]()
    switches: defaultdict[str, list[EndpointSwitched]] = defaultdict(list)
    for event in events:
        if isinstance(event, EndpointSwitched):
            switches[event.pool].append(event)
        if (trail := trails.add(event)) is not None:
            every.append(trail)
    found = next((trail for trail in every if trail.job.job == job), None)
    if found is None:
        last = max((trail.job.job for trail in every), default=-1)
        raise InputError(f"the run has no job {job} that ended; jobs are counted from 0 to {last}")
    started: defaultdict[str, list[Started]] = defaultdict(list)
    for trail in every:
        for call in _calls(trail):
            started[call.task.pool].append(Started(call, trail.job.tenant, trail.job.pipeline))
    teller = _Teller(found, started, switches, manifest, shown)
    return Story(
        job=job,
        pipeline=found.job.pipeline,
        tenant=found.job.tenant,
        outcome=found.job.outcome,
        e2e_s=found.seconds,
        moments=tuple(teller.job_moments()),
        tasks=tuple(teller.task(call) for call in _asked(found, step)),
    )


def _calls(trail: Trail) -> list[Call]:
    return [call for step in trail.steps for call in step.calls]


def _asked(trail: Trail, step: str | None) -> list[Call]:
    calls = sorted(_calls(trail), key=lambda call: call.task.dispatched)
    if step is None:
        return calls
    inside = (f"{step}.", f"{step}[")
    wanted = [call for call in calls if call.task.step == step or call.task.step.startswith(inside)]
    if not wanted:
        names = dict.fromkeys(call.task.step for call in calls)
        raise InputError(f"job {trail.job.job} made no call in step {step!r}: {nearest(step, names)}")
    return wanted


class _Teller:
    def __init__(
        self,
        trail: Trail,
        started: dict[str, list[Started]],
        switches: dict[str, list[EndpointSwitched]],
        manifest: Manifest,
        shown: Shown,
    ) -> None:
        self.trail = trail
        self.pools = {
            pool: sorted(several, key=lambda one: one.task.dispatched) for pool, several in started.items()
        }
        self.down = {
            pool: down_times(several, manifest.engines.get(pool, ())) for pool, several in switches.items()
        }
        self.manifest = manifest
        self.turns = owner_of(manifest.policy)
        self.shown = shown

    def job_moments(self) -> list[Moment]:
        job = self.trail.job
        due = "" if job.deadline is None else f", due {self.shown(job.deadline - job.arrived)} later"
        moments = [Moment(job.arrived, f"arrived, of tenant {job.tenant!r}, priority {job.priority}{due}")]
        for (rule, seconds), hold in zip(holds(job), job.held, strict=True):
            moments.append(Moment(hold.since, f"kept outside for {self.shown(seconds)} by {_rule(rule)}"))
        if job.admitted is not None:
            moments.append(Moment(job.admitted, "let in"))
        where = f" in step {job.step!r}" if job.step else ""
        late = job.deadline is not None and job.t > job.deadline
        error = f": {job.error}" if job.error else ""
        over = f", {self.shown(job.t - (job.deadline or 0.0))} after its deadline" if late else ""
        return [*moments, Moment(job.t, f"{job.outcome}{where}{over}{error}")]

    def task(self, call: Call) -> TaskStory:
        task, why = call.task, call.task.why
        mine = Started(call, self.trail.job.tenant, self.trail.job.pipeline)
        pool = [one for one in self.pools[task.pool] if one.task is not task]
        moments = [Moment(call.queue[0], self._came(call, pool))]
        causes: defaultdict[str, float] = defaultdict(float)
        start, sent = call.queue
        if why is not None and why.held_s > ROUNDING_S:
            moments.append(Moment(start, f"kept back {self.shown(why.held_s)} for company in a batch"))
            causes["batch"] += why.held_s
            start = min(sent, start + why.held_s)
        if has_waited(call):
            moments += self._stretches(mine, pool, start, sent, causes)
        moments += [Moment(sent, _sent(task)), Moment(task.t, self._ended(task))]
        if call.pause[1] - call.pause[0] > LEAST_S:
            pause = f"paused {self.shown(call.pause[1] - call.pause[0])} before attempt {task.attempt}"
            moments.insert(0, Moment(call.pause[0], pause))
        return TaskStory(
            step=task.step,
            attempt=task.attempt,
            moments=tuple(moments),
            waited_s=sent - call.queue[0] if has_waited(call) else 0.0,
            causes=tuple(
                Cause(cause=cause, seconds=seconds, tasks=1)
                for cause, seconds in sorted(causes.items(), key=lambda item: -item[1])
                if seconds > ROUNDING_S
            ),
        )

    def _came(self, call: Call, pool: Sequence[Started]) -> str:
        """What it found when it came to the queue."""
        at = call.queue[0]
        if not has_waited(call):
            return f"ready; a place in pool {call.task.pool!r} was free"
        running = [one for one in pool if one.task.dispatched <= at < one.task.t]
        waiting = sum(one.call.queue[0] <= at < one.task.dispatched for one in pool)
        whose: defaultdict[str, list[int]] = defaultdict(list)
        for one in running:
            whose[one.tenant].append(one.task.job)
        held = "; ".join(
            f"{len(jobs)} by {_jobs(jobs)} of tenant {tenant!r}"
            for tenant, jobs in itertools.islice(
                sorted(whose.items(), key=lambda item: -len(item[1])), MAX_NAMED
            )
        )
        places = f"{len(running)} calls of this run in flight" + (f" ({held})" if held else "")
        others = "nobody else" if not waiting else f"{waiting} other{'s' if waiting > 1 else ''}"
        return f"ready, for pool {call.task.pool!r}: {places}, {others} waiting"

    def _stretches(
        self,
        mine: Started,
        pool: Sequence[Started],
        start: float,
        sent: float,
        causes: defaultdict[str, float],
    ) -> list[Moment]:
        """From one start of another task to the next; those for one reason in a row are one moment."""
        between = [one for one in pool if start < one.task.dispatched < sent]
        marks = [start, *(one.task.dispatched for one in between), sent]
        lengths = [self._up(mine.task.pool, low, high) for low, high in itertools.pairwise(marks)]
        down = (sent - start) - sum(lengths)
        causes["breaker"] += down
        causes["full"] += lengths[0]
        moments = []
        if down > ROUNDING_S:
            moments.append(Moment(start, f"{self.shown(down)} {CAUSES['breaker']}"))
        reasons = [reason(mine, one, self.turns) for one in between]
        for one, length in zip(reasons, lengths[1:], strict=True):
            causes[one] += length
        went = list(zip(between, reasons, lengths[1:], strict=True))
        groups = [list(group) for _, group in itertools.groupby(went, key=lambda item: item[1])]
        if len(groups) > MAX_STRETCHES:
            groups = [[item for item in went if item[1] == cause] for cause in dict.fromkeys(reasons)]
        for several in groups:
            cause = several[0][1]
            took = self.shown(sum(length for _, _, length in several))
            moments.append(
                Moment(
                    several[0][0].task.dispatched,
                    self._went(mine, cause, [one for one, _, _ in several], took),
                )
            )
        return moments

    def _up(self, pool: str, low: float, high: float) -> float:
        down = sum(max(0.0, min(high, end) - max(low, begin)) for begin, end in self.down.get(pool, ()))
        return high - low - down

    def _went(self, mine: Started, cause: str, others: Sequence[Started], took: str) -> str:
        jobs = _jobs([one.task.job for one in others])
        count = "a place" if len(others) == 1 else f"{len(others)} places"
        first = others[0]
        rule = {
            "ahead": "which came before it",
            "order": f"which came later, by order {_axis(self.manifest.policy, 'order')}{_keys(mine, first)}",
            "share": f"whose {self.turns or 'owner'} had its turn{_turns(mine, first, self.turns)}",
            "late": "since it could not be in time any more itself",
        }[cause]
        return f"{count} went to {jobs}, {rule}; it waited {took} more"

    def _ended(self, task: TaskEnded) -> str:
        took = self.shown(task.t - task.dispatched)
        tokens = f", {task.prompt_tokens} + {task.completion_tokens} tokens" if task.prompt_tokens else ""
        error = f": {task.error}" if task.error else ""
        return f"{task.outcome} after {took}{tokens}{error}"


def _sent(task: TaskEnded) -> str:
    """Where it was started, and what stood there."""
    why = task.why
    company = f", together with {task.batch - 1} more" if task.batch > 1 else ""
    if why is None:
        return f"started on {task.endpoint}{company}"
    if not why.limit:
        return f"started on {task.endpoint}{company}; nobody was waiting"
    left = "nobody went on waiting" if not why.queued else f"{why.queued} went on waiting"
    reserve = ", by its tenant's reserve" if why.reserve else ""
    return f"started on {task.endpoint}, call {why.in_flight} of {why.limit}{company}{reserve}; {left}"


def _jobs(jobs: Sequence[int]) -> str:
    named = list(dict.fromkeys(jobs))
    said = ", ".join(map(str, named[:MAX_NAMED]))
    more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    return f"job{'s' if len(named) > 1 else ''} {said}{more}"


def _rule(rule: str) -> str:
    return "the limit of jobs at once (max_inflight)" if rule == "max_inflight" else f"admission by {rule}"


def _axis(policy: str, axis: str) -> str:
    """The member of an axis in a policy, as its manifest says it."""
    from sage.scheduling.policy import parse_policy

    try:
        return str(getattr(parse_policy(policy), axis))
    except InputError:  # a member that is not registered here
        return "of the run"


def _keys(mine: Started, other: Started) -> str:
    if mine.task.why is None or other.task.why is None:
        return ""
    return f" ({_key(other.task.why.key)} before {_key(mine.task.why.key)})"


def _key(key: Sequence[float]) -> str:
    return "(" + ", ".join(f"{part:.6g}" for part in key) + ")"


def _turns(mine: Started, other: Started, turns: str) -> str:
    one, two = mine.task.why, other.task.why
    name = getattr(other, turns) if turns else ""
    if one is None or two is None or one.turn is None or two.turn is None:
        return f" ({name})"
    return f" ({name!r} at {two.turn:.0f} tokens by weight, {getattr(mine, turns)!r} at {one.turn:.0f})"
