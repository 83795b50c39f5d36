"""Which task first: an order gives every task a static key, and the smallest key starts first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sage.registry import Registry
from sage.scheduling.lanes import Key
from sage.scheduling.views import TaskView

__all__ = ["ORDERS", "Fifo", "JobFifo", "Order"]


class Order(Protocol):
    """How the tasks of one lane line up."""

    def key(self, task: TaskView) -> Key:
        """The task's place, smallest first. Equal tasks give equal keys, at any time."""


class Fifo:
    """The task that was ready first. A retried task keeps its place."""

    def key(self, task: TaskView) -> Key:
        """When it was ready, then its id."""
        return (task.ready, task.id)


class JobFifo:
    """The task whose job arrived first: jobs in progress finish before later ones begin."""

    def key(self, task: TaskView) -> Key:
        """When its job arrived, then the job's id, then its own."""
        return (task.arrived, task.job, task.id)


ORDERS: Registry[Callable[..., Order]] = Registry("order")
ORDERS["fifo"] = Fifo
ORDERS["job_fifo"] = JobFifo
