"""The scheduler: an event and the time go in, a list of commands comes out. It waits for nothing."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from sage.errors import InternalError
from sage.events import Why
from sage.scheduling.admit import Gate, has_rules
from sage.scheduling.lanes import NEVER, Task
from sage.scheduling.learn import Memory
from sage.scheduling.messages import (
    Admit,
    Command,
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
from sage.scheduling.policy import Policy, make, make_admits
from sage.scheduling.pool import PARK_S, Pool, open_pool
from sage.scheduling.retry import UNSERVED, Retries, by_deadline
from sage.scheduling.views import ClusterView, JobView, Snapshot, TaskView

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Scheduler"]

NOTHING_TO_DECIDE = Why()

#: Timers may fire a rounding error early: what is due this soon is due now.
ROUNDING_S = 1e-6


class Scheduler:
    """Decides which task starts where and when, for all jobs of a session.

    Every change of the world is told to :meth:`handle`, in the order it happened; what must be done about it
    is returned. The same events with the same seed give the same commands.

    >>> import random
    >>> from sage.scheduling.views import TaskView
    >>> scheduler = Scheduler(Policy(), random.Random(0))
    >>> scheduler.handle(EndpointJoined("a", pool="llm", limit=1), now=0.0)
    []
    >>> scheduler.handle(JobArrived(JobView(7, run="r", pipeline="rag", arrived=0.0)), now=0.0)
    [Admit(job=7)]
    >>> task = TaskView(1, 7, "answer", "rag", "llm", "generate", arrived=0.0, ready=0.5)
    >>> scheduler.handle(TaskReady(task), now=0.5)
    [Start(tasks=(1,), endpoint='a')]

    Raises:
        InternalError: (from ``handle``) the events contradict each other, such as a second end of one task.
    """

    def __init__(self, policy: Policy, rng: random.Random, *, has_rates: bool = False) -> None:
        self.policy = policy
        self._rng = rng
        self._now = float("-inf")
        self._order = make(ORDERS, policy.order)
        self._late = self._order.late if isinstance(self._order, OrderWithLateness) else None
        self._lingers = getattr(self._order, "lingers", True)
        rules = make_admits(policy.admit, is_fair=policy.share != "none", has_rates=has_rates)
        is_blind = getattr(self._order, "is_blind", False) and policy.share == "none" and not has_rules(rules)
        self._memory = Memory(learns=not is_blind)
        self._gate = Gate(rules, self._memory.learner.forecast, self._cluster)
        self._retries = Retries(policy.retry_budget, rng)
        self._pools: dict[str, Pool] = {}
        self._jobs: dict[int, JobView] = {}  # let in, not over
        self._rejected: set[int] = set()  # jobs refused, not over
        self._tasks: dict[int, Task] = {}  # not ended
        self._tasks_of: dict[int, dict[int, Task]] = {}  # job -> those of its tasks, if any
        self._delayed: list[tuple[float, int, Task]] = []  # heap: when a failed task queues again
        self._wakes: list[float] = []  # Ticks asked for and not here yet, the earliest last
        self._take_in: dict[type[Event], Callable[[Any, float, list[Command]], None]] = {
            JobArrived: self._job_arrived,
            JobOver: self._job_over,
            TaskReady: self._task_ready,
            TaskDone: self._task_done,
            TaskFailed: self._task_failed,
            TaskDropped: self._task_dropped,
            EndpointJoined: self._endpoint_joined,
            EndpointLeft: self._endpoint_left,
            EndpointMeasured: self._endpoint_measured,
            Tick: self._tick,
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in what happened; returns what to do, in this order. Time never goes back."""
        assert now >= self._now, f"time went back from {self._now} to {now}"
        self._now = now
        out: list[Command] = []
        woken = bool(self._wakes) and self._wakes[-1] <= now + ROUNDING_S
        if woken:
            self._queue_due(now, out)
        self._take_in[type(event)](event, now, out)
        if woken:
            self._start_due(now, out)
        return out

    # Jobs

    def _job_arrived(self, event: JobArrived, now: float, out: list[Command]) -> None:
        job = event.job
        if job.id in self._jobs:
            raise InternalError(f"job {job.id} arrived twice")
        if job.weight <= 0 or job.reserved < 0:
            raise InternalError(f"job {job.id}: weight {job.weight}, reserved {job.reserved}")
        answer = self._gate.arrived(job, now)
        if answer is not None:
            self._answer(answer, out)
        elif (due := self._gate.next_due()) is not None and due > now + ROUNDING_S:
            self._ask(due, out)

    def _answer(self, answer: JobView | Reject, out: list[Command]) -> None:
        """Say that a job is in, or never will be."""
        if isinstance(answer, Reject):
            self._rejected.add(answer.job)
            out.append(answer)
        else:
            self._jobs[answer.id] = answer
            out.append(Admit(answer.id))

    def _job_over(self, event: JobOver, _now: float, out: list[Command]) -> None:
        job = self._jobs.get(event.job)
        if job is None:
            if event.job in self._rejected:
                self._rejected.remove(event.job)
            elif not self._gate.withdrawn(event.job):
                raise InternalError(f"job {event.job} is over, but it is over already or never arrived")
            return
        if event.job in self._tasks_of:
            self._drop_all(event.job)
        del self._jobs[event.job]
        self._memory.job_over(event.job)
        following = self._gate.over(job)
        if following is not None:
            self._answer(following, out)

    def _cluster(self, now: float) -> ClusterView:
        return ClusterView(
            now, {name: pool.fleet.view(pool.line.queued) for name, pool in self._pools.items()}
        )

    def _drop_all(self, job: int) -> None:
        tasks = list(self._tasks_of[job].values())
        for task in tasks:
            if task.state == "running":
                raise InternalError(f"job {job} is over while its task {task.view.id} is still running")
        for task in tasks:
            self._drop(task)

    # Tasks

    def _task_ready(self, event: TaskReady, now: float, out: list[Command]) -> None:
        view = event.task
        if view.job not in self._jobs or view.id in self._tasks:
            wrong = (
                "is ready twice" if view.id in self._tasks else f"is of job {view.job}, which is not let in"
            )
            raise InternalError(f"task {view.id} {wrong}")
        pool = self._pools.get(view.pool) or self._open_pool(view.pool)
        task = self._new_task(view, pool)
        if not event.more and pool.fleet.room and pool.line.passes(task, now):
            self._call([task], pool, now, out)
            return
        self._queue(task, now, out)
        if not event.more and (pool.fleet.room or pool.fleet.down_since is not None):
            self._fill(pool, now, out)

    def _new_task(self, view: TaskView, pool: Pool) -> Task:
        siblings = self._tasks_of.get(view.job)
        if siblings is None:
            siblings = self._tasks_of[view.job] = {}
        view = self._memory.filled(view, self._jobs[view.job], len(siblings))
        late = None if self._late is None else self._late(view)
        task = Task(view, self._order.key(view), pool, late or NEVER)
        self._tasks[view.id] = siblings[view.id] = task
        return task

    def _task_done(self, event: TaskDone, now: float, out: list[Command]) -> None:
        task = self._running(event.task)
        pool, view = task.pool, task.view
        call = pool.fleet.end(task, None, event.completion_tokens, now, done=True)
        tokens = event.prompt_tokens + event.completion_tokens
        pool.line.share.settle(task, tokens or None)
        service_s = (now - call.started) / call.size
        self._memory.task_done(view, service_s, event.prompt_tokens, event.completion_tokens)
        if self._gate.rules:
            self._gate.served(view.job, view.pool, service_s, tokens)
        self._forget(task)
        if pool.fleet.changed:
            self._breakers_changed(pool, out)
        if pool.fleet.room and pool.line.queued:
            if self._lingers:
                self._ask(
                    now, out
                )  # the job's next step, if it is ready at once, may come before those that wait
            else:
                self._fill(pool, now, out)

    def _task_failed(self, event: TaskFailed, now: float, out: list[Command]) -> None:
        task = self._running(event.task)
        pool = task.pool
        call = pool.fleet.end(task, event.fault, 0, now, done=False)
        pool.line.share.settle(task, 0.0 if event.fault in UNSERVED else None)
        service_s = (now - call.started) / call.size
        self._memory.task_failed(task.view, service_s)
        if self._gate.rules:
            self._gate.served(task.view.job, pool.name, service_s, 0.0)
        task.failures += 1
        paid = call.retry_at is not None and call.retry_at >= now
        budget = call.endpoint.budget
        refusal = self._retries.refusal(event, task.failures, budget, paid=paid)
        if refusal is not None:
            self._give_up(task, refusal, out)
        else:
            if call.retry_at is None or not paid:
                call.retry_at = self._retries.next_call(event, task.failures, budget, now)
            due = by_deadline(call.retry_at, task.view.deadline, now)
            task.state = "delayed"
            heappush(self._delayed, (due, event.task, task))
            out.append(Retry(event.task, task.failures, due - now))
            self._ask(due, out)
        if pool.fleet.changed:
            self._breakers_changed(pool, out)
        self._fill(pool, now, out)

    def _give_up(self, task: Task, reason: str, out: list[Command]) -> None:
        self._memory.cut_short(task.view.job)
        self._forget(task)
        out.append(GiveUp(task.view.id, task.failures, reason))

    def _task_dropped(self, event: TaskDropped, _now: float, _out: list[Command]) -> None:
        task = self._tasks.get(event.task)
        if task is None or task.state == "running":
            wrong = "has ended or was never ready" if task is None else "is running: abort it"
            raise InternalError(f"task {event.task} cannot be dropped: it {wrong}")
        self._drop(task)

    def _running(self, task_id: int) -> Task:
        task = self._tasks.get(task_id)
        if task is None or task.state != "running":
            wrong = (
                "has ended already or was never ready" if task is None else f"is {task.state}, not running"
            )
            raise InternalError(f"task {task_id} ended, but it {wrong}")
        return task

    def _drop(self, task: Task) -> None:
        if task.state == "queued":
            task.pool.line.drop(task)
        self._memory.cut_short(task.view.job)
        self._forget(task)

    def _forget(self, task: Task) -> None:
        view = task.view
        task.state = "over"
        del self._tasks[view.id]
        siblings = self._tasks_of[view.job]
        del siblings[view.id]
        if not siblings:
            del self._tasks_of[view.job]

    def _queue(self, task: Task, now: float, out: list[Command]) -> None:
        pool = task.pool
        due = pool.line.push(task, now, idle=pool.fleet.in_flight == 0)
        if due is not None:
            self._ask(due, out)

    def _fill(self, pool: Pool, now: float, out: list[Command]) -> None:
        """Start calls while there is room and somebody waits; give up those that wait in vain."""
        fleet, line = pool.fleet, pool.line
        while fleet.room and line.queued and (tasks := line.pop(now, idle=fleet.in_flight == 0)):
            self._call(tasks, pool, now, out)
        if fleet.down_since is not None and line.queued:
            self._park(pool, now, out)

    def _call(self, tasks: list[Task], pool: Pool, now: float, out: list[Command]) -> None:
        """Start a call for tasks that do not queue any more."""
        call = pool.fleet.start(tasks, now)
        call.queued = pool.line.queued
        for task in tasks:
            pool.line.share.charge(task)
        self._retries.called(call.endpoint.budget)
        out.append(Start(tuple([task.view.id for task in tasks]), call.endpoint.name))

    def _park(self, pool: Pool, now: float, out: list[Command]) -> None:
        """The pool is down: its tasks wait for a probe to succeed, for a while."""
        hopeless_at = pool.hopeless_at
        assert hopeless_at is not None
        if now + ROUNDING_S < hopeless_at:
            self._ask(hopeless_at, out)
            return
        reason = f"every endpoint of pool {pool.name!r} has been failing for {PARK_S:g} s"
        parked = [task for task in self._tasks.values() if task.pool is pool and task.state == "queued"]
        for task in parked:
            pool.line.drop(task)
            self._give_up(task, reason, out)

    # Endpoints

    def _breakers_changed(self, pool: Pool, out: list[Command]) -> None:
        """Tell of it, and ask for a Tick when a probe may be sent."""
        out += pool.fleet.changed
        pool.fleet.changed.clear()
        probe = pool.fleet.next_probe()
        if probe is not None:
            self._ask(probe, out)

    def _endpoint_joined(self, event: EndpointJoined, now: float, out: list[Command]) -> None:
        if event.limit < 1:
            raise InternalError(
                f"endpoint {event.name!r} joined with limit {event.limit}, expected at least 1"
            )
        known = self._pool_with(event.name)
        if known is not None and known.name != event.pool:
            raise InternalError(
                f"endpoint {event.name!r} joined pool {event.pool!r}, but is in {known.name!r}"
            )
        pool = self._pools.get(event.pool) or self._open_pool(event.pool)
        pool.fleet.join(event.name, event.limit, now)
        self._fill(pool, now, out)

    def _endpoint_left(self, event: EndpointLeft, now: float, out: list[Command]) -> None:
        pool = self._pool_with(event.name)
        if pool is None or not pool.fleet.is_joined(event.name):
            raise InternalError(f"endpoint {event.name!r} left, but it had not joined, or has left already")
        pool.fleet.leave(event.name, now)
        self._fill(pool, now, out)  # with it may have gone the last endpoint that did not fail

    def _endpoint_measured(self, event: EndpointMeasured, now: float, out: list[Command]) -> None:
        pool = self._pool_with(event.name)
        if pool is not None and pool.fleet.is_joined(event.name):
            pool.fleet.measured(event, now)
            self._fill(pool, now, out)

    def _pool_with(self, endpoint: str) -> Pool | None:
        return next((pool for pool in self._pools.values() if pool.fleet.has(endpoint)), None)

    def _open_pool(self, name: str) -> Pool:
        pool = self._pools[name] = open_pool(name, self.policy, self._rng)
        return pool

    # Time

    def _tick(self, event: Tick, now: float, out: list[Command]) -> None:
        """What is due is seen to by whichever event comes."""

    def _ask(self, time: float, out: list[Command]) -> None:
        """Ask for a Tick, unless an earlier one is coming: that one will ask again."""
        if not self._wakes or time < self._wakes[-1]:
            self._wakes.append(time)
            out.append(WakeAt(time))

    def _queue_due(self, now: float, out: list[Command]) -> None:
        """Queue what was put off until now. Nothing starts yet: the event may be about these very tasks."""
        soon = now + ROUNDING_S
        while self._wakes and self._wakes[-1] <= soon:
            self._wakes.pop()
        while self._delayed and (self._delayed[0][0] <= soon or self._delayed[0][2].state == "over"):
            _, _, task = heappop(self._delayed)
            if task.state == "delayed":
                self._queue(task, now, out)
        for pool in self._pools.values():
            pool.line.open_due(soon, idle=pool.fleet.in_flight == 0)
            pool.fleet.probe_due(soon)
            if pool.fleet.changed:
                self._breakers_changed(pool, out)

    def _start_due(self, now: float, out: list[Command]) -> None:
        """Start and let in what was put off until now, and ask for the next Tick."""
        for answer in self._gate.due(now + ROUNDING_S):
            self._answer(answer, out)
        for pool in self._pools.values():
            self._fill(pool, now, out)
        while self._delayed and self._delayed[0][2].state == "over":
            heappop(self._delayed)
        due = [time for pool in self._pools.values() if (time := pool.next_due()) is not None]
        if self._delayed:
            due.append(self._delayed[0][0])
        if (put_off := self._gate.next_due()) is not None:
            due.append(put_off)
        if due:
            self._ask(min(due), out)

    # Looking in

    def why(self, task_id: int) -> Why:
        """What a running task was started by: for the log."""
        task = self._tasks[task_id]
        call = task.call
        assert call is not None, task_id
        if not call.queued and call.started == task.queued_at:
            return NOTHING_TO_DECIDE
        aside_s = 0.0 if task.aside_at is None else call.started - task.aside_at
        return Why(
            task.key,
            call.in_flight,
            call.limit,
            call.queued,
            call.started - task.queued_at,
            task.turn,
            task.reserve,
            task.held_s,
            aside_s,
        )

    def held(self, job: int) -> tuple[tuple[str, float], ...]:
        """What kept a job outside, each with the time from when on; to be asked once, before the job is over."""
        return self._gate.held(job)

    def snapshot(self) -> Snapshot:
        """What is queued, running and waiting now."""
        states = [task.state for task in self._tasks.values()]
        return Snapshot(
            admitted=len(self._jobs),
            waiting=self._gate.waiting,
            queued={name: pool.line.queued for name, pool in self._pools.items()},
            delayed=states.count("delayed"),
            running=states.count("running"),
            endpoints=tuple(view for pool in self._pools.values() for view in pool.fleet.views()),
            down=tuple(name for name, pool in self._pools.items() if pool.fleet.down_since is not None),
        )

    def check(self) -> None:
        """Assert every invariant of the state. Slow: for tests and simulations, after each event."""
        self._gate.check(len(self._jobs))
        lingers = bool(self._wakes) and self._wakes[-1] <= self._now + ROUNDING_S
        for pool in self._pools.values():
            pool.check([task for task in self._tasks.values() if task.pool is pool], lingers=lingers)
        assert sum(map(len, self._tasks_of.values())) == len(self._tasks)
        for job, tasks in self._tasks_of.items():
            assert tasks, f"job {job} is kept without a task"
            assert all(self._tasks.get(key) is task for key, task in tasks.items())
        assert self._tasks_of.keys() <= self._jobs.keys()
        self._memory.check(self._jobs)
        due = [time for time, _, task in self._delayed if task.state == "delayed"]
        assert len(due) == sum(task.state == "delayed" for task in self._tasks.values())
        due += [time for pool in self._pools.values() if (time := pool.next_due()) is not None]
        if (put_off := self._gate.next_due()) is not None:
            due.append(put_off)
        assert not due or (self._wakes and self._wakes[-1] <= min(due)), "a task nobody will wake"
        assert self._wakes == sorted(self._wakes, reverse=True)
