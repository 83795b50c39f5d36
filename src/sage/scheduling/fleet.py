"""The endpoints of one pool: what runs on each, whether it may be called, and how many calls it gets."""

from __future__ import annotations

from msgspec.structs import replace

from sage.errors import EngineFault
from sage.scheduling.breaker import Breaker
from sage.scheduling.lanes import Task
from sage.scheduling.limit import Limit, Pressed, Static
from sage.scheduling.messages import EndpointChanged, EndpointMeasured
from sage.scheduling.place import Place
from sage.scheduling.retry import Budget
from sage.scheduling.views import EndedCall, EndpointState, EndpointView, PoolView

__all__ = ["Call", "Endpoint", "Fleet"]

#: When a server told of its load, how many requests of others it had, and the share of its KV cache in use.
Load = tuple[float, float, float | None]


class Endpoint:
    """The ledger of one endpoint. What ``start`` adds to it, ``end`` takes off again."""

    __slots__ = (
        "breaker", "budget", "free", "in_flight", "in_flight_tokens", "is_plain", "joined", "limit", "load", "name",
        "placed", "probe", "slots",
    )  # fmt: skip

    def __init__(self, name: str, budget: Budget) -> None:
        self.name = name
        self.budget = budget  # of retries after failures on it
        self.breaker = Breaker()
        self.limit = 0
        self.joined = False  # takes calls; False: it left, and its last calls are ending
        self.is_plain = False  # joined and healthy, as nearly always: it gets its limit
        self.placed = False  # the place knows it
        self.free = 0  # calls it could take now
        self.slots = 0  # its limit, while it is joined and healthy
        self.in_flight = 0
        self.in_flight_tokens = 0
        self.load: Load | None = None  # as its server last told
        self.probe: Call | None = None  # while half open: the one call it was let

    @property
    def state(self) -> EndpointState:
        """As others see it."""
        return self.breaker.state if self.joined else "draining"

    @property
    def allowed(self) -> int:
        """Calls at once that it gets now."""
        if not self.joined or self.breaker.state == "open":
            return 0
        if self.breaker.state == "half_open":
            return self.in_flight + (self.probe is None)
        return self.limit


class Call:
    """One call in flight, for one task or several."""

    __slots__ = (
        "answered", "endpoint", "era", "fault", "in_flight", "limit", "out_tokens", "queued", "retry_at", "size",
        "started", "tasks", "tokens",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, tasks: int, tokens: int, now: float) -> None:
        self.endpoint = endpoint
        self.size = self.tasks = tasks  # at the start; and of it, those not ended yet
        self.tokens = tokens
        self.started = now
        self.era = endpoint.breaker.era
        self.retry_at: float | None = None  # tasks that failed together are tried again together
        self.answered = False  # for at least one of its tasks
        self.fault: EngineFault | None = None  # of the last task that failed
        self.out_tokens = 0
        self.in_flight = endpoint.in_flight + 1  # on its endpoint, when it started
        self.limit = endpoint.limit
        self.queued = 0  # tasks of its pool that went on waiting then


class Fleet:
    """The endpoints of one pool, and the calls in flight on them."""

    def __init__(
        self, pool: str, place: Place, limit: Limit, retry_share: float | None, *, breaks: bool
    ) -> None:
        self.pool = pool
        self.room = 0  # calls the endpoints could take now
        self.slots = 0  # calls at once, of the healthy ones
        self.in_flight = 0  # calls
        self.changed: list[EndpointChanged] = []  # by their breakers; whoever reads them clears them
        self.down_since: float | None = None  # when the last endpoint began to fail, while all of them do
        self._place = place
        self._limit = limit
        self._adapts = not isinstance(limit, Static)
        self._retry_share = retry_share
        self._breaks = breaks
        self._endpoints: dict[str, Endpoint] = {}
        self._broken: dict[str, Endpoint] = {}  # joined, and open or half open

    # Who is there

    def join(self, name: str, said: int, now: float) -> None:
        """Take an endpoint in, take it back, or change its limit."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            endpoint = self._endpoints[name] = Endpoint(name, Budget(self._retry_share))
        elif not endpoint.joined:
            endpoint.breaker = Breaker()
        endpoint.limit = self._limit.of(name, said)
        endpoint.joined = True
        endpoint.is_plain = endpoint.breaker.state == "healthy"
        self._account(endpoint)
        self._look(now)

    def leave(self, name: str, now: float) -> None:
        """Send no further calls to an endpoint; it is forgotten with the end of its last."""
        endpoint = self._endpoints[name]
        endpoint.joined = endpoint.is_plain = False
        endpoint.probe = None
        self._broken.pop(name, None)
        self._limit.left(name)
        self._account(endpoint)
        self._look(now)

    def is_joined(self, name: str) -> bool:
        """Whether an endpoint is a member and has not left."""
        endpoint = self._endpoints.get(name)
        return endpoint is not None and endpoint.joined

    def has(self, name: str) -> bool:
        """Whether an endpoint is known: it is a member, or runs its last calls."""
        return name in self._endpoints

    def views(self) -> list[EndpointView]:
        """All endpoints, in joining order."""
        return [self._view(endpoint, endpoint.limit) for endpoint in self._endpoints.values()]

    def view(self, queued: int) -> PoolView:
        """All of them together, with what queues for them."""
        return PoolView(self.slots, self.in_flight, queued)

    def _view(self, endpoint: Endpoint, limit: int) -> EndpointView:
        state = "healthy" if endpoint.is_plain else endpoint.state
        view = EndpointView(
            endpoint.name, self.pool, limit, endpoint.in_flight, endpoint.in_flight_tokens, state
        )
        return view if endpoint.load is None else _with_load(view, endpoint.load)

    def measured(self, event: EndpointMeasured, now: float) -> None:
        """Take in what an endpoint's server says of its load. It breaks ties, and may lower an adaptive limit."""
        endpoint = self._endpoints[event.name]
        there = (event.running or 0.0) + (event.waiting or 0.0)
        endpoint.load = (now, max(0.0, there - endpoint.in_flight), event.kv_used)
        if event.kv_used is not None and isinstance(self._limit, Pressed):
            limit = self._limit.pressed(event.name, event.kv_used, now)
            if limit is not None:
                endpoint.limit = limit
        self._account(endpoint)

    def _account(self, endpoint: Endpoint) -> None:
        """Carry a change of one endpoint over to the pool."""
        in_flight = endpoint.in_flight
        slots = endpoint.limit if endpoint.is_plain else 0
        allowed = slots or endpoint.allowed
        self.slots += slots - endpoint.slots
        endpoint.slots = slots
        free = allowed - in_flight if allowed > in_flight else 0
        self.room += free - endpoint.free
        endpoint.free = free
        if allowed > 0:
            endpoint.placed = True
            state = "healthy" if endpoint.is_plain else endpoint.state
            tokens = endpoint.in_flight_tokens
            view = EndpointView(endpoint.name, self.pool, allowed, in_flight, tokens, state)
            self._place.update(view if endpoint.load is None else _with_load(view, endpoint.load))
        elif endpoint.placed:
            endpoint.placed = False
            self._place.remove(endpoint.name)
        if in_flight == 0 and not endpoint.joined:
            del self._endpoints[endpoint.name]

    # Calls

    def start(self, tasks: list[Task], now: float) -> Call:
        """Begin a call for tasks that have left the queue. There must be room."""
        endpoint = self._endpoints[self._place.choose(tasks[0].view)]
        tokens = 0
        for task in tasks:
            tokens += task.view.in_tokens + task.view.max_out_tokens
        call = Call(endpoint, len(tasks), tokens, now)
        endpoint.in_flight += 1
        endpoint.in_flight_tokens += tokens
        if endpoint.breaker.state == "half_open":
            endpoint.probe = call
        self.in_flight += 1
        self._account(endpoint)
        for task in tasks:
            task.state = "running"
            task.call = call
        return call

    def end(self, task: Task, fault: EngineFault | None, out_tokens: int, now: float, *, done: bool) -> Call:
        """Account for the end of a running task; the call ends with its last.

        ``done`` False with no fault: it was cancelled, which says nothing about the endpoint.
        """
        call = task.call
        assert call is not None, task.view.id
        task.call = None
        call.tasks -= 1
        if done:
            call.answered = True
            call.out_tokens += out_tokens
        elif fault is not None:
            call.fault = fault
        if call.tasks == 0:
            self._end_call(call, now)
        return call

    def _end_call(self, call: Call, now: float) -> None:
        endpoint = call.endpoint
        if endpoint.joined:
            if self._adapts:
                self._adapt(call, now)
            if endpoint.probe is call:
                endpoint.probe = None
            if self._breaks and (call.answered or call.fault is not None):
                reason = endpoint.breaker.ended(None if call.answered else call.fault, call.era, now)
                if reason is not None:
                    self._change(endpoint, reason, now)
        endpoint.in_flight -= 1
        endpoint.in_flight_tokens -= call.tokens
        self.in_flight -= 1
        self._account(endpoint)

    def _adapt(self, call: Call, now: float) -> None:
        endpoint, failed = call.endpoint, not call.answered
        overloaded = failed and call.fault == "overloaded"
        limit = self._limit.ended(
            endpoint.name,
            EndedCall(call.started, now, endpoint.in_flight, call.out_tokens, call.size, overloaded, failed),
        )
        if limit is not None:
            endpoint.limit = limit

    # Breakers

    def _change(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """Follow a change of a breaker. The caller accounts for the endpoint."""
        state = endpoint.breaker.state
        endpoint.is_plain = state == "healthy"
        self.changed.append(EndpointChanged(endpoint.name, self.pool, state, reason))
        if state == "healthy":
            self._broken.pop(endpoint.name, None)
        else:
            self._broken[endpoint.name] = endpoint
        self._look(now)

    def _look(self, now: float) -> None:
        """Whether all endpoints fail, and since when."""
        members = sum(endpoint.joined for endpoint in self._endpoints.values())
        if not self._broken or len(self._broken) < members:
            self.down_since = None
        elif self.down_since is None:
            self.down_since = now

    def probe_due(self, now: float) -> None:
        """Let one probe through to each endpoint whose breaker has been open long enough."""
        if not self._broken:
            return
        for endpoint in list(self._broken.values()):
            if endpoint.breaker.state == "open" and endpoint.breaker.until <= now:
                endpoint.breaker.probe()
                self._change(endpoint, "time for a probe", now)
                self._account(endpoint)

    def next_probe(self) -> float | None:
        """When the next breaker lets a probe through, if one is open."""
        if not self._broken:
            return None
        open_ones = (e.breaker.until for e in self._broken.values() if e.breaker.state == "open")
        return min(open_ones, default=None)

    def check(self, tasks: list[Task]) -> None:
        """Assert that the ledger balances with the unfinished tasks of this pool."""
        own_of: dict[str, list[Call]] = {name: [] for name in self._endpoints}
        for call in {id(task.call): task.call for task in tasks if task.call is not None}.values():
            assert call.endpoint.name in own_of, (
                f"a call on endpoint {call.endpoint.name!r}, which is not known"
            )
            own_of[call.endpoint.name].append(call)
        assert sum(map(len, own_of.values())) == self.in_flight
        for name, endpoint in self._endpoints.items():
            own = own_of[name]
            assert endpoint.in_flight == len(own), (
                f"endpoint {endpoint.name!r}: {endpoint.in_flight} != {len(own)}"
            )
            assert endpoint.in_flight_tokens == sum([call.tokens for call in own])
            assert endpoint.joined or own, (
                f"endpoint {endpoint.name!r} left, ended its calls and is still known"
            )
            assert endpoint.free == max(0, endpoint.allowed - endpoint.in_flight)
            assert endpoint.probe is None or (endpoint.breaker.state == "half_open" and endpoint.probe in own)
            is_broken = endpoint.joined and endpoint.breaker.state != "healthy"
            assert is_broken == (endpoint.name in self._broken), (
                f"endpoint {endpoint.name!r}: {endpoint.state}"
            )
        healthy = [e for e in self._endpoints.values() if e.joined and e.breaker.state == "healthy"]
        assert self.slots == sum(endpoint.limit for endpoint in healthy)
        assert self.room == sum([endpoint.free for endpoint in self._endpoints.values()])


def _with_load(view: EndpointView, load: Load) -> EndpointView:
    """The view of an endpoint whose server tells of its load."""
    measured_at, elsewhere, kv_used = load
    return replace(view, measured_at=measured_at, elsewhere=elsewhere, kv_used=kv_used)
