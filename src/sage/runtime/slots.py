"""The slots of the cpu pool: where blocking functions run. Here they are threads of this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from sage.engines.engine_metrics import EngineMetrics
from sage.errors import EngineError
from sage.graph.shape import shape_of
from sage.ops.base import Compute

if TYPE_CHECKING:
    from sage.runtime.base import Job
    from sage.runtime.hops import Carrier
    from sage.runtime.program import Node

__all__ = ["NOWHERE", "Membership", "Outcome", "Slots", "ThreadSlots"]

#: Ends the name of what stands in for the endpoints of a pool that has none any more: calls to it fail.
NOWHERE = "@nowhere"

#: The value of a function, or what it raised.
Outcome = tuple[Any, Exception | None]

#: Told what a function gave for each job; or that the endpoint is gone ("lost").
Ended = Callable[[list[Outcome] | EngineError], None]


class Membership(Protocol):
    """Told which endpoints take calls."""

    def joined(self, name: str, pool: str, limit: int) -> None:
        """An endpoint takes so many calls at once from now on, or another number than before."""

    def left(self, name: str) -> None:
        """An endpoint takes no further calls."""

    def measured(self, name: str, metrics: EngineMetrics) -> None:
        """An endpoint's server said what its load is."""


class Slots(Protocol):
    """Carries out the functions of the cpu pools. Everything happens on one event loop."""

    @property
    def carrier(self) -> Carrier | None:
        """Brings functions elsewhere; None where they run in this process."""

    @property
    def limits(self) -> dict[str, dict[str, int]]:
        """Pool -> its endpoints, each with the calls at once that it takes."""

    async def open(self, pool: str) -> None:
        """Make a pool ready: at least one of its endpoints has joined when this returns.

        Raises:
            SetupError: nothing here has room for its functions.
        """

    def begin(self, endpoint: str, node: Node, jobs: Sequence[Job], ended: Ended) -> Callable[[], None]:
        """Have a step's function called for these jobs; ``ended`` is told later, once. Returns what stops it."""

    async def close(self) -> None:
        """Start nothing any more, and let go."""


class ThreadSlots:
    """Worker threads: functions run at the same time as far as they release the interpreter's lock.

    Args:
        members: told of each pool's endpoint.
    """

    def __init__(self, members: Membership) -> None:
        self._members = members
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self.limits: dict[str, dict[str, int]] = {}
        self.carrier: Carrier | None = None

    async def open(self, pool: str) -> None:
        """As many threads as the CPUs can bear of the pool's shape, at least one."""
        if pool in self._threads:
            return
        limit = max(1, int((os.cpu_count() or 1) // max(1.0, shape_of(pool).get("cpu", 1.0))))
        self._threads[pool] = ThreadPoolExecutor(limit, thread_name_prefix="sage-cpu")
        self.limits[pool] = {pool: limit}
        self._members.joined(pool, pool, limit)

    def begin(self, endpoint: str, node: Node, jobs: Sequence[Job], ended: Ended) -> Callable[[], None]:
        """In a thread; if it is stopped, a function that has begun runs on."""
        assert isinstance(node.work, Compute)
        (job,) = jobs
        threads, call = self._threads[endpoint], node.work.call
        running = asyncio.get_running_loop().run_in_executor(threads, _outcome, call, job.record)

        def tell(running: asyncio.Future[Outcome]) -> None:
            if not running.cancelled():
                ended([running.result()])

        running.add_done_callback(tell)

        def stop() -> None:
            running.cancel()

        return stop

    async def close(self) -> None:
        """Return at once; what runs ends by itself."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)


def _outcome(call: Callable[[Any], Any], record: Any) -> Outcome:
    try:
        return call(record), None
    except Exception as error:  # noqa: BLE001 - the user's function failed, and its job will
        return None, error
