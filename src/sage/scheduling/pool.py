"""One pool: its endpoints with what runs on them, and its queue with who may travel together."""

from __future__ import annotations

from sage.scheduling.batch import Batch, Group
from sage.scheduling.lanes import Task
from sage.scheduling.limit import Static
from sage.scheduling.place import Place
from sage.scheduling.share import Share
from sage.scheduling.views import BatchLimits, EndpointView

__all__ = ["Call", "Endpoint", "Pool"]


class Endpoint:
    """The ledger of one endpoint. What ``start`` adds to it, ``end`` takes off again."""

    __slots__ = ("free", "in_flight", "in_flight_tokens", "limit", "name", "open")

    def __init__(self, name: str) -> None:
        self.name = name
        self.limit = 0
        self.open = False  # takes calls; False: it left, and its last calls are ending
        self.free = 0  # calls it could take now
        self.in_flight = 0
        self.in_flight_tokens = 0


class Call:
    """One call in flight, for one task or several."""

    __slots__ = ("endpoint", "retry_at", "tasks", "tokens")

    def __init__(self, endpoint: Endpoint, tasks: int, tokens: int) -> None:
        self.endpoint = endpoint
        self.tasks = tasks  # of it, not ended yet
        self.tokens = tokens
        self.retry_at: float | None = None  # tasks that failed together are tried again together


class Pool:
    """Interchangeable endpoints and the tasks that want one of them.

    A task is in one of three places: in the queue; held in a group that waits for company (``Window``), from
    where it enters the queue when the group opens; or in a call.
    """

    def __init__(self, name: str, share: Share, place: Place, limit: Static, batch: Batch) -> None:
        self.name = name
        self.room = 0  # calls the endpoints could take now
        self.queued = 0  # tasks, those held included
        self.in_flight = 0  # calls
        self._share = share
        self._place = place
        self._limit = limit
        self._batch = batch
        self._endpoints: dict[str, Endpoint] = {}
        self._groups: dict[str, Group] = {}  # batch key -> those with that key that queue
        self._held: dict[str, Group] = {}  # of them, those not opened yet
        self._tickets = 0

    # Endpoints

    def join(self, name: str, limit: int) -> None:
        """Take an endpoint in, take it back, or change its limit."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            endpoint = self._endpoints[name] = Endpoint(name)
        endpoint.limit = self._limit.of(limit)
        endpoint.open = True
        self._account(endpoint)

    def leave(self, name: str) -> None:
        """Send no further calls to an endpoint; it is forgotten with the end of its last."""
        endpoint = self._endpoints[name]
        endpoint.open = False
        self._place.remove(name)
        self._account(endpoint)

    def is_open(self, name: str) -> bool:
        """Whether an endpoint is known and takes calls."""
        endpoint = self._endpoints.get(name)
        return endpoint is not None and endpoint.open

    def has(self, name: str) -> bool:
        """Whether an endpoint is known: it takes calls, or runs its last."""
        return name in self._endpoints

    def views(self) -> list[EndpointView]:
        """All endpoints, in joining order."""
        return [self._view(endpoint) for endpoint in self._endpoints.values()]

    def _view(self, endpoint: Endpoint) -> EndpointView:
        return EndpointView(
            endpoint.name,
            self.name,
            endpoint.limit,
            endpoint.in_flight,
            endpoint.in_flight_tokens,
            "healthy" if endpoint.open else "draining",
        )

    def _account(self, endpoint: Endpoint) -> None:
        """Carry a change of one endpoint over to the pool."""
        free = max(0, endpoint.limit - endpoint.in_flight) if endpoint.open else 0
        self.room += free - endpoint.free
        endpoint.free = free
        if endpoint.open:
            self._place.update(self._view(endpoint))
        elif endpoint.in_flight == 0:
            del self._endpoints[endpoint.name]

    # Calls

    def start(self, tasks: list[Task]) -> Call:
        """Begin a call for tasks that have left the queue. There must be room."""
        endpoint = self._endpoints[self._place.choose(tasks[0].view)]
        tokens = 0
        for task in tasks:
            tokens += task.view.in_tokens + task.view.max_out_tokens
        call = Call(endpoint, len(tasks), tokens)
        endpoint.in_flight += 1
        endpoint.in_flight_tokens += tokens
        self.in_flight += 1
        self._account(endpoint)
        for task in tasks:
            task.state = "running"
            task.call = call
        return call

    def end(self, task: Task) -> Call:
        """Account for the end of a running task; the call ends with its last."""
        call = task.call
        assert call is not None, task.view.id
        task.call = None
        call.tasks -= 1
        if call.tasks == 0:
            endpoint = call.endpoint
            endpoint.in_flight -= 1
            endpoint.in_flight_tokens -= call.tokens
            self.in_flight -= 1
            self._account(endpoint)
        return call

    # Queue

    def push(self, task: Task, now: float) -> float | None:
        """Queue a task. Returns when a group that began to wait for company must be opened, if one did."""
        self._tickets += 1
        task.ticket = self._tickets
        task.state = "queued"
        self.queued += 1
        limits = None if task.view.batch_key is None else self._batch.limits(task.view)
        if limits is None:
            self._share.push(task)
            return None
        return self._push_grouped(task, limits, now)

    def _push_grouped(self, task: Task, limits: BatchLimits, now: float) -> float | None:
        key = task.view.batch_key
        assert key is not None
        group, due = self._groups.get(key), None
        if group is None:
            group = self._groups[key] = Group(key, limits, now + limits.max_wait_s)
            if limits.max_wait_s > 0 and self.in_flight > 0:
                self._held[key] = group
                due = group.due
            else:
                group.opened = True
        group.add(task)
        if group.opened:
            self._share.push(task)
        elif group.full:
            self._open(group)
        return due

    def pop(self, now: float) -> list[Task]:
        """Take out the tasks of the next call: the one whose turn it is, and its company. Empty: nobody waits."""
        if self._held:
            self.open_due(now)
        head = self._share.pop(now)
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
            self._share.left(task)
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
            self._share.left(task)

    def _leave(self, task: Task) -> None:
        task.ticket = 0
        self.queued -= 1
        group = task.group
        if group is not None:
            group.remove(task)
            if group.items == 0:
                del self._groups[group.key]
                self._held.pop(group.key, None)

    def open_due(self, now: float) -> None:
        """Open the groups that have waited long enough; all of them, while no call is in flight."""
        for group in [group for group in self._held.values() if group.due <= now or self.in_flight == 0]:
            self._open(group)

    def _open(self, group: Group) -> None:
        group.opened = True
        self._held.pop(group.key, None)
        for task in group.lane.tasks():
            self._share.push(task)

    def next_due(self) -> float | None:
        """When the next group must be opened, if one waits."""
        return min((group.due for group in self._held.values()), default=None)

    def check(self, tasks: list[Task]) -> None:
        """Assert that the books balance with the unfinished tasks of this pool."""
        queued = [task for task in tasks if task.state == "queued"]
        assert len(queued) == self.queued, (
            f"pool {self.name!r}: {len(queued)} tasks queue, {self.queued} counted"
        )
        assert all((task.ticket > 0) == (task.state == "queued") for task in tasks)
        calls = {id(task.call): task.call for task in tasks if task.call is not None}.values()
        assert len(calls) == self.in_flight == sum(e.in_flight for e in self._endpoints.values())
        for endpoint in self._endpoints.values():
            own = [call for call in calls if call.endpoint is endpoint]
            assert endpoint.in_flight == len(own), (
                f"endpoint {endpoint.name!r}: {endpoint.in_flight} != {len(own)}"
            )
            assert endpoint.in_flight_tokens == sum(call.tokens for call in own)
            assert endpoint.open or own, (
                f"endpoint {endpoint.name!r} left, ended its calls and is still known"
            )
        assert self.room == sum(endpoint.free for endpoint in self._endpoints.values())
        held = sum(group.items for group in self._held.values())
        assert self.room == 0 or self.queued == held, (
            f"pool {self.name!r}: room for {self.room} and tasks queue"
        )
        for group in self._groups.values():
            assert group.items == len(group.lane.tasks()) > 0
            group.lane.check()
        self._share.check()
