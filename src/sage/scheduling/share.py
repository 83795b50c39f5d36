"""Whose turn: the queue of one pool, made of one lane or of one for each tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sage.registry import Registry
from sage.scheduling.lanes import Lane, Task

__all__ = ["SHARES", "OneLane", "Share"]


class Share(Protocol):
    """The queued tasks of one pool. It decides from which lane the next one comes."""

    def push(self, task: Task) -> None:
        """Line up a task that holds a ticket."""

    def pop(self, now: float) -> Task | None:
        """Take out the task whose turn it is; None when nobody waits. The caller takes its ticket away."""

    def left(self, task: Task) -> None:
        """Note that a queued task lost its ticket without being popped here."""

    def check(self) -> None:
        """Assert that the books balance."""


class OneLane:
    """``none``: all tenants in one lane, in the order's key order."""

    def __init__(self) -> None:
        self._lane = Lane()

    def push(self, task: Task) -> None:
        """Line up a task."""
        self._lane.push(task)

    def pop(self, now: float) -> Task | None:  # noqa: ARG002 - turns of other shares depend on the time
        """The task with the smallest key."""
        return self._lane.pop()

    def left(self, task: Task) -> None:  # noqa: ARG002 - other shares find the lane by the task
        """Note that a task left by another way."""
        self._lane.left()

    def check(self) -> None:
        """Assert that the lane's count is right."""
        self._lane.check()


SHARES: Registry[Callable[..., Share]] = Registry("share")
SHARES["none"] = OneLane
