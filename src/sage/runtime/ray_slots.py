"""The cpu pools on a Ray cluster: workers on the nodes, each an endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage.errors import EngineError, SetupError
from sage.graph.shape import shape_of
from sage.graph.values import Record
from sage.runtime.base import Job, first_of_group
from sage.runtime.hops import MAX_BATCH, Ahead, Hop
from sage.runtime.program import Node
from sage.runtime.ray_carrier import RayCarrier
from sage.runtime.ray_link import Link
from sage.runtime.ray_nodes import NodeFacts
from sage.runtime.ray_worker import HopResult, first_line
from sage.runtime.slots import NOWHERE, Ended, Membership, Outcome
from sage.tasks import spawn

if TYPE_CHECKING:
    from sage.runtime.ray import RayRuntime

__all__ = ["RaySlots"]

logger = logging.getLogger("sage")

LARGE_BYTES = 100_000  # values above travel once and are then referred to
DOWN_S = 60.0  # a pool without workers for so long fails its calls
ROOM_S = 10.0  # how long to wait for room on nodes that have it taken
SOON_S = 0.2
LOOK_S = 1.0  # how often the nodes are looked at
SUSPECT = 2  # losses after which a record is sent alone: it may be what kills its workers


@dataclass(slots=True)
class Place:
    """A worker that takes calls."""

    link: Link
    node: str  # Ray's id
    pool: str
    ahead_s: float  # of its clock before ours
    error_s: float  # of that, at most


@dataclass(slots=True)
class _Pool:
    """The workers for functions of one shape."""

    name: str
    shape: Mapping[str, float]
    places: dict[str, Place] = field(default_factory=dict)  # by endpoint
    numbers: Iterator[int] = field(default_factory=itertools.count)
    is_served: asyncio.Event = field(default_factory=asyncio.Event)  # it has a worker, or is given up
    careful: asyncio.Lock = field(default_factory=asyncio.Lock)  # one suspect at a time, see RaySlots.begin
    down_since: float | None = None  # there is no worker at all
    nowhere: str | None = None  # stands in for workers then: its calls fail


class RaySlots:
    """Workers on the nodes, each an endpoint. Those that die are replaced; nodes may join and leave.

    Args:
        runtime: the cluster.
        members: told which workers take calls.
        group: owns the task that looks after the workers.
    """

    def __init__(self, runtime: RayRuntime, members: Membership, group: asyncio.TaskGroup) -> None:
        self._runtime = runtime
        self._group = group
        self._members = members
        self._cluster = runtime.cluster
        self._pools: dict[str, _Pool] = {}
        self._places: dict[str, Place] = {}
        self._losses: dict[tuple[int, int], int] = {}  # (job, hop) -> workers that died under it
        self._functions: dict[int, Any] = {}  # hop -> reference to its functions
        self._watch: asyncio.Task[None] | None = None
        self._is_closed = False
        self._changed = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self.carrier = RayCarrier(runtime.ray)

    @property
    def limits(self) -> dict[str, dict[str, int]]:
        """Pool -> its endpoints, each with the calls at once that it takes."""
        return {pool.name: dict.fromkeys(pool.places, self._limit) for pool in self._pools.values()}

    @property
    def _limit(self) -> int:
        return self._cluster.slots + self._cluster.credits

    async def open(self, pool: str) -> None:
        """Start workers for a pool on every node that has room.

        Raises:
            SetupError: none has.
        """
        if pool in self._pools:
            return
        opened = _Pool(pool, shape_of(pool))
        starting = await self._room(opened)
        self._pools[pool] = opened
        try:
            async with asyncio.TaskGroup() as group:
                for node in starting:
                    group.create_task(self._add(opened, node))
        except ExceptionGroup as failed:
            raise first_of_group(failed) from failed
        if self._watch is None:
            self._watch = spawn(self._group, self._keep())

    def begin(self, endpoint: str, node: Node, jobs: Sequence[Job], ended: Ended) -> Callable[[], None]:
        """Send the records of some jobs on a hop.

        When a worker dies, all that was on it is lost and sent again, and one of them may be what killed it. So
        records that were lost before are sent one after the other, in the whole pool one at a time: what keeps
        killing then is by itself, and gives up after its own attempts.
        """
        hop, place = node.hop, self._places.get(endpoint)
        assert hop is not None
        if self._losses and any(self._losses.get((job.id, hop.id), 0) >= SUSPECT for job in jobs):
            careful = spawn(self._group, self._carefully(endpoint, hop, jobs, ended))
            return lambda: _cancel(careful)
        if place is None:
            asyncio.get_running_loop().call_soon(ended, self._unserved(endpoint))
            return _nothing
        functions = self._functions.get(hop.id)
        if functions is None:
            functions = self._functions[hop.id] = self.carrier.put(hop)
        sent = self._clock()

        def told(results: list[HopResult], error: Exception | None) -> None:
            if error is not None:
                ended(self._gone(endpoint, hop, jobs, error))
                return
            received = self._clock()
            for job in jobs if self._losses else ():
                self._losses.pop((job.id, hop.id), None)
            hop.learn(max([times[-1] - times[0] for _, _, times in results]))
            ended(
                [
                    self._outcome(job, hop, result, place, sent, received)
                    for job, result in zip(jobs, results, strict=True)
                ]
            )

        records = [self._packed(job, hop) for job in jobs]
        return place.link.begin(records, told, hop=hop.id, functions=functions)

    def _gone(self, endpoint: str, hop: Hop, jobs: Sequence[Job], error: Exception) -> EngineError:
        """What is told of a call that gave no result."""
        if not isinstance(error, EngineError):
            return EngineError(f"{endpoint}: {first_line(error)}", fault="refused")
        for job in jobs:
            self._losses[job.id, hop.id] = self._losses.get((job.id, hop.id), 0) + 1
        return error

    async def _carefully(self, endpoint: str, hop: Hop, jobs: Sequence[Job], ended: Ended) -> None:
        """One record after the other, none while another suspect of the pool is under way."""
        pool = self._pools[hop.pool]
        outcomes: list[Outcome] = []
        for job in jobs:
            async with pool.careful:
                await pool.is_served.wait()
                place = self._places.get(endpoint) or next(iter(pool.places.values()), None)
                if place is None:
                    ended(self._unserved(pool.name + NOWHERE))
                    return
                sent = self._clock()
                functions = self._functions[hop.id]
                try:
                    (result,) = await place.link.call(
                        [self._packed(job, hop)], hop=hop.id, functions=functions
                    )
                except Exception as error:  # noqa: BLE001 - told of the job
                    outcomes.append((None, self._gone(place.link.name, hop, [job], error)))
                else:
                    self._losses.pop((job.id, hop.id), None)
                    outcomes.append(self._outcome(job, hop, result, place, sent, self._clock()))
        ended(outcomes)

    async def close(self) -> None:
        """Start no worker any more, and say nothing of those that end."""
        self._is_closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    # Workers come and go

    async def _room(self, pool: _Pool) -> list[NodeFacts]:
        """The nodes that workers may start on now, each as often as it has room; waits a while for others to end.

        Raises:
            SetupError: there is no room.
        """
        give_up = self._clock() + ROOM_S
        while True:
            nodes = await asyncio.to_thread(self._runtime.look)
            starting = [node for node in nodes for _ in range(self._wanted(pool, node))]
            if starting:
                return starting
            if self._clock() > give_up or not any(node.size_for(pool.shape) for node in nodes):
                raise SetupError(self._no_room(pool, nodes))
            await asyncio.sleep(SOON_S)

    def _wanted(self, pool: _Pool, node: NodeFacts) -> int:
        """How many workers to start on a node now."""
        most = self._cluster.workers
        size = node.size_for(pool.shape)
        wanted = size if most is None else min(most, size)
        there = sum(place.node == node.id for place in pool.places.values())
        return min(wanted - there, node.room_for(pool.shape)) if wanted > there else 0

    async def _add(self, pool: _Pool, node: NodeFacts) -> None:
        """Start a worker, and let it take calls once it answers."""
        where = self._runtime.name_of(node.id)
        actor = self._runtime.start(node, pool.shape, self._cluster.slots)
        try:
            ahead_s, error_s = await self._runtime.greet(actor, where)
        except BaseException:
            self._runtime.stop(actor)
            raise
        name = f"{pool.name}@{where}/{next(pool.numbers)}"
        link = Link(name, actor, self._lost)
        self._places[name] = pool.places[name] = Place(link, node.id, pool.name, ahead_s, error_s)
        pool.is_served.set()
        if pool.nowhere is not None:
            self._members.left(pool.nowhere)
            pool.nowhere = None
        self._members.joined(name, pool.name, self._limit)

    def _lost(self, link: Link) -> None:
        """A worker is gone; its calls have failed and will be made elsewhere."""
        place = self._places.pop(link.name)
        pool = self._pools[place.pool]
        del pool.places[link.name]
        if not pool.places:
            pool.is_served.clear()
        if not self._is_closed:
            logger.warning("%s is gone; its calls are made again elsewhere", link.name)
        self._runtime.stop(link.actor)
        self._members.left(link.name)
        self._changed.set()

    async def _keep(self) -> None:
        """Replace workers that died, use nodes that joined, and let go of those that left."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            self._changed.clear()
            nodes = await asyncio.to_thread(self._runtime.look)
            alive = {node.id for node in nodes}
            for place in [place for place in self._places.values() if place.node not in alive]:
                place.link.lose()
            for pool in self._pools.values():
                for node in nodes:
                    for _ in range(self._wanted(pool, node)):
                        await self._replace(pool, node)
                self._mark_down(pool)

    async def _replace(self, pool: _Pool, node: NodeFacts) -> None:
        try:
            await self._add(pool, node)
        except SetupError as error:
            logger.warning("%s", error)

    def _mark_down(self, pool: _Pool) -> None:
        """A pool without a worker for long fails its calls, rather than let them wait for ever."""
        now = asyncio.get_running_loop().time()
        if pool.places:
            pool.down_since = None
        elif pool.down_since is None:
            pool.down_since = now
        elif pool.nowhere is None and now - pool.down_since > DOWN_S:
            pool.nowhere = pool.name + NOWHERE
            pool.is_served.set()
            self._members.joined(pool.nowhere, pool.name, MAX_BATCH)

    def _no_room(self, pool: _Pool, nodes: Sequence[NodeFacts]) -> str:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in pool.shape.items())
        free = "; ".join(
            f"{self._runtime.name_of(node.id)}: "
            + ", ".join(
                f"{node.free.get(name, 0):g} of {node.total.get(name, 0):g} {name}" for name in pool.shape
            )
            for node in nodes
        )
        held = sum(len(other.places) for other in self._pools.values())
        own = (
            f"; {held} workers of this session's other pools hold some, workers= leaves more free"
            if held
            else ""
        )
        return (
            f"no node of the Ray cluster has room for a worker of pool {pool.name!r}, which takes {asked}; "
            f"free is {free or 'nothing: there is no node'}{own}"
        )

    def _unserved(self, endpoint: str) -> EngineError:
        if endpoint.endswith(NOWHERE):
            return EngineError(
                f"pool {endpoint.removesuffix(NOWHERE)!r} has had no worker for {DOWN_S:g} s: its nodes are gone",
                fault="refused",
            )
        return EngineError(f"{endpoint}: the worker is gone", fault="lost")

    # What travels

    def _packed(self, job: Job, hop: Hop) -> Record:
        """The fields a hop reads; large ones as references, which are made once for a job."""
        record, packed = job.record, {}
        for name in hop.needs:
            if name in record:
                value = record[name]
                packed[name] = value if _bytes_of(value) <= LARGE_BYTES else self._parcel(job, name, value)
        return packed

    def _parcel(self, job: Job, name: str, value: Any) -> Any:
        kept, reference = job.parcels.get(name, (None, None))
        if kept is not value or reference is None:
            reference = self._runtime.ray.put(value)
            job.parcels[name] = value, reference
        return reference

    def _outcome(
        self, job: Job, hop: Hop, result: HopResult, place: Place, sent: float, received: float
    ) -> Outcome:
        """What came of the leading step; of the others, the driver will find it in the job.

        Times are brought to this process's clock. Where that leaves them outside the call, by no more than the
        clocks are misread, they count as its ends.
        """
        values, error, times = result
        if job.stamps is None and error is None and hop.last is not None and job.goes_straight:
            job.record.update(zip(hop.steps, values, strict=True))
            job.through = hop.last
            return values[0], None
        here = [min(max(time - place.ahead_s, sent), received) for time in times]
        if not values:
            return None, error
        for number, name in enumerate(hop.steps[: len(here) - 1]):
            value, raised = (values[number], None) if number < len(values) else (None, error)
            if number or job.stamps is not None:
                job.ahead[name] = Ahead(value, raised, here[number], here[number + 1])
        return values[0], None


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _nothing() -> None:
    """What stops a call that was never made."""


def _bytes_of(value: Any) -> int:
    """About how large a value is, where that is known at once."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0
