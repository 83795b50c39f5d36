"""Tasks that wait: the core's record of a task, and a queue of them in key order."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Literal

from sage.scheduling.views import TaskView

if TYPE_CHECKING:
    from sage.scheduling.batch import Group
    from sage.scheduling.pool import Call, Pool

__all__ = ["Key", "Lane", "Task"]

#: Where a task stands in its order, smallest first. Static: it is computed once. One order, one length.
Key = tuple[float, ...]

#: A lane is swept when more than this many, and more than half, of its entries have left by another way.
SWEEP_ABOVE = 64


class Task:
    """One task as the core keeps it, from TaskReady to its end."""

    __slots__ = ("call", "failures", "group", "key", "pool", "state", "ticket", "view")

    def __init__(self, view: TaskView, key: Key, pool: Pool) -> None:
        self.view = view
        self.key = key
        self.pool = pool
        self.state: Literal["queued", "running", "delayed", "over"] = "queued"
        self.ticket = 0  # number of its present stay in the queue; 0: it does not queue
        self.group: Group | None = None  # those it may share a call with, while it queues
        self.call: Call | None = None  # while it runs
        self.failures = 0


class Lane:
    """Queued tasks, the smallest key first.

    A task may stand in several lanes at once. Leaving one by ``pop`` leaves the others' entries behind as
    dead ones, told by their old ticket and skipped when met; ``left`` keeps their number in bounds.
    """

    __slots__ = ("_dead", "_heap")

    def __init__(self) -> None:
        self._heap: list[Any] = []  # (*key, ticket, task), flat: half the price of comparing nested tuples
        self._dead = 0

    def push(self, task: Task) -> None:
        """Line up a task that holds a ticket."""
        heappush(self._heap, (*task.key, task.ticket, task))

    def peek(self) -> Task | None:
        """The first task, which stays."""
        heap = self._heap
        while heap:
            entry = heap[0]
            task: Task = entry[-1]
            if task.ticket == entry[-2]:
                return task
            heappop(heap)
            self._dead -= 1
        return None

    def pop(self) -> Task | None:
        """Take the first task out. The caller takes its ticket away."""
        heap = self._heap
        while heap:
            entry = heappop(heap)
            task: Task = entry[-1]
            if task.ticket == entry[-2]:
                return task
            self._dead -= 1
        return None

    def left(self) -> None:
        """Note that a task of this lane lost its ticket without being popped here."""
        self._dead += 1
        if self._dead > SWEEP_ABOVE and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[-1].ticket == entry[-2]]
            heapify(self._heap)
            self._dead = 0

    def tasks(self) -> list[Task]:
        """The tasks in it, in no particular order."""
        return [entry[-1] for entry in self._heap if entry[-1].ticket == entry[-2]]

    def check(self) -> None:
        """Assert that dead entries are counted right."""
        dead = len(self._heap) - len(self.tasks())
        assert dead == self._dead, f"{dead} dead entries, {self._dead} counted"
