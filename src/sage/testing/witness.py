"""A witness of the scheduler core: it hears what the core hears, and checks every answer from the outside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, assert_never

from sage.errors import InternalError
from sage.scheduling.admit import ADMITS
from sage.scheduling.batch import BATCHES
from sage.scheduling.core import ROUNDING_S, Scheduler
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
    Retry,
    Start,
    TaskDone,
    TaskDropped,
    TaskFailed,
    TaskReady,
    Tick,
    WakeAt,
)
from sage.scheduling.order import ORDERS
from sage.scheduling.policy import make
from sage.scheduling.retry import MAX_BACKOFF_S, RESERVE, RETRYABLE
from sage.scheduling.views import BatchLimits, JobView, TaskView

__all__ = ["Violation", "Witness"]


class Violation(InternalError):  # noqa: N818 - says what it is, as the rest of the tree does
    """The core broke an invariant. The message begins with its name."""


@dataclass(slots=True)
class Call:
    """A call in flight."""

    host: Host
    tasks: set[int]
    tokens: int


@dataclass(slots=True)
class Host:
    """An endpoint: open, or ending its last calls."""

    name: str
    pool: str
    limit: int
    open: bool = True
    calls: list[Call] = field(default_factory=list)

    @property
    def room(self) -> int:
        return max(0, self.limit - len(self.calls)) if self.open else 0

    @property
    def load(self) -> tuple[float, int]:
        return len(self.calls) / self.limit, sum(call.tokens for call in self.calls)


@dataclass(slots=True)
class Work:
    """A task from TaskReady to its end."""

    view: TaskView
    key: tuple[float, ...]
    limits: BatchLimits | None
    since: float  # when it was queued last
    state: Literal["queued", "running", "delayed", "failing"] = "queued"
    due: float = 0.0  # of a delayed task
    failures: int = 0
    call: Call | None = None


class Witness:
    """Stands in front of a scheduler with the same ``handle``, and keeps an account of its own.

    It serves the policies whose tasks start in key order (share ``none``, limit ``static``). Every answer is
    checked; then the two accounts are compared, and no task that could start may be left waiting.

    Raises:
        Violation: (from ``handle``) an invariant is broken; the message begins with its name.
    """

    def __init__(self, scheduler: Scheduler, *, audit: bool = True) -> None:
        self.scheduler = scheduler
        self.audit = audit  # also let the core check itself after each event
        self.now = float("-inf")
        self.waiting: dict[int, JobView] = {}  # in order of arrival
        self.admitted: dict[int, JobView] = {}
        self.works: dict[int, Work] = {}  # not ended
        self.hosts: dict[str, Host] = {}
        self.wakes: list[float] = []  # asked for and still ahead
        self.num_calls = 0
        self.num_repeated = 0  # tasks tried again; at least as many as calls tried again
        policy = scheduler.policy
        self._order = make(ORDERS, policy.order)
        self._batch = make(BATCHES, policy.batch)
        self._max_inflight = make(ADMITS, policy.admit).jobs
        self._failed: TaskFailed | None = None  # to be answered by Retry or GiveUp

    def handle(self, event: Event, now: float) -> list[Command]:
        """Pass an event on, check the answer and return it."""
        self.now = now
        self.wakes = [time for time in self.wakes if time > now + ROUNDING_S]
        for work in self.works.values():
            if work.state == "delayed" and work.due <= now + ROUNDING_S:
                work.state, work.since = "queued", now
        self._hear(event)
        commands = self.scheduler.handle(event, now)
        for command in commands:
            self._judge(command)
        if self._failed is not None:
            raise Violation(f"conservation: nothing answered {self._failed}")
        self._compare()
        self._nothing_left_waiting()
        if self.audit:
            self.scheduler.check()
        return commands

    # What the core hears

    def _hear(self, event: Event) -> None:
        match event:
            case JobArrived():
                self.waiting[event.job.id] = event.job
            case JobOver():
                self.waiting.pop(event.job, None)
                self.admitted.pop(event.job, None)
                self.works = {key: work for key, work in self.works.items() if work.view.job != event.job}
            case TaskReady():
                view = event.task
                limits = None if view.batch_key is None else self._batch.limits(view)
                self.works[view.id] = Work(view, self._order.key(view), limits, self.now)
            case TaskDone():
                self._release(self.works.pop(event.task))
            case TaskFailed():
                self._failed = event
                work = self.works[event.task]
                self._release(work)
                work.state = "failing"
                work.failures += 1
            case TaskDropped():
                del self.works[event.task]
            case EndpointJoined():
                host = self.hosts.setdefault(event.name, Host(event.name, event.pool, event.limit))
                host.limit, host.open = event.limit, True
            case EndpointLeft():
                self.hosts[event.name].open = False
            case Tick():
                pass
            case _:
                assert_never(event)

    def _release(self, work: Work) -> None:
        """A task of a call ended; with the last one, the call."""
        call, work.call = work.call, None
        assert call is not None
        call.tasks.remove(work.view.id)
        if not call.tasks:
            call.host.calls.remove(call)

    # What it answers

    def _judge(self, command: Command) -> None:
        match command:
            case Admit():
                self._judge_admit(command)
            case Start():
                self._judge_start(command)
            case Retry():
                self._judge_retry(command)
            case GiveUp():
                self._judge_give_up(command)
            case WakeAt():
                _hold(command.time >= self.now, "wake-ups", f"{command} lies in the past")
                _hold(not self.wakes or command.time < min(self.wakes), "wake-ups", f"{command} is needless")
                self.wakes.append(command.time)
            case Reject():
                raise Violation(f"admission: max_inflight never rejects: {command}")
            case _:
                assert_never(command)

    def _judge_admit(self, admit: Admit) -> None:
        job = self.waiting.get(admit.job)
        if job is None:
            raise Violation(f"conservation: {admit}, which does not wait")
        first = next(other.id for other in self.waiting.values() if other.run == job.run)
        _hold(first == job.id, "admission", f"{admit} before job {first} of its run")
        self.admitted[job.id] = self.waiting.pop(job.id)

    def _judge_start(self, start: Start) -> None:
        works = [self.works.get(task) for task in start.tasks]
        states = [None if work is None else work.state for work in works]
        _hold(set(states) == {"queued"}, "conservation", f"{start} of tasks that are {states}")
        batch = [work for work in works if work is not None]
        host = self.hosts[start.endpoint]
        _hold(
            host.room > 0, "limit", f"{start}, where {len(host.calls)} of {host.limit} run, open: {host.open}"
        )
        _hold({work.view.pool for work in batch} == {host.pool}, "pool", f"{start} in pool {host.pool!r}")
        if self.scheduler.policy.place == "least_loaded":
            better = [h.name for h in self._open(host.pool) if h.room and h.load < host.load]
            _hold(not better, "placement", f"{start}, but {better} are less loaded")
        self._judge_order(start, batch)
        call = Call(host, set(start.tasks), sum(w.view.in_tokens + w.view.max_out_tokens for w in batch))
        host.calls.append(call)
        for work in batch:
            work.state, work.call = "running", call
        self.num_calls += 1

    def _judge_order(self, start: Start, batch: list[Work]) -> None:
        """The first task is the first that may go; the others are those with its batch key, as far as they fit."""
        head = batch[0]
        rivals = [w for w in self._queued(head.view.pool) if not self._may_be_held(w)]
        first = min(rivals, key=lambda work: work.key, default=head)
        _hold(self._may_be_held(head) or first is head, "order", f"{start} before task {first.view.id}")
        group = [head]
        if head.limits is not None:
            same = [w for w in self._queued(head.view.pool) if w.view.batch_key == head.view.batch_key]
            group = sorted(same, key=lambda work: work.key)
        _hold(batch == group[: len(batch)], "batch", f"{start} of {[w.view.id for w in group]}")
        if head.limits is not None:
            tokens = [sum(w.view.in_tokens for w in group[:size]) for size in range(len(group) + 1)]
            fitting = [
                size
                for size in range(1, len(group) + 1)
                if size == 1 or (size <= head.limits.max_items and tokens[size] <= head.limits.max_tokens)
            ]
            _hold(len(batch) == max(fitting), "batch", f"{start}: {max(fitting)} tasks fit in {head.limits}")

    def _judge_retry(self, retry: Retry) -> None:
        work, failed = self._answered(retry)
        allowed = (
            failed.fault in RETRYABLE and not failed.seen_tokens and work.failures < failed.attempts_allowed
        )
        _hold(allowed and retry.attempt == work.failures, "retry", f"{retry} of {failed}")
        asked = failed.retry_after_s or 0.0
        left = float("inf") if work.view.deadline is None else work.view.deadline - self.now
        least = min(asked, left) if left > 0 else asked
        alone = work.limits is None or work.limits.max_items == 1  # company shares the first one's time
        in_time = (not alone or least - ROUNDING_S <= retry.delay_s) and retry.delay_s <= max(
            asked, MAX_BACKOFF_S
        )
        _hold(in_time, "retry", f"{retry} of {failed}, {left} s before its deadline")
        work.state, work.due = "delayed", self.now + retry.delay_s
        self.num_repeated += 1

    def _judge_give_up(self, given_up: GiveUp) -> None:
        work, failed = self._answered(given_up)
        final = (
            failed.fault not in RETRYABLE or failed.seen_tokens or work.failures >= failed.attempts_allowed
        )
        broke = self.scheduler.policy.retry_budget is not None and self.num_repeated >= RESERVE - 1
        _hold(final or broke, "retry", f"{given_up} of {failed}")
        del self.works[given_up.task]

    def _answered(self, answer: Retry | GiveUp) -> tuple[Work, TaskFailed]:
        failed, self._failed = self._failed, None
        if failed is None or failed.task != answer.task:
            raise Violation(f"conservation: {answer} answers no failure")
        return self.works[answer.task], failed

    # What holds after every event

    def _compare(self) -> None:
        """The core's account is the same."""
        seen = self.scheduler.snapshot()
        counts = [work.state for work in self.works.values()]
        ours = (len(self.admitted), len(self.waiting), counts.count("delayed"), counts.count("running"))
        theirs = (seen.admitted, seen.waiting, seen.delayed, seen.running)
        _hold(
            theirs == ours, "conservation", f"jobs in, waiting, tasks delayed, running: {theirs}, not {ours}"
        )
        queued = {pool: len(list(self._queued(pool))) for pool in seen.queued}
        _hold(seen.queued == queued, "conservation", f"queued {seen.queued}, not {queued}")
        views = {view.name: (view.in_flight, view.in_flight_tokens, view.limit) for view in seen.endpoints}
        known = [host for host in self.hosts.values() if host.open or host.calls]
        loads = {host.name: (len(host.calls), host.load[1], host.limit) for host in known}
        _hold(views == loads, "ledger symmetry", f"in flight {views}, not {loads}")

    def _nothing_left_waiting(self) -> None:
        """No job waits beside a free place, and no task beside an endpoint with room."""
        for run in {job.run for job in self.waiting.values()}:
            jobs = [job for job in self.admitted.values() if job.run == run]
            limit = next(job.max_inflight for job in self.waiting.values() if job.run == run)
            limit = self._max_inflight if limit is None else limit
            _hold(len(jobs) == limit, "admission", f"{len(jobs)} of {limit} jobs of run {run!r} are in")
        for pool in {host.pool for host in self.hosts.values()}:
            if any(host.room for host in self._open(pool)):
                idle = [work.view.id for work in self._queued(pool) if not self._may_be_held(work)]
                _hold(not idle, "work conservation", f"tasks {idle} wait while pool {pool!r} has room")

    def _may_be_held(self, work: Work) -> bool:
        """Whether a queued task may wait for company though there is room."""
        limits, pool = work.limits, work.view.pool
        if limits is None or self.now >= work.since + limits.max_wait_s:
            return False
        same = [w.view for w in self._queued(pool) if w.view.batch_key == work.view.batch_key]
        full = len(same) >= limits.max_items or sum(view.in_tokens for view in same) >= limits.max_tokens
        return not full and any(host.calls for host in self.hosts.values() if host.pool == pool)

    def _queued(self, pool: str) -> Iterable[Work]:
        return (work for work in self.works.values() if work.state == "queued" and work.view.pool == pool)

    def _open(self, pool: str) -> Iterable[Host]:
        return (host for host in self.hosts.values() if host.open and host.pool == pool)


def _hold(holds: bool, invariant: str, otherwise: str) -> None:
    if not holds:
        raise Violation(f"{invariant}: {otherwise}")
