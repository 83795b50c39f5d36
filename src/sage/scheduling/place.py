"""Where: which endpoint of a pool gets the next call."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Protocol

from sage.registry import Registry
from sage.scheduling.views import EndpointView, TaskView

__all__ = ["PLACES", "LeastLoaded", "Place", "Ranking", "RoundRobin"]


class Place(Protocol):
    """Chooses among the endpoints of one pool. It learns of each change of an endpoint, and of that one only."""

    def update(self, endpoint: EndpointView) -> None:
        """An endpoint joined, or its limit or what is in flight on it changed."""

    def remove(self, name: str) -> None:
        """An endpoint left."""

    def choose(self, task: TaskView) -> str:
        """The endpoint for a call that starts with this task. Asked only when some endpoint has room."""


Rank = tuple[float, ...]


class Ranking:
    """Endpoints with room, the smallest rank first; among equals, the one chosen longest ago.

    A heap with dead entries: a change costs O(log n), so that 1,000 endpoints are as cheap as ten.
    """

    def __init__(self) -> None:
        self._heap: list[Any] = []  # (*rank, turn last chosen in, name)
        self._entries: dict[str, Any] = {}  # name -> its one live entry
        self._chosen: dict[str, int] = {}  # name -> the turn it was last chosen in
        self._turn = 0

    def put(self, endpoint: EndpointView, rank: Rank) -> None:
        """Rank an endpoint anew, or take it out while it has no room."""
        name = endpoint.name
        if endpoint.in_flight >= endpoint.limit:
            self._entries.pop(name, None)
            return
        entry = (*rank, self._chosen.get(name, 0), name)
        self._entries[name] = entry
        heappush(self._heap, entry)
        if len(self._heap) > 4 * len(self._entries) + 64:
            self._heap = sorted(self._entries.values())

    def remove(self, name: str) -> None:
        """Forget an endpoint."""
        self._entries.pop(name, None)
        self._chosen.pop(name, None)

    def choose(self) -> str:
        """The best endpoint with room, whose turn this is. It must be put again."""
        heap, entries = self._heap, self._entries
        name: str = heap[0][-1]
        while entries.get(name) is not heap[0]:
            heappop(heap)
            name = heap[0][-1]
        heappop(heap)
        del entries[name]
        self._turn += 1
        self._chosen[name] = self._turn
        return name


class RoundRobin:
    """Every endpoint in turn: of those with room, the one whose last turn is longest ago."""

    def __init__(self) -> None:
        self._ranking = Ranking()

    def update(self, endpoint: EndpointView) -> None:
        """Keep it in the round while it has room."""
        self._ranking.put(endpoint, ())

    def remove(self, name: str) -> None:
        """Take it out of the round."""
        self._ranking.remove(name)

    def choose(self, task: TaskView) -> str:  # noqa: ARG002 - blind to the task by design
        """Whose turn it is."""
        return self._ranking.choose()


class LeastLoaded:
    """The endpoint with the fewest own calls for its limit, then the fewest tokens in them; ties take turns.

    Join-the-shortest-queue on the core's own ledger, which is never stale, unlike scraped metrics.
    """

    def __init__(self) -> None:
        self._ranking = Ranking()

    def update(self, endpoint: EndpointView) -> None:
        """Rank it by what it has in flight."""
        self._ranking.put(endpoint, (endpoint.in_flight / endpoint.limit, endpoint.in_flight_tokens))

    def remove(self, name: str) -> None:
        """Forget it."""
        self._ranking.remove(name)

    def choose(self, task: TaskView) -> str:  # noqa: ARG002 - any task is equal here
        """The least loaded."""
        return self._ranking.choose()


PLACES: Registry[Callable[..., Place]] = Registry("place")
PLACES["round_robin"] = RoundRobin
PLACES["least_loaded"] = LeastLoaded
