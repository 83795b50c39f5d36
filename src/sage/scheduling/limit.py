"""How many calls at once an endpoint gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from sage.errors import InputError
from sage.registry import Registry
from sage.scheduling.learn import Recent
from sage.scheduling.views import EndedCall

__all__ = ["LIMITS", "Adaptive", "Limit", "Pressed", "Static"]


class Limit(Protocol):
    """Sets the limit of every endpoint of one pool, between 1 and what the endpoint says of itself."""

    def of(self, endpoint: str, said: int) -> int:
        """The limit of an endpoint that joined, or joined again, saying ``said``."""

    def ended(self, endpoint: str, call: EndedCall) -> int | None:
        """A call on an endpoint ended: its limit from now on; None: as it was."""

    def left(self, endpoint: str) -> None:
        """An endpoint left."""


@runtime_checkable
class Pressed(Protocol):
    """A limit that heeds how full the KV cache of an endpoint's server is."""

    def pressed(self, endpoint: str, kv_used: float, now: float) -> int | None:
        """The server says what share of its cache is used: the limit from now on; None: as it was."""


class Static:
    """As many as the endpoint says of itself, always.

    When: the engine's own limit is known to be right. When not: it is a guess, or the engine is shared.
    """

    def of(self, endpoint: str, said: int) -> int:  # noqa: ARG002 - whichever endpoint it is
        """What it said."""
        return said

    def ended(self, endpoint: str, call: EndedCall) -> int | None:  # noqa: ARG002 - nothing is learned
        """None, always."""
        return None

    def left(self, endpoint: str) -> None:
        """Nothing is kept."""


#: A window of calls, all begun under the present limit, is judged after twice the limit but at least so many, or
#: after so long with a few.
WINDOW_CALLS = 20
WINDOW_S = 10.0
LEAST_CALLS = 5
CUT = 0.8
STEP = 0.1  # of the limit, by which it grows; doubled while steps are kept
MAX_STEP = 0.4
#: A step up is kept if the throughput rose by this part of what it would if it were proportional.
WORTH = 0.2
HOLD_S = 8.0  # after a step that was taken back
FULL_CACHE = 0.95  # of its KV cache: an engine that has used so much preempts what it has begun


class Window:
    """The calls that ended under one limit of one endpoint."""

    __slots__ = ("calls", "full", "since", "started", "step_s", "units")

    def __init__(self, since: float) -> None:
        self.since = since  # calls that began earlier do not count
        self.started: float | None = None  # when the first counted call ended
        self.calls = 0
        self.units = 0  # tokens generated; calls where there are none
        self.full = 0  # calls at whose end the endpoint was full
        self.step_s = Recent()  # per generated token

    def add(self, call: EndedCall, limit: int) -> None:
        """Count a call."""
        if self.started is None:
            self.started = call.ended
            return  # the time before it belongs to nobody
        self.calls += 1
        self.units += call.out_tokens or call.tasks
        self.full += call.in_flight >= limit
        if call.out_tokens:
            self.step_s.add((call.ended - call.started) / call.out_tokens)

    def is_over(self, limit: int, now: float) -> bool:
        """Whether it holds enough to judge by."""
        if self.started is None or now <= self.started:
            return False
        return self.calls >= max(WINDOW_CALLS, 2 * limit) or (
            self.calls >= LEAST_CALLS and now - self.started >= WINDOW_S
        )


class Endpoint:
    """What is known of one endpoint."""

    __slots__ = (
        "before", "cut_from", "endure_until", "hold_until", "limit", "pressed_until", "rate", "said", "step", "window",
    )  # fmt: skip

    def __init__(self, said: int) -> None:
        self.said = self.limit = said
        self.window = Window(float("-inf"))
        self.before: int | None = None  # the limit before a step up that is on trial
        self.rate = 0.0  # units per second under it
        self.cut_from: tuple[int, float] | None = None  # before a cut on trial: limit, time per token
        self.endure_until = float("-inf")  # no further cut before, since one was in vain
        self.step = STEP
        self.hold_until = float("-inf")
        self.pressed_until = float("-inf")  # no further cut for a full cache before


class Adaptive:
    """Finds the limit by itself: up while throughput grows and tokens come fast enough, down when they do not.

    It begins with what the endpoint says of itself and never exceeds that. After each window of calls, twice the limit:
    if the p90 of the time per generated token is above ``target_ms``, or the engine said it is overloaded, the
    limit falls to 0.8 of itself, as it does when the engine's KV cache is all but full, where it says; otherwise, if the endpoint was full, a step of a tenth up is tried, and a
    larger one if that is kept. A step that breaks the target, or brings no throughput, is taken back, and the
    next is tried 8 s later; so is a cut that makes tokens no quicker, since then the limit is not to blame.

    When: the right limit is not known, changes, or is shared with others. When not: calls are so few that a
    window takes minutes. Source: additive-increase, multiplicative-decrease (Chiu and Jain, 1989) with the
    throughput test of Netflix's concurrency-limits; here a step that fails is undone instead of cut.
    """

    def __init__(self, target_ms: float = 100.0) -> None:
        if target_ms <= 0:
            raise InputError(f"limit adaptive: target_ms is {target_ms}, expected more than 0 ms per token")
        self._target_s = target_ms / 1000
        self._endpoints: dict[str, Endpoint] = {}

    def of(self, endpoint: str, said: int) -> int:
        """What it said, to begin with; what was found, if that is less."""
        known = self._endpoints.get(endpoint)
        if known is None:
            known = self._endpoints[endpoint] = Endpoint(said)
        known.said = said
        known.limit = min(known.limit, said)
        return known.limit

    def left(self, endpoint: str) -> None:
        """Forget it."""
        self._endpoints.pop(endpoint, None)

    def ended(self, endpoint: str, call: EndedCall) -> int | None:
        """Count the call; at the end of a window, move."""
        known = self._endpoints[endpoint]
        window = known.window
        if call.started < window.since:
            return None
        if call.overloaded:
            return self._cut(known, call.ended)
        if call.failed:
            return None
        window.add(call, known.limit)
        return self._move(known, call.ended) if window.is_over(known.limit, call.ended) else None

    def pressed(self, endpoint: str, kv_used: float, now: float) -> int | None:
        """Fall to 0.8 while the cache is all but full, at most once in ``HOLD_S``; what follows would be preempted."""
        known = self._endpoints[endpoint]
        if kv_used < FULL_CACHE or now < known.pressed_until:
            return None
        known.pressed_until = known.hold_until = now + HOLD_S
        known.before = None
        return self._set(known, max(1, int(known.limit * CUT)), now)

    def _move(self, known: Endpoint, now: float) -> int | None:
        window = known.window
        assert window.started is not None
        rate, token_s = window.units / (now - window.started), window.step_s.quantile(0.9)
        if token_s > self._target_s:
            return self._too_slow(known, token_s, now)
        known.cut_from = None
        if known.before is not None:
            grown = known.limit / known.before - 1
            if rate < known.rate * (1 + WORTH * grown):
                return self._take_back(known, now)
            known.step = min(MAX_STEP, known.step * 2)
        known.before = None
        if known.limit >= known.said or now < known.hold_until or window.full * 2 < window.calls:
            known.window = Window(now)
            return None
        known.before, known.rate = known.limit, rate
        return self._set(known, known.limit + max(1, int(known.limit * known.step)), now)

    def _too_slow(self, known: Endpoint, token_s: float, now: float) -> int | None:
        """Cut, unless cutting does not help: tokens as slow as before are not slow because of the limit."""
        if known.cut_from is not None:
            before, slower_s = known.cut_from
            if token_s > slower_s * (1 - WORTH * (1 - known.limit / before)):
                known.cut_from = None
                known.endure_until = now + HOLD_S
                return self._set(known, before, now)
        if known.before is None and now < known.endure_until:
            known.window = Window(now)
            return None
        known.cut_from = None if known.before is not None or known.limit == 1 else (known.limit, token_s)
        return self._cut(known, now)

    def _cut(self, known: Endpoint, now: float) -> int:
        if known.before is not None:
            return self._take_back(known, now)
        return self._set(known, max(1, int(known.limit * CUT)), now)

    def _take_back(self, known: Endpoint, now: float) -> int:
        assert known.before is not None
        before, known.before = known.before, None
        known.hold_until = now + HOLD_S
        known.step = STEP
        return self._set(known, before, now)

    def _set(self, known: Endpoint, limit: int, now: float) -> int:
        known.limit = min(
            limit, known.said
        )  # what was before a step may be more than it says since it came back
        known.window = Window(now)
        return known.limit


LIMITS: Registry[Callable[..., Limit]] = Registry("limit")
LIMITS["static"] = Static
LIMITS["adaptive"] = Adaptive
