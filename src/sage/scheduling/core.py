"""The scheduler: an event and the time go in, a list of commands comes out. It waits for nothing."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, assert_never

from sage.errors import InternalError
from sage.scheduling.admit import ADMITS
from sage.scheduling.batch import BATCHES
from sage.scheduling.lanes import Task
from sage.scheduling.limit import LIMITS
from sage.scheduling.messages import (
    Admit,
    Command,
    EndpointJoined,
    EndpointLeft,
    Event,
    GiveUp,
    JobArrived,
    JobOver,
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
from sage.scheduling.place import PLACES
from sage.scheduling.policy import Policy, make
from sage.scheduling.pool import Pool
from sage.scheduling.retry import Retries, by_deadline
from sage.scheduling.share import SHARES
from sage.scheduling.views import JobView, Snapshot

if TYPE_CHECKING:
    import random

__all__ = ["Scheduler"]

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

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.policy = policy
        self._now = float("-inf")
        self._admit = make(ADMITS, policy.admit)
        self._order = make(ORDERS, policy.order)
        self._retries = Retries(policy.retry_budget, rng)
        self._pools: dict[str, Pool] = {}
        self._jobs: dict[int, JobView] = {}  # let in, not over
        self._tasks: dict[int, Task] = {}  # not ended
        self._tasks_of: dict[int, dict[int, Task]] = {}  # job -> those of its tasks, if any
        self._delayed: list[tuple[float, int, Task]] = []  # heap: when a failed task queues again
        self._wakes: list[float] = []  # Ticks asked for and not here yet, the earliest last

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in what happened; returns what to do, in this order. Time never goes back."""
        assert now >= self._now, f"time went back from {self._now} to {now}"
        self._now = now
        out: list[Command] = []
        woken = bool(self._wakes) and self._wakes[-1] <= now + ROUNDING_S
        if woken:
            self._queue_due(now, out)
        match event:
            case TaskDone():
                self._task_done(event, now, out)
            case TaskReady():
                self._task_ready(event, now, out)
            case JobArrived():
                self._job_arrived(event, out)
            case JobOver():
                self._job_over(event, out)
            case TaskFailed():
                self._task_failed(event, now, out)
            case TaskDropped():
                self._task_dropped(event)
            case Tick():
                pass  # what is due is seen to by whichever event comes
            case EndpointJoined():
                self._endpoint_joined(event, now, out)
            case EndpointLeft():
                self._endpoint_left(event)
            case _:
                assert_never(event)
        if woken:
            self._start_due(now, out)
        return out

    # Jobs

    def _job_arrived(self, event: JobArrived, out: list[Command]) -> None:
        job = event.job
        if job.id in self._jobs:
            raise InternalError(f"job {job.id} arrived twice")
        if self._admit.arrived(job):
            self._jobs[job.id] = job
            out.append(Admit(job.id))

    def _job_over(self, event: JobOver, out: list[Command]) -> None:
        job = self._jobs.get(event.job)
        if job is None:
            if not self._admit.withdrawn(event.job):
                raise InternalError(f"job {event.job} is over, but it is over already or never arrived")
            return
        if event.job in self._tasks_of:
            self._drop_all(event.job)
        del self._jobs[event.job]
        following = self._admit.over(job)
        if following is not None:
            self._jobs[following.id] = following
            out.append(Admit(following.id))

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
        pool = self._pools.get(view.pool) or self._new_pool(view.pool)
        task = Task(view, self._order.key(view), pool)
        self._tasks[view.id] = task
        siblings = self._tasks_of.get(view.job)
        if siblings is None:
            self._tasks_of[view.job] = {view.id: task}
        else:
            siblings[view.id] = task
        self._queue(task, now, out)
        if pool.room:
            self._fill(pool, now, out)

    def _task_done(self, event: TaskDone, now: float, out: list[Command]) -> None:
        task = self._running(event.task)
        task.pool.end(task)
        self._forget(task)
        if task.pool.room:
            self._fill(task.pool, now, out)

    def _task_failed(self, event: TaskFailed, now: float, out: list[Command]) -> None:
        task = self._running(event.task)
        call = task.pool.end(task)
        task.failures += 1
        paid = call.retry_at is not None and call.retry_at >= now
        refusal = self._retries.refusal(event, task.failures, paid=paid)
        if refusal is not None:
            self._forget(task)
            out.append(GiveUp(event.task, task.failures, refusal))
        else:
            if call.retry_at is None or not paid:
                call.retry_at = self._retries.next_call(event, task.failures, now)
            due = by_deadline(call.retry_at, task.view.deadline, now)
            task.state = "delayed"
            heappush(self._delayed, (due, event.task, task))
            out.append(Retry(event.task, task.failures, due - now))
            self._ask(due, out)
        self._fill(task.pool, now, out)

    def _task_dropped(self, event: TaskDropped) -> None:
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
            task.pool.drop(task)
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
        due = task.pool.push(task, now)
        if due is not None:
            self._ask(due, out)

    def _fill(self, pool: Pool, now: float, out: list[Command]) -> None:
        """Start calls while there is room and somebody waits."""
        while pool.room and pool.queued and (tasks := pool.pop(now)):
            call = pool.start(tasks)
            self._retries.called()
            out.append(Start(tuple([task.view.id for task in tasks]), call.endpoint.name))

    # Endpoints

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
        pool = self._pools.get(event.pool) or self._new_pool(event.pool)
        pool.join(event.name, event.limit)
        self._fill(pool, now, out)

    def _endpoint_left(self, event: EndpointLeft) -> None:
        pool = self._pool_with(event.name)
        if pool is None or not pool.is_open(event.name):
            raise InternalError(f"endpoint {event.name!r} left, but it had not joined, or has left already")
        pool.leave(event.name)

    def _pool_with(self, endpoint: str) -> Pool | None:
        return next((pool for pool in self._pools.values() if pool.has(endpoint)), None)

    def _new_pool(self, name: str) -> Pool:
        policy = self.policy
        pool = self._pools[name] = Pool(
            name,
            make(SHARES, policy.share),
            make(PLACES, policy.place),
            make(LIMITS, policy.limit),
            make(BATCHES, policy.batch),
        )
        return pool

    # Time

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
            pool.open_due(soon)

    def _start_due(self, now: float, out: list[Command]) -> None:
        """Start what was put off until now, and ask for the next Tick."""
        for pool in self._pools.values():
            self._fill(pool, now, out)
            due = pool.next_due()
            if due is not None:
                self._ask(due, out)
        while self._delayed and self._delayed[0][2].state == "over":
            heappop(self._delayed)
        if self._delayed:
            self._ask(self._delayed[0][0], out)

    # Looking in

    def snapshot(self) -> Snapshot:
        """What is queued, running and waiting now."""
        states = [task.state for task in self._tasks.values()]
        return Snapshot(
            admitted=len(self._jobs),
            waiting=self._admit.waiting,
            queued={name: pool.queued for name, pool in self._pools.items()},
            delayed=states.count("delayed"),
            running=states.count("running"),
            endpoints=tuple(view for pool in self._pools.values() for view in pool.views()),
        )

    def check(self) -> None:
        """Assert every invariant of the state. Slow: for tests and simulations, after each event."""
        self._admit.check(len(self._jobs))
        for pool in self._pools.values():
            pool.check([task for task in self._tasks.values() if task.pool is pool])
        listed = {key: task for tasks in self._tasks_of.values() for key, task in tasks.items()}
        assert listed == self._tasks
        assert self._tasks_of.keys() <= self._jobs.keys()
        due = [time for time, _, task in self._delayed if task.state == "delayed"]
        assert len(due) == sum(task.state == "delayed" for task in self._tasks.values())
        due += [time for pool in self._pools.values() if (time := pool.next_due()) is not None]
        assert not due or (self._wakes and self._wakes[-1] <= min(due)), "a task nobody will wake"
        assert self._wakes == sorted(self._wakes, reverse=True)
