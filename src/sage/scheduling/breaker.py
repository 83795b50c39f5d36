"""Whether an endpoint may be called at all: a breaker that opens when it keeps failing."""

from __future__ import annotations

from collections import deque
from typing import Literal

from sage.errors import EngineFault

__all__ = ["BREAKING", "Breaker", "BreakerState"]

BreakerState = Literal["healthy", "open", "half_open"]

#: Faults that speak against the endpoint. A refused or too long request is the caller's doing: the endpoint lives.
BREAKING: frozenset[EngineFault] = frozenset(
    {"unreachable", "timeout", "failed", "stalled", "garbled", "overloaded", "lost"}
)

FAILURES_IN_A_ROW = 5
FAILED_SHARE = 0.5  # of the calls in the window
LEAST_CALLS = 20  # in the window, before the share says anything
WINDOW_S = 10  # counted in whole seconds
FIRST_OPEN_S = 1.0  # doubled by each failed probe; a success starts over
MAX_OPEN_S = 30.0


class Breaker:
    """Counts how the calls to one endpoint end, and says when to stop calling it.

    It opens after 5 failures in a row, or when at least half of at least 20 calls in the last 10 s failed. It
    stays open for 1 s, then lets one probe through (``half_open``). A probe that succeeds closes it; one that
    fails opens it again for twice as long as before, at most 30 s. Calls that began before it opened say
    nothing afterwards.

    The pattern is Michael Nygard's circuit breaker ("Release It!", 2007, chapter 5).

    >>> breaker = Breaker()
    >>> [breaker.ended("timeout", 0, now=1.0) for _ in range(5)][-1]
    '5 failures in a row, the last: timeout'
    >>> breaker.state, breaker.until
    ('open', 2.0)
    """

    __slots__ = ("_calls", "_failed", "_in_a_row", "_open_s", "_seconds", "era", "state", "until")

    def __init__(self) -> None:
        self.state: BreakerState = "healthy"
        self.era = 0  # how often it has opened; a call belongs to the era it began in
        self.until = 0.0  # of an open one: when the next probe may be sent
        self._open_s = FIRST_OPEN_S
        self._in_a_row = 0
        self._seconds: deque[list[int]] = deque()  # of the window: [second, calls, failed]
        self._calls = 0  # in the window
        self._failed = 0

    def ended(self, fault: EngineFault | None, era: int, now: float) -> str | None:
        """A call of an era ended, with a fault or well. Returns why the state changed, if it did."""
        if era != self.era or self.state == "open":
            return None
        failed = fault in BREAKING
        if self.state == "half_open":
            if failed:
                self._open_s = min(MAX_OPEN_S, self._open_s * 2)
                self._open(now)
                return f"its probe failed: {fault}"
            self.state = "healthy"
            self._open_s = FIRST_OPEN_S
            return "its probe succeeded"
        self._count(int(now), failed)
        if not failed:
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_IN_A_ROW:
            reason = f"{self._in_a_row} failures in a row, the last: {fault}"
        elif self._calls >= LEAST_CALLS and self._failed >= FAILED_SHARE * self._calls:
            reason = f"{self._failed} of {self._calls} calls failed within {WINDOW_S} s, the last: {fault}"
        else:
            return None
        self._open(now)
        return reason

    def probe(self) -> None:
        """Its time is over: let one call through."""
        assert self.state == "open", self.state
        self.state = "half_open"

    def _open(self, now: float) -> None:
        self.state = "open"
        self.era += 1
        self.until = now + self._open_s
        self._in_a_row = self._calls = self._failed = 0
        self._seconds.clear()

    def _count(self, second: int, failed: bool) -> None:
        seconds = self._seconds
        if seconds and seconds[-1][0] == second:
            last = seconds[-1]
        else:
            while seconds and seconds[0][0] <= second - WINDOW_S:
                _, calls, failures = seconds.popleft()
                self._calls -= calls
                self._failed -= failures
            last = [second, 0, 0]
            seconds.append(last)
        self._calls += 1
        last[1] += 1
        if failed:
            self._failed += 1
            last[2] += 1
