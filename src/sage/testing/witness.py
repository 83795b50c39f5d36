"""A witness of the scheduler core: it hears what the core hears, and checks every answer from the outside."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import assert_never

from sage.scheduling.admit import MaxInflight
from sage.scheduling.batch import BATCHES
from sage.scheduling.core import ROUNDING_S, Scheduler
from sage.scheduling.lanes import NEVER
from sage.scheduling.learn import Account, Learner
from sage.scheduling.messages import (
    Admit,
    Command,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    EndpointMeasured,
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
from sage.scheduling.order import ORDERS, OrderWithLateness
from sage.scheduling.policy import make, make_admits
from sage.scheduling.pool import PARK_S
from sage.scheduling.retry import MAX_BACKOFF_S, RESERVE, RETRYABLE
from sage.scheduling.views import JobView, Snapshot, TaskView
from sage.testing.hosts import Host, Violation, Work, hold

__all__ = ["Violation", "Witness"]


class Witness:
    """Stands in front of a scheduler with the same ``handle``, and keeps an account of its own.

    Every answer is checked against the policy; then the two accounts are compared, and no task that could start
    may be left waiting. Only fairness between tenants is judged elsewhere, over time.

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
        self.down: dict[str, float] = {}  # pool -> since when all its endpoints fail
        self.wakes: list[float] = []  # asked for and still ahead
        self.num_calls = 0
        self.num_repeated = 0  # tasks tried again; at least as many as calls tried again
        policy = scheduler.policy
        self._order = make(ORDERS, policy.order)
        self._late = self._order.late if isinstance(self._order, OrderWithLateness) else None
        self._batch = make(BATCHES, policy.batch)
        admits = make_admits(policy.admit, is_fair=False)
        places = [member for member in admits if isinstance(member, MaxInflight)]
        self._max_inflight = (places[0] if places else MaxInflight()).jobs
        self._has_rules = policy.admit.partition("(")[0] not in {"open", "max_inflight"}
        self._learner = Learner()  # hears what the core's own hears
        self._accounts: dict[int, Account] = {}
        self._failed: TaskFailed | None = None  # to be answered by Retry or GiveUp
        self._flips: list[tuple[str, str]] = []  # of breakers, (endpoint, state), to be told

    def handle(self, event: Event, now: float) -> list[Command]:
        """Pass an event on, check the answer and return it."""
        self.now = now
        self.wakes = [time for time in self.wakes if time > now + ROUNDING_S]
        for work in self.works.values():
            if work.state == "delayed" and work.due <= now + ROUNDING_S:
                work.state, work.since = "queued", now
        self._flips = [(h.name, "half_open") for h in self.hosts.values() if h.is_probe_due(now + ROUNDING_S)]
        self._hear(event)
        self._look_who_is_down()
        commands = self.scheduler.handle(event, now)
        seen = self.scheduler.snapshot()
        self._read_limits(seen)
        for command in commands:
            self._judge(command)
        if self._failed is not None:
            raise Violation(f"conservation: nothing answered {self._failed}")
        hold(not self._flips, "breaker", f"nothing told of {self._flips}")
        self._compare(seen)
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
                self._hear_job_over(event)
            case TaskReady():
                self._hear_ready(event.task)
            case TaskDone():
                work = self.works.pop(event.task)
                service_s = self._release(work, event, event.prompt_tokens + event.completion_tokens)
                self._learner.task_done(work.view, service_s, event.completion_tokens)
            case TaskFailed():
                self._failed = event
                work = self.works[event.task]
                self._release(work, event, 0)
                work.state = "failing"
                work.failures += 1
            case TaskDropped():
                self._accounts[self.works.pop(event.task).view.job].is_whole = False
            case EndpointJoined():
                host = self.hosts.setdefault(event.name, Host(event.name, event.pool))
                host.join(event.limit)
            case EndpointLeft():
                self.hosts[event.name].joined = False
            case Tick() | EndpointMeasured():
                pass
            case _:
                assert_never(event)

    def _hear_job_over(self, event: JobOver) -> None:
        self.waiting.pop(event.job, None)
        self.admitted.pop(event.job, None)
        left = [key for key, work in self.works.items() if work.view.job == event.job]
        for key in left:
            del self.works[key]
        account = self._accounts.pop(event.job, None)
        if account is not None and not left:
            self._learner.job_over(account)

    def _hear_ready(self, view: TaskView) -> None:
        siblings = sum(work.view.job == view.job for work in self.works.values())
        if view.job not in self._accounts:
            self._accounts[view.job] = Account(self.admitted[view.job])
        view = self._learner.filled(view, self._accounts[view.job], siblings)
        limits = None if view.batch_key is None else self._batch.limits(view)
        late = None if self._late is None else self._late(view)
        self.works[view.id] = Work(view, self._order.key(view), late or NEVER, limits, self.now)

    def _release(self, work: Work, event: TaskDone | TaskFailed, tokens: int) -> float:
        """A task of a call ended; with the last one, the call. Returns its share of the call's time."""
        call, work.call = work.call, None
        assert call is not None
        service_s = (self.now - call.started) / call.size
        self._accounts[work.view.job].used(work.view, service_s, tokens)
        call.tasks.remove(work.view.id)
        call.note(None if isinstance(event, TaskDone) else event.fault, done=isinstance(event, TaskDone))
        if not call.tasks:
            flip = call.host.end(call, self.now, judged=self.scheduler.policy.breaker)
            if flip is not None:
                self._flips.append((call.host.name, flip))
        return service_s

    def _look_who_is_down(self) -> None:
        for pool in {host.pool for host in self.hosts.values()}:
            states = [host.state for host in self._joined(pool)]
            if not states or "healthy" in states:
                self.down.pop(pool, None)
            else:
                self.down.setdefault(pool, self.now)

    def _read_limits(self, seen: Snapshot) -> None:
        """What the limit of the policy made of what the endpoints said."""
        is_static = self.scheduler.policy.limit == "static"
        for view in seen.endpoints:
            host = self.hosts[view.name]
            fits = view.limit == host.said if is_static else 1 <= view.limit <= host.said
            if not fits:
                raise Violation(f"limit: {view.limit} for an endpoint that says {host.said}")
            host.limit = view.limit

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
                hold(command.time >= self.now, "wake-ups", f"{command} lies in the past")
                hold(not self.wakes or command.time < min(self.wakes), "wake-ups", f"{command} is needless")
                self.wakes.append(command.time)
            case Reject():
                self._judge_reject(command)
            case EndpointChanged():
                flip = (command.endpoint, command.state)
                hold(flip in self._flips, "breaker", f"{command}, but due is {self._flips}")
                self._flips.remove(flip)
            case _:
                assert_never(command)

    def _judge_admit(self, admit: Admit) -> None:
        job = self.waiting.get(admit.job)
        if job is None:
            raise Violation(f"conservation: {admit}, which does not wait")
        first = next(other.id for other in self.waiting.values() if other.run == job.run)
        hold(self._has_rules or first == job.id, "admission", f"{admit} before job {first} of its run")
        self.admitted[job.id] = self.waiting.pop(job.id)

    def _judge_reject(self, reject: Reject) -> None:
        job = self.waiting.pop(reject.job, None)
        if job is None:
            raise Violation(f"conservation: {reject}, which does not wait")
        hold(self._has_rules and not job.pulled, "admission", f"{reject} of a job that waits")
        hold(bool(reject.reason), "admission", f"{reject} without a reason")
        hold(
            reject.retry_after_s is None or reject.retry_after_s > 0,
            "admission",
            f"{reject}: no time to wait",
        )
        if self.scheduler.policy.admit.startswith("feasible"):
            hold(job.deadline is not None, "admission", f"{reject}, which has no deadline")

    def _judge_start(self, start: Start) -> None:
        works = [self.works.get(task) for task in start.tasks]
        states = [None if work is None else work.state for work in works]
        hold(set(states) == {"queued"}, "conservation", f"{start} of tasks that are {states}")
        batch = [work for work in works if work is not None]
        host = self.hosts[start.endpoint]
        hold(host.room > 0, "limit", f"{start}, where {len(host.calls)} of {host.allowed} run: {host.state}")
        hold({work.view.pool for work in batch} == {host.pool}, "pool", f"{start} in pool {host.pool!r}")
        self._judge_place(start, host, batch[0].view)
        self._judge_order(start, batch)
        tokens = sum(w.view.in_tokens + w.view.max_out_tokens for w in batch)
        call = host.start(set(start.tasks), tokens, self.now)
        for work in batch:
            work.state, work.call = "running", call
        self.num_calls += 1

    def _judge_place(self, start: Start, host: Host, task: TaskView) -> None:
        place = self.scheduler.policy.place.partition("(")[0]
        rivals = [h for h in self._joined(host.pool) if h.room]
        better = [h.name for h in rivals if h.load < host.load]
        if place == "least_loaded" or (place == "prefix_affinity" and task.prefix_key is None):
            hold(not better, "placement", f"{start}, but {better} are less loaded")
        elif place == "pack":
            fuller = [h.name for h in rivals if h.load[0] > host.load[0]]
            hold(not fuller, "placement", f"{start}, but {fuller} are fuller")
        elif place == "prefix_affinity" and better:
            takers = [h for h in self._joined(host.pool) if h.allowed]
            calls, limit = sum(len(h.calls) for h in takers), sum(h.allowed for h in takers)
            most = 1.25 * (calls + 1) * host.allowed / limit
            hold(len(host.calls) < ceil(most), "placement", f"{start} beyond {most} calls")

    def _judge_order(self, start: Start, batch: list[Work]) -> None:
        """The first task is the first that may go; the others are those with its batch key, as far as they fit."""
        head = batch[0]
        rivals = [w for w in self._queued(head.view.pool) if not self._may_be_held(w) and self._vie(w, head)]
        first = self._first(rivals) or head
        hold(self._may_be_held(head) or first is head, "order", f"{start} before task {first.view.id}")
        group = [head]
        if head.limits is not None:
            same = [w for w in self._queued(head.view.pool) if w.view.batch_key == head.view.batch_key]
            group += sorted((w for w in same if w is not head), key=lambda work: work.key)
        hold(batch == group[: len(batch)], "batch", f"{start} of {[w.view.id for w in group]}")
        if head.limits is not None:
            tokens = [sum(w.view.in_tokens for w in group[:size]) for size in range(len(group) + 1)]
            fitting = [
                size
                for size in range(1, len(group) + 1)
                if size == 1 or (size <= head.limits.max_items and tokens[size] <= head.limits.max_tokens)
            ]
            hold(len(batch) == max(fitting), "batch", f"{start}: {max(fitting)} tasks fit in {head.limits}")

    def _vie(self, one: Work, other: Work) -> bool:
        """Whether two tasks stand in the same lane."""
        share = self.scheduler.policy.share
        if share == "weighted_fair":
            return one.view.tenant == other.view.tenant
        return share == "none" or one.view.pipeline == other.view.pipeline

    def _first(self, works: list[Work]) -> Work | None:
        """Whose turn it is in one lane."""
        late = [work for work in works if work.late.after < self.now]
        in_time = [work for work in works if work.late.after >= self.now]
        overdue = [work for work in late if work.late.key <= self.now]
        if overdue or not in_time:
            return min(late, key=lambda work: (work.late.key, work.view.id), default=None)
        return min(in_time, key=lambda work: work.key)

    def _judge_retry(self, retry: Retry) -> None:
        work, failed = self._answered(retry)
        allowed = (
            failed.fault in RETRYABLE and not failed.seen_tokens and work.failures < failed.attempts_allowed
        )
        hold(allowed and retry.attempt == work.failures, "retry", f"{retry} of {failed}")
        asked = failed.retry_after_s or 0.0
        left = float("inf") if work.view.deadline is None else work.view.deadline - self.now
        least = min(asked, left) if left > 0 else asked
        alone = work.limits is None or work.limits.max_items == 1  # company shares the first one's time
        in_time = (not alone or least - ROUNDING_S <= retry.delay_s) and retry.delay_s <= max(
            asked, MAX_BACKOFF_S
        )
        hold(in_time, "retry", f"{retry} of {failed}, {left} s before its deadline")
        work.state, work.due = "delayed", self.now + retry.delay_s
        self.num_repeated += 1

    def _judge_give_up(self, given_up: GiveUp) -> None:
        if self._failed is None or self._failed.task != given_up.task:
            self._judge_parked(given_up)
            return
        work, failed = self._answered(given_up)
        final = (
            failed.fault not in RETRYABLE or failed.seen_tokens or work.failures >= failed.attempts_allowed
        )
        broke = self.scheduler.policy.retry_budget is not None and self.num_repeated >= RESERVE - 1
        hold(final or broke, "retry", f"{given_up} of {failed}")
        self._forget(work)

    def _judge_parked(self, given_up: GiveUp) -> None:
        """A task that queues is given up only when its pool has been down for long."""
        work = self.works.get(given_up.task)
        if work is None or work.state != "queued":
            raise Violation(f"conservation: {given_up}, which does not queue")
        since = self.down.get(work.view.pool, self.now)
        hold(self.now + 2 * ROUNDING_S >= since + PARK_S, "parking", f"{given_up}, down since {since}")
        self._forget(work)

    def _forget(self, work: Work) -> None:
        self._accounts[work.view.job].is_whole = False
        del self.works[work.view.id]

    def _answered(self, answer: Retry | GiveUp) -> tuple[Work, TaskFailed]:
        failed, self._failed = self._failed, None
        if failed is None or failed.task != answer.task:
            raise Violation(f"conservation: {answer} answers no failure")
        return self.works[answer.task], failed

    # What holds after every event

    def _compare(self, seen: Snapshot) -> None:
        """The core's account is the same."""
        states = [work.state for work in self.works.values()]
        ours = (len(self.admitted), len(self.waiting), states.count("delayed"), states.count("running"))
        theirs = (seen.admitted, seen.waiting, seen.delayed, seen.running)
        if theirs != ours:
            raise Violation(f"conservation: jobs in, waiting, tasks delayed, running: {theirs}, not {ours}")
        queued = dict.fromkeys(seen.queued, 0)
        for work in self.works.values():
            if work.state == "queued":
                queued[work.view.pool] += 1
        if seen.queued != queued:
            raise Violation(f"conservation: queued {seen.queued}, not {queued}")
        known = [host for host in self.hosts.values() if host.joined or host.calls]
        if len(seen.endpoints) != len(known):
            raise Violation(f"ledger symmetry: {seen.endpoints}, not {[host.name for host in known]}")
        for view in seen.endpoints:
            host = self.hosts[view.name]
            if (view.in_flight, view.in_flight_tokens) != (len(host.calls), host.tokens):
                raise Violation(
                    f"ledger symmetry: {view}, not {len(host.calls)} calls of {host.tokens} tokens"
                )
            if view.state != host.state:
                raise Violation(f"breaker: {view}, not {host.state}")
        if set(seen.down) != self.down.keys():
            raise Violation(f"breaker: down: {seen.down}, not {set(self.down)}")

    def _nothing_left_waiting(self) -> None:
        """No job waits beside a free place, and no task beside an endpoint with room."""
        if self.waiting and not self._has_rules:
            self._no_job_left_waiting()
        lingers = any(time <= self.now + ROUNDING_S for time in self.wakes)  # a slot is kept for a moment
        for pool in {work.view.pool for work in self.works.values() if work.state == "queued"}:
            since = self.down.get(pool, self.now)
            if self.now > since + PARK_S:
                parked = [work.view.id for work in self._queued(pool)]
                raise Violation(f"parking: tasks {parked} wait for ever")
            if not lingers and any(host.room for host in self._joined(pool)):
                idle = [work.view.id for work in self._queued(pool) if not self._may_be_held(work)]
                hold(not idle, "work conservation", f"tasks {idle} wait while pool {pool!r} has room")

    def _no_job_left_waiting(self) -> None:
        for run in {job.run for job in self.waiting.values()}:
            jobs = [job for job in self.admitted.values() if job.run == run]
            limit = next(job.max_inflight for job in self.waiting.values() if job.run == run)
            limit = self._max_inflight if limit is None else limit
            hold(len(jobs) == limit, "admission", f"{len(jobs)} of {limit} jobs of run {run!r} are in")

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

    def _joined(self, pool: str) -> Iterable[Host]:
        return (host for host in self.hosts.values() if host.joined and host.pool == pool)
