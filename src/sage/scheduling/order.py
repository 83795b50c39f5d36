"""Which task first: an order gives every task a static key, and the smallest key starts first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from sage.errors import InputError
from sage.registry import Registry
from sage.scheduling.lanes import Key, Late
from sage.scheduling.views import TaskView

__all__ = [
    "ORDERS",
    "Edf",
    "Fifo",
    "JobFifo",
    "LeastAttained",
    "Order",
    "OrderWithLateness",
    "Priority",
    "ShortestRemainingJob",
    "Slack",
    "StrictPriority",
]


class Order(Protocol):
    """How the tasks of one lane line up.

    One that reads only what the driver gives may say ``is_blind = True``: then, unless the share or a rule of
    admission looks at it, nothing is learned, which saves time. One in which a task that has just become ready
    never comes before one that waits may say ``lingers = False``: then a slot is given away the moment it is free,
    without asking first whether the next step of the same job is ready.
    """

    def key(self, task: TaskView) -> Key:
        """The task's place, smallest first. Equal tasks give equal keys, at any time."""


@runtime_checkable
class OrderWithLateness(Order, Protocol):
    """An order in which tasks that cannot be in time step aside for those that can."""

    def late(self, task: TaskView) -> Late | None:
        """From when on the task is late, and its place among the late ones. None: never."""


class Fifo:
    """The task that was ready first. A retried task keeps its place.

    When: the baseline, and where all calls matter alike. When not: jobs of several calls, which then all
    advance together and all finish late.
    """

    is_blind = True
    lingers = False

    def key(self, task: TaskView) -> Key:
        """When it was ready, then its id."""
        return (task.ready, task.id)


class JobFifo:
    """The task whose job arrived first: jobs in progress finish before later ones begin.

    When: jobs of several calls and no deadlines. When not: short jobs must not wait for long ones.
    """

    is_blind = True

    def key(self, task: TaskView) -> Key:
        """When its job arrived, then the job's id, then its own."""
        return (task.arrived, task.job, task.id)


class Priority:
    """Higher priority first, with aging: each class is worth ``aging_s`` seconds of waiting, so nobody starves.

    A task of priority p starts before one of priority q < p that was ready less than (p - q) x ``aging_s``
    earlier, and after one that was ready earlier than that. When: interactive and batch work on the same
    engines. When not: classes must never touch; then see ``strict_priority``. Source: static-key aging as in
    operating systems (Tanenbaum, "Modern Operating Systems", section 2.4).
    """

    is_blind = True

    def __init__(self, aging_s: float = 1.0) -> None:
        self._aging_s = _above_zero("priority", aging_s)

    def key(self, task: TaskView) -> Key:
        """When it was ready, less what its class is worth."""
        return (task.ready - task.priority * self._aging_s, task.id)


class StrictPriority:
    """Higher priority first, always; within a class, the task that was ready first.

    When: a baseline, or where the lower class is worth nothing while the higher one waits. When not: the lower
    class must ever be done: under load it starves.
    """

    is_blind = True

    def key(self, task: TaskView) -> Key:
        """Its class, then when it was ready."""
        return (-task.priority, task.ready, task.id)


class Edf:
    """Earliest deadline first; jobs without a deadline last, in order of readiness.

    When: single-call jobs with deadlines below saturation, where it misses nothing that could be met (Liu and
    Layland, "Scheduling Algorithms for Multiprogramming", 1973). When not: above saturation, where it gives its
    time to what is late already; and jobs of several calls, whose last call is as urgent as their first.
    """

    is_blind = True

    def key(self, task: TaskView) -> Key:
        """Its job's deadline, then when it was ready."""
        return (math.inf if task.deadline is None else task.deadline, task.ready, task.id)


class Slack:
    """Least slack first: the deadline less the time that the job's longest path will take after this task.

    What cannot be in time any more steps aside for what can, and goes by its remaining work, the least first;
    after ``relaxed_s`` and ten times that work it goes before all. A job without a deadline counts as due
    ``relaxed_s`` after its arrival and is never late. Each class of priority is worth ``aging_s`` seconds.

    When: jobs of several calls with deadlines; the graph tells how much of each is still ahead. When not: no
    job has a deadline and none is longer than another; then ``job_fifo`` does the same. Source: due dates set
    backwards along the graph (Jackson, 1955; Lawler, "Optimal Sequencing of a Single Machine Subject to
    Precedence Constraints", 1973); ``now`` cancels out of the comparison, so that the key never changes.
    """

    def __init__(self, relaxed_s: float = 60.0, aging_s: float = 1.0) -> None:
        self._relaxed_s = _above_zero("slack", relaxed_s, "relaxed_s")
        if aging_s < 0:
            raise InputError(f"order slack: aging_s is {aging_s}, expected at least 0 seconds")
        self._aging_s = aging_s

    def key(self, task: TaskView) -> Key:
        """The latest time to be done with it, less what its class is worth."""
        due = task.arrived + self._relaxed_s if task.deadline is None else task.deadline
        return (due - task.remaining_path_s + task.service_s - task.priority * self._aging_s, task.id)

    def late(self, task: TaskView) -> Late | None:
        """Past the latest time to start; among the late, by remaining work, with aging."""
        if task.deadline is None:
            return None
        after = task.deadline - task.remaining_path_s
        return Late(after, max(after, task.arrived) + self._relaxed_s + 10 * task.remaining_work_s)


class ShortestRemainingJob:
    """The task of the job with the least work left, by what earlier jobs of its pipeline took.

    When: the mean time to a finished job is what counts. When not: long jobs have deadlines, since they wait
    for all shorter ones. Source: shortest remaining processing time (Schrage, "A Proof of the Optimality of the
    Shortest Remaining Processing Time Discipline", 1968), at the grain of calls, which are not interrupted.
    """

    def key(self, task: TaskView) -> Key:
        """The job's remaining work, then its arrival."""
        return (task.remaining_work_s, task.arrived, task.job, task.id)


class LeastAttained:
    """The task of the job that has been served least, in levels that double from ``quantum_s`` seconds on.

    When: nothing is known of jobs before they run, such as agents of any length; short ones overtake. When not:
    the graph or earlier jobs tell how long they are. Source: program-level attained service (Luo et al.,
    "Autellix: An Efficient Serving Engine for LLM Agents as General Programs", 2025, section 4), here with
    levels instead of queues and without preemption.
    """

    def __init__(self, quantum_s: float = 1.0) -> None:
        self._quantum_s = _above_zero("least_attained", quantum_s, "quantum_s")

    def key(self, task: TaskView) -> Key:
        """The level of its job, then its job's arrival."""
        return (int(1 + task.attained_s / self._quantum_s).bit_length(), task.arrived, task.job, task.id)


def _above_zero(order: str, seconds: float, name: str = "aging_s") -> float:
    if seconds <= 0:
        raise InputError(f"order {order}: {name} is {seconds}, expected more than 0 seconds")
    return seconds


ORDERS: Registry[Callable[..., Order]] = Registry("order")
ORDERS["fifo"] = Fifo
ORDERS["job_fifo"] = JobFifo
ORDERS["priority"] = Priority
ORDERS["strict_priority"] = StrictPriority
ORDERS["edf"] = Edf
ORDERS["slack"] = Slack
ORDERS["shortest_remaining_job"] = ShortestRemainingJob
ORDERS["least_attained"] = LeastAttained
