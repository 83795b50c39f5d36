"""Time that tests move themselves: a clock to hand in, and the event loop that jumps instead of waiting."""

from __future__ import annotations

from sage.runtime.virtual import VirtualTimeLoop, run_virtual

__all__ = ["ManualClock", "VirtualTimeLoop", "run_virtual"]


class ManualClock:
    """A clock that stands still until it is told to go on.

    >>> clock = ManualClock()
    >>> clock.advance(1.5)
    >>> clock()
    1.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """Seconds since the clock's zero."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``, which must not be negative."""
        assert seconds >= 0, seconds
        self._now += seconds
