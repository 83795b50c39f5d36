"""Tasks that wait: the core's record of a task, and a queue of them in key order."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sage.scheduling.views import TaskView

if TYPE_CHECKING:
    from sage.scheduling.batch import Group
    from sage.scheduling.fleet import Call
    from sage.scheduling.pool import Pool

__all__ = ["Key", "Lane", "Late", "Task"]

#: Where a task stands in its order, smallest first. Static: it is computed once. One order, one length.
Key = tuple[float, ...]

#: A lane is swept when more than this many, and more than half, of its entries have left by another way.
SWEEP_ABOVE = 64

#: Late tasks set aside in one decision, so that the moment when all become late costs no decision much.
MAX_SET_ASIDE = 64


class Late(NamedTuple):
    """When a task cannot be in time any more, and where it stands among such tasks."""

    after: float  # once the time is past this, it steps aside for those that can be in time
    key: float  # among those that stepped aside, smallest first; a time: from then on it goes before everyone


NEVER = Late(float("inf"), 0.0)


class Task:
    """One task as the core keeps it, from TaskReady to its end."""

    __slots__ = (
        "aside_at", "call", "charged", "failures", "group", "held_s", "key", "late", "pool", "queued_at", "reserve",
        "state", "ticket", "turn", "view",
    )  # fmt: skip

    def __init__(self, view: TaskView, key: Key, pool: Pool, late: Late = NEVER) -> None:
        self.view = view
        self.key = key
        self.late = late
        self.pool = pool
        self.state: Literal["queued", "running", "delayed", "over"] = "queued"
        self.ticket = 0  # number of its present stay in the queue; 0: it does not queue
        self.group: Group | None = None  # those it may share a call with, while it queues
        self.call: Call | None = None  # while it runs
        self.charged = 0.0  # tokens its tenant was charged for the running call
        self.failures = 0
        self.queued_at = 0.0  # when its present stay in the queue began
        self.held_s = 0.0  # of it, kept back for company
        self.turn: float | None = None  # what its tenant owed when its turn came
        self.reserve = False  # its turn came by a reserve
        self.aside_at: float | None = None  # when it became late and stepped aside


class Lane:
    """Queued tasks, the smallest key first; those that became late step aside.

    A task may stand in several lanes at once. Leaving one by ``pop`` leaves the others' entries behind as
    dead ones, told by their old ticket and skipped when met; ``left`` keeps their number in bounds.
    """

    __slots__ = ("_dead", "_heap", "_late")

    def __init__(self) -> None:
        self._heap: list[Any] = []  # (*key, ticket, task), flat: half the price of comparing nested tuples
        self._late: list[Any] = []  # (late key, task's id, ticket, task)
        self._dead = 0

    def push(self, task: Task) -> None:
        """Line up a task that holds a ticket."""
        heappush(self._heap, (*task.key, task.ticket, task))

    def peek(self) -> Task | None:
        """The first task, which stays; nobody is late."""
        return self._head(self._heap)

    def pop(self, now: float = float("-inf")) -> Task | None:
        """Take the first task out. The caller takes its ticket away.

        Those that can be in time go first, in key order; then the late ones. A late one whose own time has
        come goes before all.
        """
        head = self._head(self._heap)
        aside = MAX_SET_ASIDE
        while head is not None and aside and head.late.after < now:
            heappop(self._heap)
            heappush(self._late, (head.late.key, head.view.id, head.ticket, head))
            head.aside_at = now
            aside -= 1
            head = self._head(self._heap)
        if self._late:
            late = self._head(self._late)
            if late is not None and (head is None or late.late.key <= now):
                heappop(self._late)
                return late
        if head is not None:
            heappop(self._heap)
        return head

    def _head(self, heap: list[Any]) -> Task | None:
        while heap:
            entry = heap[0]
            task: Task = entry[-1]
            if task.ticket == entry[-2]:
                return task
            heappop(heap)
            self._dead -= 1
        return None

    def left(self) -> None:
        """Note that a task of this lane lost its ticket without being popped here."""
        self._dead += 1
        if self._dead > SWEEP_ABOVE and self._dead * 2 > len(self._heap) + len(self._late):
            self._heap = [entry for entry in self._heap if entry[-1].ticket == entry[-2]]
            self._late = [entry for entry in self._late if entry[-1].ticket == entry[-2]]
            heapify(self._heap)
            heapify(self._late)
            self._dead = 0

    def tasks(self) -> list[Task]:
        """The tasks in it, in no particular order."""
        entries = self._heap + self._late
        return [entry[-1] for entry in entries if entry[-1].ticket == entry[-2]]

    def check(self) -> None:
        """Assert that dead entries are counted right."""
        dead = len(self._heap) + len(self._late) - len(self.tasks())
        assert dead == self._dead, f"{dead} dead entries, {self._dead} counted"
