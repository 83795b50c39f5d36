"""Where: which endpoint of a pool gets the next call."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from math import ceil
from typing import TYPE_CHECKING, Any, Protocol

from sage.errors import InputError
from sage.registry import Registry
from sage.scheduling.views import EndpointView, TaskView

if TYPE_CHECKING:
    import random

__all__ = ["PLACES", "LeastLoaded", "Pack", "Place", "PrefixAffinity", "Random", "Ranking", "RoundRobin"]


class Place(Protocol):
    """Chooses among the endpoints of one pool. It learns of each change of an endpoint, and of that one only.

    One that draws asks for the scheduler's generator by a keyword-only argument ``rng`` without a default.
    """

    def update(self, endpoint: EndpointView) -> None:
        """An endpoint joined, or its limit, its state or what is in flight on it changed."""

    def remove(self, name: str) -> None:
        """An endpoint left, or may not be called for now."""

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
    """Every endpoint in turn: of those with room, the one whose last turn is longest ago.

    When: a baseline, or calls of one size on equal endpoints. When not: calls differ in size; one endpoint then
    gathers the long ones.
    """

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


class Random:
    """Any endpoint with room, each as likely as the others.

    When: a baseline to compare with. When not: otherwise; ``least_loaded`` costs the same and waits less.
    """

    def __init__(self, *, rng: random.Random) -> None:
        self._rng = rng
        self._names: list[str] = []  # of those with room
        self._index: dict[str, int] = {}

    def update(self, endpoint: EndpointView) -> None:
        """Keep it among the choices while it has room."""
        if endpoint.in_flight >= endpoint.limit:
            self.remove(endpoint.name)
        elif endpoint.name not in self._index:
            self._index[endpoint.name] = len(self._names)
            self._names.append(endpoint.name)

    def remove(self, name: str) -> None:
        """Take it out; the last one gets its number."""
        index = self._index.pop(name, None)
        if index is None:
            return
        last = self._names.pop()
        if last != name:
            self._names[index] = last
            self._index[last] = index

    def choose(self, task: TaskView) -> str:  # noqa: ARG002 - blind to the task by design
        """One of those with room."""
        return self._names[self._rng.randrange(len(self._names))]


class LeastLoaded:
    """The endpoint with the fewest own calls for its limit, then the fewest tokens in them; ties take turns.

    Between equals, the one whose server last told of the fewest requests of others, where it tells at all.

    When: always, unless prompts share long prefixes. When not: it is compared with something. Source:
    join-the-shortest-queue (Winston, "Optimality of the Shortest Line Discipline", 1977), on the scheduler's own
    ledger, which is never stale, unlike scraped metrics.
    """

    def __init__(self) -> None:
        self._ranking = Ranking()

    def update(self, endpoint: EndpointView) -> None:
        """Rank it by what it has in flight."""
        self._ranking.put(
            endpoint, (endpoint.in_flight / endpoint.limit, endpoint.in_flight_tokens, endpoint.elsewhere)
        )

    def remove(self, name: str) -> None:
        """Forget it."""
        self._ranking.remove(name)

    def choose(self, task: TaskView) -> str:  # noqa: ARG002 - any task is equal here
        """The least loaded."""
        return self._ranking.choose()


class Pack:
    """The fullest endpoint that still has room; ties go to the one that joined first.

    When: endpoints are paid by use, or are to be drained: the last ones stay idle. When not: time to the answer
    counts; a full endpoint is a slow one.
    """

    def __init__(self) -> None:
        self._ranking = Ranking()
        self._joined: dict[str, int] = {}
        self._number = 0

    def update(self, endpoint: EndpointView) -> None:
        """Rank it by what it has in flight, the most first."""
        number = self._joined.get(endpoint.name)
        if number is None:
            self._number += 1
            number = self._joined[endpoint.name] = self._number
        self._ranking.put(endpoint, (-endpoint.in_flight / endpoint.limit, number))

    def remove(self, name: str) -> None:
        """Forget it."""
        self._joined.pop(name, None)
        self._ranking.remove(name)

    def choose(self, task: TaskView) -> str:  # noqa: ARG002 - any task is equal here
        """The fullest."""
        return self._ranking.choose()


#: Endpoints among which a prefix chooses: all of them, or those that follow it on a ring.
CANDIDATES = 16
MAX_PREFIXES = 4096  # whose homes are remembered
HOMES = 2  # of a prefix: where it goes first, and where it goes while that one is too full


class PrefixAffinity:
    """Calls that begin alike go to the same endpoint, whose prefix cache then serves them; else the least loaded.

    A prefix has two homes by rendezvous hashing. A call goes to the first of them that has room and would not
    exceed ``bound`` times the mean load, each endpoint weighed by its limit; if neither, or without a known
    prefix, to the least loaded. An endpoint that comes or goes moves only the prefixes that are its own.

    When: engines cache prefixes, and prompts share long ones: system prompts, agents, few-shot examples. When
    not: every prompt is different, or the pool has one endpoint; then it is ``least_loaded``. Source: Thaler and
    Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996; bounded loads from Mirrokni, Thorup and
    Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018. Differs: above 16 endpoints, a prefix chooses
    among the 16 that follow it on a ring, so that a choice costs the same with a thousand.
    """

    def __init__(self, bound: float = 1.25) -> None:
        if bound < 1:
            raise InputError(
                f"place prefix_affinity: bound is {bound}, expected at least 1 time the mean load"
            )
        self._bound = bound
        self._others = LeastLoaded()
        self._endpoints: dict[str, EndpointView] = {}
        self._ring: list[tuple[int, str]] = []  # (hash, name), sorted
        self._homes_of: dict[str, list[str]] = {}  # of prefixes asked for since the ring changed
        self._limit = 0  # of all together
        self._in_flight = 0

    def update(self, endpoint: EndpointView) -> None:
        """Give it its place on the ring, and note what it has in flight."""
        before = self._endpoints.get(endpoint.name)
        if before is None:
            insort(self._ring, (_hash(endpoint.name), endpoint.name))
            self._homes_of.clear()
        else:
            self._limit -= before.limit
            self._in_flight -= before.in_flight
        self._endpoints[endpoint.name] = endpoint
        self._limit += endpoint.limit
        self._in_flight += endpoint.in_flight
        self._others.update(endpoint)

    def remove(self, name: str) -> None:
        """Take it off the ring."""
        before = self._endpoints.pop(name, None)
        if before is not None:
            self._ring.remove((_hash(name), name))
            self._homes_of.clear()
            self._limit -= before.limit
            self._in_flight -= before.in_flight
            self._others.remove(name)

    def choose(self, task: TaskView) -> str:
        """A home of its prefix that is not too full, or the least loaded."""
        if task.prefix_key is not None:
            for name in self._homes(task.prefix_key):
                if self._takes(self._endpoints[name]):
                    return name
        return self._others.choose(task)

    def _takes(self, endpoint: EndpointView) -> bool:
        mean = (self._in_flight + 1) * endpoint.limit / self._limit
        return endpoint.in_flight < min(endpoint.limit, ceil(self._bound * mean))

    def _homes(self, prefix: str) -> list[str]:
        homes = self._homes_of.get(prefix)
        if homes is None:
            if len(self._homes_of) >= MAX_PREFIXES:
                self._homes_of.clear()
            homes = self._homes_of[prefix] = self._find_homes(prefix)
        return homes

    def _find_homes(self, prefix: str) -> list[str]:
        ring, mark = self._ring, _hash(prefix)
        start = bisect_left(ring, (mark, ""))
        near = (ring[start : start + CANDIDATES] + ring[:CANDIDATES])[: min(CANDIDATES, len(ring))]
        ranked = sorted(((_mixed(mark, point), name) for point, name in near), reverse=True)
        return [name for _, name in ranked[:HOMES]]


_MASK = (1 << 64) - 1


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _mixed(a: int, b: int) -> int:
    """One number out of two, as good as drawn: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed = (a ^ b) & _MASK
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
    return mixed ^ mixed >> 31


PLACES: Registry[Callable[..., Place]] = Registry("place")
PLACES["round_robin"] = RoundRobin
PLACES["random"] = Random
PLACES["least_loaded"] = LeastLoaded
PLACES["prefix_affinity"] = PrefixAffinity
PLACES["pack"] = Pack
