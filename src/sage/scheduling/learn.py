"""What earlier calls teach about later ones: service times and answer lengths, step by step.

Nothing here decides. Every figure is of the latest calls only, so that it follows an engine that changes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from msgspec.structs import replace

from sage.scheduling.views import Forecast, JobView, TaskView

__all__ = ["NOMINAL_S", "Account", "Learner", "Memory", "Recent", "expected_tokens"]

#: What a step counts as while nothing is known of any: equal deadlines then compare by the number of steps, and
#: nobody is taken for late.
NOMINAL_S = 0.001

WINDOW = 64  # figures remembered of each step
MAX_STEPS = 4096  # steps remembered; the one first seen is forgotten first
MAX_PIPELINES = 1024

_INDEX = re.compile(r"\[[^\]]*\]")


class Recent:
    """The latest figures of a kind: their quantiles, exact over the window.

    >>> recent = Recent()
    >>> for figure in range(1, 101):
    ...     recent.add(figure)
    >>> recent.quantile(0.5), recent.quantile(0.9)
    (69, 94)
    """

    __slots__ = ("_next", "_ring", "_sorted")

    def __init__(self) -> None:
        self._ring: list[float] = []
        self._sorted: list[float] = []
        self._next = 0  # the oldest, where the ring is full

    def beyond(self, figure: float) -> float:
        """By how much those that exceed a figure do so, on average; 0 where none does.

        >>> recent = Recent()
        >>> for length in (1.0, 4.0, 7.0):
        ...     recent.add(length)
        >>> recent.beyond(0.0), recent.beyond(3.0), recent.beyond(9.0)
        (4.0, 2.5, 0.0)
        """
        longer = self._sorted[bisect_right(self._sorted, figure) :]
        return sum(longer) / len(longer) - figure if longer else 0.0

    def add(self, figure: float) -> None:
        """Take in one more; beyond the window, the oldest is forgotten."""
        if len(self._ring) < WINDOW:
            self._ring.append(figure)
        else:
            oldest = self._ring[self._next]
            self._ring[self._next] = figure
            self._next = (self._next + 1) % WINDOW
            del self._sorted[bisect_left(self._sorted, oldest)]
        insort(self._sorted, figure)

    def quantile(self, share: float) -> float:
        """The figure that a share of them, below 1, does not exceed; 0 where there are none."""
        return (
            self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)] if self._sorted else 0.0
        )


class Mean:
    """The mean of the latest figures, those of long ago weighing less and less (exponentially, over ``WINDOW``)."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0  # 0 where there are none

    def add(self, figure: float) -> None:
        """Take in one more."""
        self.count += self.count < WINDOW
        self.value += (figure - self.value) / self.count


class Account:
    """What one job has used so far."""

    __slots__ = ("attained_s", "is_whole", "job", "longest", "path_s", "since_s", "tokens", "work_s")

    def __init__(self, job: JobView) -> None:
        self.job = job
        self.attained_s = 0.0
        self.tokens = 0.0  # in and out
        self.work_s: dict[str, float] = {}  # pool -> service times
        self.longest: TaskView | None = None  # the task with most steps ahead
        self.is_whole = True  # none of its tasks was given up or dropped
        self.path_s = 0.0  # service times on the longest way it has gone so far
        self.since_s: dict[
            int, float
        ] = {}  # task that is not done -> how far the job was when it became ready

    def used(self, task: TaskView, service_s: float, tokens: float) -> None:
        """A call, or its share of one, ended."""
        self.attained_s += service_s
        self.tokens += tokens
        self.work_s[task.pool] = self.work_s.get(task.pool, 0.0) + service_s
        along_s = self.since_s[task.id] = self.since_s.get(task.id, 0.0) + service_s
        self.path_s = max(self.path_s, along_s)


class Step:
    """The latest calls of one step."""

    __slots__ = ("out_tokens", "service_s")

    def __init__(self) -> None:
        self.service_s = Mean()
        self.out_tokens = Recent()


class Pipeline:
    """The latest jobs of one pipeline."""

    __slots__ = ("longest", "path_s", "tokens", "work_s")

    def __init__(self) -> None:
        self.work_s: dict[str, Mean] = {}  # pool -> service times of a job there
        self.tokens = Recent()
        self.path_s = Recent()  # service times on the longest way of a job, all turns of its loops included
        self.longest: TaskView | None = None  # of the last job, the task with most steps ahead


class Learner:
    """Learns from every call that is done and every job that is over; fills in what is expected of the next.

    A step's service time is what passes from its start to its end, shared out evenly among the tasks of one
    call. A step not seen yet counts like the mean of its pool's, or of all, or ``NOMINAL_S``.
    """

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}
        self._pools: dict[str, Mean] = {}
        self._all = Mean()
        self._pipelines: dict[str, Pipeline] = {}

    # Learning

    def task_done(self, task: TaskView, service_s: float, out_tokens: int) -> None:
        """A call succeeded: how long this task's share of it took, and what came out."""
        name = _name(task)
        step = self._steps.get(name)
        if step is None:
            if len(self._steps) >= MAX_STEPS:
                del self._steps[next(iter(self._steps))]
            step = self._steps[name] = Step()
        step.service_s.add(service_s)
        if out_tokens:
            step.out_tokens.add(out_tokens)
        pool = self._pools.get(task.pool)
        if pool is None:
            pool = self._pools[task.pool] = Mean()
        pool.add(service_s)
        self._all.add(service_s)

    def job_over(self, account: Account) -> None:
        """A job is over; one that was cut short says nothing about the next."""
        if not account.is_whole or account.longest is None:
            return
        name = account.job.pipeline
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            if len(self._pipelines) >= MAX_PIPELINES:
                del self._pipelines[next(iter(self._pipelines))]
            pipeline = self._pipelines[name] = Pipeline()
        pipeline.longest = account.longest
        pipeline.tokens.add(account.tokens)
        pipeline.path_s.add(account.path_s)
        for pool in account.work_s.keys() - pipeline.work_s.keys():
            pipeline.work_s[pool] = Mean()
        for pool, mean in pipeline.work_s.items():
            mean.add(account.work_s.get(pool, 0.0))

    # Expecting

    def filled(self, task: TaskView, account: Account, siblings: int) -> TaskView:
        """The task with all that is known of it and of its job."""
        job, step = account.job, self._steps.get(_name(task))
        service_s = self._step_s(_name(task), task.pool)
        path_s = service_s + self._after_s(task)
        if account.longest is None or task.remaining_steps > account.longest.remaining_steps:
            account.longest = task
        pipeline = self._pipelines.get(job.pipeline)
        account.since_s[task.id] = account.path_s
        work_s = path_s
        if pipeline is not None:
            path_s = max(path_s, pipeline.path_s.beyond(account.path_s))
            expected_s = sum([mean.value for mean in pipeline.work_s.values()])
            work_s = max(path_s, expected_s - account.attained_s)
        p50 = p90 = float(task.max_out_tokens)
        if step is not None:
            p50, p90 = step.out_tokens.quantile(0.5), step.out_tokens.quantile(0.9)
        return replace(
            task,
            weight=job.weight,
            reserved=job.reserved,
            service_s=service_s,
            remaining_path_s=path_s,
            remaining_work_s=work_s,
            attained_s=account.attained_s,
            out_tokens_p50=p50,
            out_tokens_p90=p90,
            siblings=siblings,
        )

    def forecast(self, job: JobView) -> Forecast:
        """What is expected of a job that arrives."""
        pipeline = self._pipelines.get(job.pipeline)
        if pipeline is None or pipeline.longest is None:
            return Forecast()
        graph_s = self._step_s(_name(pipeline.longest), pipeline.longest.pool) + self._after_s(
            pipeline.longest
        )
        return Forecast(
            max(graph_s, pipeline.path_s.beyond(0.0)),
            {pool: mean.value for pool, mean in pipeline.work_s.items()},
            pipeline.tokens.quantile(0.9),
        )

    def _after_s(self, task: TaskView) -> float:
        """What follows a task on its longest path."""
        if not task.path:
            return (task.remaining_steps - 1) * self._any_s()
        total = 0.0
        for name in task.path[1:]:
            step = self._steps.get(name)
            total += self._any_s() if step is None else step.service_s.value
        return total

    def _step_s(self, name: str, pool: str) -> float:
        step = self._steps.get(name)
        if step is not None:
            return step.service_s.value
        mean = self._pools.get(pool)
        return self._any_s() if mean is None else mean.value

    def _any_s(self) -> float:
        return self._all.value if self._all.count else NOMINAL_S


def _name(task: TaskView) -> str:
    """A step's name, the same for all jobs and for every item of a loop."""
    if task.path:
        return task.path[0]
    step = _INDEX.sub("", task.step) if "[" in task.step else task.step
    return f"{task.pipeline}/{step}"


def expected_tokens(task: TaskView) -> float:
    """What a task is expected to cost its tenant, in and out; at least 1."""
    return max(1.0, task.in_tokens + task.out_tokens_p50)


class Memory:
    """What a scheduler remembers: the accounts of the jobs that are in, and what earlier ones taught.

    ``learns`` False: nothing looks at it, so nothing is kept, and views stay as they come.
    """

    def __init__(self, *, learns: bool) -> None:
        self.learner = Learner()
        self.learns = learns
        self._accounts: dict[int, Account] = {}  # job -> what it used, from its first task on

    def filled(self, task: TaskView, job: JobView, siblings: int) -> TaskView:
        """A task that is ready, with what is expected of it."""
        if not self.learns:
            return task
        account = self._accounts.get(job.id)
        if account is None:
            account = self._accounts[job.id] = Account(job)
        return self.learner.filled(task, account, siblings)

    def task_done(self, task: TaskView, service_s: float, in_tokens: int, out_tokens: int) -> None:
        """A task's share of a call that succeeded."""
        if self.learns:
            self._accounts[task.job].used(task, service_s, in_tokens + out_tokens)
            self.learner.task_done(task, service_s, out_tokens)

    def task_failed(self, task: TaskView, service_s: float) -> None:
        """A task's share of a call that failed: time spent, nothing learned."""
        if self.learns:
            self._accounts[task.job].used(task, service_s, 0.0)

    def cut_short(self, job: int) -> None:
        """A task of a job was given up or dropped: what it used says nothing about others."""
        if self.learns:
            self._accounts[job].is_whole = False

    def job_over(self, job: int) -> None:
        """A job reached its end."""
        account = self._accounts.pop(job, None)
        if account is not None:
            self.learner.job_over(account)

    def check(self, jobs: Iterable[int]) -> None:
        """Assert that only jobs that are in have accounts."""
        assert self._accounts.keys() <= set(jobs)
