"""Time that tests move themselves: a clock to hand in, and an event loop that jumps instead of waiting."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from sage.errors import InternalError

__all__ = ["ManualClock", "VirtualTimeLoop", "run_virtual"]

T = TypeVar("T")

#: Timers that are nearer than this fire together, in their order.
RESOLUTION_S = 1e-7


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


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: where the loop would wait for its next timer, the clock jumps there."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise InternalError(
                f"deadlock at {self._clock():.6g} s of virtual time: every task waits and no timer is set; "
                "threads and sockets have no place in virtual time"
            )
        self._clock.advance(max(timeout, 0.0))
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time: ``asyncio.sleep(3600)`` returns at once and ``loop.time()`` says 3600.

    Deterministic: the order of callbacks depends on the program alone. When every task waits for something
    that no timer will bring about, the loop raises InternalError instead of hanging.
    """

    def __init__(self) -> None:
        self._virtual = ManualClock()
        super().__init__(_JumpingSelector(self._virtual))
        # asyncio fires what is due within the clock's resolution. Its own of 1 ns is lost in a float after
        # some weeks of virtual time, and then a timer would be due for ever and never fire.
        self._clock_resolution = RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time, like ``asyncio.run``.

    >>> async def main() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run_virtual(main())
    3600.0

    Raises:
        InternalError: a deadlock: nothing is ready and nothing is scheduled.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
