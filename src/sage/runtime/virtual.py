"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from sage.errors import InternalError

__all__ = ["VirtualTimeLoop", "run_virtual"]

T = TypeVar("T")

#: Timers that are nearer than this fire together, in their order.
RESOLUTION_S = 1e-7

#: The system is asked whether a socket is ready, or ctrl-C was typed, once in so many turns of the loop.
TURNS_BETWEEN_LOOKS = 64


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: where the loop would wait for its next timer, the clock jumps there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0  # virtual seconds
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        if timeout is None or self._turns % TURNS_BETWEEN_LOOKS == 0:
            ready = super().select(0)
            if ready:
                return ready
            if timeout is None:
                raise InternalError(
                    f"deadlock at {self.now:.6g} s of virtual time: every task waits and no timer is set; "
                    "threads and sockets have no place in virtual time"
                )
        if timeout > 0:
            self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time: ``asyncio.sleep(3600)`` returns at once and ``loop.time()`` says 3600.

    Deterministic: the order of callbacks depends on the program alone. When every task waits for something
    that no timer will bring about, the loop raises InternalError instead of hanging.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # asyncio fires what is due within the clock's resolution. Its own of 1 ns is lost in a float after
        # some weeks of virtual time, and then a timer would be due for ever and never fire.
        self._clock_resolution = RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now


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
