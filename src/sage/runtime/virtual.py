"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it."""

# ruff: noqa: SLF001 - the loop is one of asyncio's, and its turn is made of their private parts

from __future__ import annotations

import asyncio
import gc
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar, TypeVarTuple, Unpack

from sage.errors import InternalError

__all__ = ["VirtualTimeLoop", "run_virtual"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Timers that are nearer than this fire together, in their order. So a timer that a rounding error puts a little
#: before the present is due like any other, even after years of virtual time.
RESOLUTION_S = 1e-7

#: The system is asked whether a socket is ready, or ctrl-C was typed, once in so many turns of the loop.
TURNS_BETWEEN_LOOKS = 64

#: Timers are swept when more than this many, and more than half, of them were cancelled.
SWEEP_ABOVE = 64

OBJECTS_BETWEEN_COLLECTIONS = 50_000


class _Soon(asyncio.Handle):
    """A callback of the next turn."""

    __slots__ = ()
    _callback: Callable[..., object]

    def __init__(
        self, callback: Callable[..., object], args: Any, loop: VirtualTimeLoop, context: Context
    ) -> None:
        # Every field of asyncio's, which looks for a debug mode first, each time.
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """A callback of a later turn."""

    __slots__ = ()
    _callback: Callable[..., object]
    _scheduled: bool

    def __init__(
        self, when: float, callback: Callable[..., object], args: Any, loop: VirtualTimeLoop, context: Context
    ) -> None:
        self._when = when
        self._scheduled = True  # in the heap
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time: ``asyncio.sleep(3600)`` returns at once and ``loop.time()`` says 3600.

    Deterministic: the order of callbacks depends on the program alone; timers for the same moment fire in the order
    they were set. When every task waits for something that no timer will bring about, the loop raises InternalError
    instead of hanging.

    Differs from asyncio's loops in that timers are compared as numbers, and that the system is asked for news only
    now and then: the two halves of what a turn costs there.
    """

    # Of asyncio.BaseEventLoop
    _ready: deque[asyncio.Handle]
    _selector: selectors.BaseSelector
    _stopping: bool
    _closed: bool
    _check_closed: Callable[[], None]
    _process_events: Callable[[Any], None]

    def __init__(self) -> None:
        self._now = 0.0  # virtual seconds
        self._timers: list[tuple[float, int, _Timer]] = []  # heap: when, number; some cancelled
        self._number = 0
        self._num_cancelled = 0  # of those in the heap
        self._turns = 0
        super().__init__(selectors.SelectSelector())

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As in every loop."""
        if self._closed:
            self._check_closed()
        handle = _Soon(callback, args, self, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in every loop."""
        if self._closed:
            self._check_closed()
        timer = _Timer(when, callback, args, self, copy_context() if context is None else context)
        self._number += 1
        heappush(self._timers, (when, self._number, timer))
        return timer

    def _timer_handle_cancelled(self, handle: _Timer) -> None:
        """Told by a timer that it was cancelled."""
        if not handle._scheduled:
            return
        self._num_cancelled += 1
        if self._num_cancelled > SWEEP_ABOVE and self._num_cancelled * 2 > len(self._timers):
            self._timers = [
                entry for entry in self._timers if not entry[2]._cancelled and entry[2] is not handle
            ]
            heapify(self._timers)
            self._num_cancelled = 0

    def _run_once(self) -> None:
        """One turn: what is ready now; if nothing is, the clock jumps to the next timer first."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
            self._num_cancelled -= 1
        self._turns += 1
        waits = not ready and not self._stopping
        if self._turns % TURNS_BETWEEN_LOOKS == 0 or (waits and not timers):
            self._process_events(self._selector.select(0))
            waits = waits and not ready
        if waits:
            if not timers:
                raise InternalError(
                    f"deadlock at {self._now:.6g} s of virtual time: every task waits and no timer is set; "
                    "threads and sockets have no place in virtual time"
                )
            self._now = max(self._now, timers[0][0])
        due = self._now + RESOLUTION_S
        while timers and timers[0][0] < due:
            timer = heappop(timers)[2]
            timer._scheduled = False
            if timer._cancelled:
                self._num_cancelled -= 1
            else:
                ready.append(timer)
        for _ in range(len(ready)):  # what they make ready has its turn after this one
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()


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
    with _collecting_seldom(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Have garbage looked for less often.

    Jobs under way are many objects, none of them garbage: with 64,000 of them, to look through them every 700 objects
    takes half of all time. What is over is freed by its reference counts, as ever.
    """
    before = gc.get_threshold()
    if 0 < before[0] < OBJECTS_BETWEEN_COLLECTIONS:
        gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
