"""With whom: which tasks share one call, and how long the first of them waits for company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sage.errors import InputError
from sage.registry import Registry
from sage.scheduling.lanes import Lane, Task
from sage.scheduling.views import BatchLimits, TaskView

__all__ = ["BATCHES", "Alone", "Batch", "Group", "Window"]


class Batch(Protocol):
    """Says how large the call of a task with a batch key may grow."""

    def limits(self, task: TaskView) -> BatchLimits | None:
        """The limits; None when the task goes alone. The same for all tasks of one batch key."""


class Alone:
    """``none``: every task has a call of its own.

    When: the server batches better by itself. When not: embeddings of many jobs, each a small call.
    """

    def limits(self, task: TaskView) -> BatchLimits | None:  # noqa: ARG002 - whatever the task is
        """None, always."""
        return None


class Window:
    """Tasks with equal batch keys share a call.

    By default nobody waits for company: a task starts as soon as an endpoint has room, together with all
    that queued meanwhile, so that batches grow exactly when the endpoints are busy. With ``max_wait_ms`` a
    task may be held that long, though there is room, for the batch to fill. It is held only while the pool
    has a call in flight: on an idle pool, waiting would cost latency and save nothing.

    A step's own limits may be smaller than these, not larger; its own wait replaces this one.

    When: always for embeddings; a wait only where calls come one by one and each costs much. When not: texts are
    so long that one fills a call. Source: adaptive batching (Crankshaw et al., "Clipper", NSDI 2017, section 4.3).
    """

    def __init__(self, max_items: int = 64, max_tokens: int = 16384, max_wait_ms: float = 0.0) -> None:
        for name, value, least in (
            ("max_items", max_items, 1),
            ("max_tokens", max_tokens, 1),
            ("max_wait_ms", max_wait_ms, 0),
        ):
            if value < least:
                raise InputError(f"batch window: {name} is {value}, expected at least {least}")
        self._limits = BatchLimits(max_items, max_tokens, max_wait_ms / 1000)

    def limits(self, task: TaskView) -> BatchLimits | None:
        """The policy's limits, tightened by the step's."""
        own, step = self._limits, task.batch
        if step is None:
            return own
        return BatchLimits(
            min(own.max_items, step.max_items), min(own.max_tokens, step.max_tokens), step.max_wait_s
        )


class Group:
    """The queued tasks of one pool that may share a call, in key order."""

    __slots__ = ("due", "items", "key", "lane", "limits", "opened", "tokens")

    def __init__(self, key: str, limits: BatchLimits, due: float) -> None:
        self.key = key
        self.limits = limits
        self.due = due  # when the first of them has waited long enough
        self.opened = False  # from then on its tasks stand in the pool's queue too
        self.lane = Lane()
        self.items = 0
        self.tokens = 0

    @property
    def full(self) -> bool:
        """Whether waiting for more company would be in vain."""
        return self.items >= self.limits.max_items or self.tokens >= self.limits.max_tokens

    def add(self, task: Task) -> None:
        """Line up a task that holds a ticket."""
        self.items += 1
        self.tokens += task.view.in_tokens
        self.lane.push(task)
        task.group = self

    def remove(self, task: Task) -> None:
        """Account for a task that leaves; its entry in the lane is the caller's business."""
        self.items -= 1
        self.tokens -= task.view.in_tokens
        task.group = None

    def fits(self, task: Task, items: int, tokens: int) -> bool:
        """Whether a task may join a call that holds so many items and tokens."""
        return items < self.limits.max_items and tokens + task.view.in_tokens <= self.limits.max_tokens


BATCHES: Registry[Callable[..., Batch]] = Registry("batch")
BATCHES["none"] = Alone
BATCHES["window"] = Window
