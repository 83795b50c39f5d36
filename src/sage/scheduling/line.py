"""The tasks of one pool that wait for an endpoint, and who of them may travel together."""

from __future__ import annotations

from sage.scheduling.batch import Batch, Group
from sage.scheduling.lanes import Task
from sage.scheduling.share import OneLane, Share
from sage.scheduling.views import BatchLimits

__all__ = ["Line"]


class Line:
    """The queue of one pool.

    A task is in the queue, where the share decides whose turn it is; or it is held in a group that waits for
    company (``Window``), from where it enters the queue when the group opens. ``idle`` says that no call of the
    pool is in flight: then nobody is held.
    """

    def __init__(self, share: Share, batch: Batch) -> None:
        self.share = share
        self.queued = 0  # tasks, those held included
        self._batch = batch
        self._keeps_no_turns = type(share) is OneLane
        self._groups: dict[str, Group] = {}  # batch key -> those with that key that queue
        self._held: dict[str, Group] = {}  # of them, those not opened yet
        self._tickets = 0

    def passes(self, task: Task, now: float) -> bool:
        """Whether a task that is ready may start without having queued: it would come out again at once.

        So it is if nobody queues, nobody is waited for, and nothing is noted down of whose turn it was.
        """
        if (
            self.queued
            or task.view.batch_key is not None
            or not self._keeps_no_turns
            or task.late.after < now
        ):
            return False
        task.queued_at = now
        return True

    def push(self, task: Task, now: float, *, idle: bool) -> float | None:
        """Queue a task. Returns when a group that began to wait for company must be opened, if one did."""
        self._tickets += 1
        task.ticket = self._tickets
        task.state = "queued"
        task.queued_at = now
        task.held_s = 0.0
        task.aside_at = None
        self.queued += 1
        limits = None if task.view.batch_key is None else self._batch.limits(task.view)
        if limits is None:
            self.share.push(task)
            return None
        return self._push_grouped(task, limits, now, idle=idle)

    def _push_grouped(self, task: Task, limits: BatchLimits, now: float, *, idle: bool) -> float | None:
        key = task.view.batch_key
        assert key is not None
        group, due = self._groups.get(key), None
        if group is None:
            group = self._groups[key] = Group(key, limits, now + limits.max_wait_s)
            if limits.max_wait_s > 0 and not idle:
                self._held[key] = group
                due = group.due
            else:
                group.opened = True
        group.add(task)
        if group.opened:
            self.share.push(task)
        elif group.full:
            self._open(group, now)
        return due

    def pop(self, now: float, *, idle: bool) -> list[Task]:
        """Take out the tasks of the next call: the one whose turn it is, and its company. Empty: nobody waits."""
        if self._held:
            self.open_due(now, idle=idle)
        head = self.share.pop(now)
        if head is None:
            return []
        group = head.group
        self._leave(head)
        if group is None:
            return [head]
        group.lane.left()
        return self._with_company(head, group)

    def _with_company(self, head: Task, group: Group) -> list[Task]:
        tasks, tokens = [head], head.view.in_tokens
        while (task := group.lane.peek()) is not None and group.fits(task, len(tasks), tokens):
            group.lane.pop()
            self._leave(task)
            self.share.left(task)
            tasks.append(task)
            tokens += task.view.in_tokens
        return tasks

    def drop(self, task: Task) -> None:
        """Take out a queued task that is no longer wanted."""
        group = task.group
        self._leave(task)
        if group is not None:
            group.lane.left()
        if group is None or group.opened:
            self.share.left(task)

    def _leave(self, task: Task) -> None:
        task.ticket = 0
        self.queued -= 1
        group = task.group
        if group is not None:
            group.remove(task)
            if group.items == 0:
                del self._groups[group.key]
                self._held.pop(group.key, None)

    def open_due(self, now: float, *, idle: bool) -> None:
        """Open the groups that have waited long enough; all of them, while the pool is idle."""
        if not self._held:
            return
        for group in [group for group in self._held.values() if group.due <= now or idle]:
            self._open(group, now)

    def _open(self, group: Group, now: float) -> None:
        group.opened = True
        self._held.pop(group.key, None)
        for task in group.lane.tasks():
            task.held_s = now - task.queued_at
            self.share.push(task)

    def next_due(self) -> float | None:
        """When the next group must be opened, if one waits."""
        return min(group.due for group in self._held.values()) if self._held else None

    def held(self) -> int:
        """How many of the tasks wait for company."""
        return sum(group.items for group in self._held.values())

    def check(self, tasks: list[Task]) -> None:
        """Assert that the books balance with the unfinished tasks of this pool."""
        queued = [task for task in tasks if task.state == "queued"]
        assert len(queued) == self.queued, f"{len(queued)} tasks queue, {self.queued} counted"
        assert all((task.ticket > 0) == (task.state == "queued") for task in tasks)
        for group in self._groups.values():
            assert group.items == len(group.lane.tasks()) > 0
            group.lane.check()
        self.share.check()
