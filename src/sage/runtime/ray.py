"""The Ray runtime: functions of the cpu pools run in workers on the nodes of a cluster, engines where they are told.

Scheduler, driver and event log stay in this process. Each worker is an endpoint; the scheduler decides what runs on
which, and Ray carries it there. Workers belong to the session: they are actors without a name of their own, which
Ray ends with the driver, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.engines.base import Engine
from sage.errors import EngineError, SetupError
from sage.graph.shape import shape_of
from sage.graph.values import Record
from sage.runtime.base import Job, first_of_group
from sage.runtime.hops import MAX_BATCH, Ahead, Hop
from sage.runtime.local import split_place
from sage.runtime.program import Node
from sage.runtime.ray_cluster import Connection, NodeFacts, RayCluster, connected, nodes_of
from sage.runtime.ray_link import Link
from sage.runtime.ray_worker import HopResult, Worker, versions
from sage.runtime.slots import Ended, Membership, Outcome
from sage.settings import Settings
from sage.tasks import spawn

__all__ = ["Inspected", "RayRuntime", "RaySlots", "inspected", "open_ray"]

logger = logging.getLogger("sage")

LARGE_BYTES = 100_000  # values above travel once and are then referred to
MAX_CODE_BYTES = 1_000_000  # a function that is larger drags data along
START_S = 60.0  # how long a worker may take to start
ROOM_S = 10.0  # how long to wait for room on nodes that have it taken
SOON_S = 0.2
LOOK_S = 1.0  # how often the nodes are looked at
SUSPECT = 2  # losses after which a record is sent alone: it may be what kills its workers
CLOCK_LOOKS = 5
NOWHERE = "@nowhere"


@asynccontextmanager
async def open_ray(cluster: RayCluster, settings: Settings) -> AsyncIterator[RayRuntime]:
    """Connected to a cluster, for one session.

    Raises:
        SetupError: as in ``connected``.
    """
    manager = connected(cluster)
    connection = await asyncio.to_thread(manager.__enter__)
    runtime = RayRuntime(cluster, connection, settings)
    try:
        yield runtime
    finally:
        runtime.end()
        await asyncio.to_thread(manager.__exit__, None, None, None)


@dataclass(frozen=True, slots=True)
class Inspected:
    """One node, as a worker on it found it."""

    name: str
    address: str
    total: Mapping[str, float]
    versions: Mapping[str, str]  # empty: no worker could be started
    wrong: str  # why it cannot be used; "": it can


async def inspected(cluster: RayCluster, settings: Settings) -> list[Inspected]:
    """The nodes of a cluster. On each a worker is started, greeted and ended.

    Raises:
        SetupError: as in ``connected``.
    """
    async with open_ray(cluster, settings) as runtime:
        nodes = await asyncio.to_thread(runtime.look)
        return [await _inspected(runtime, node) for node in nodes]


async def _inspected(runtime: RayRuntime, node: NodeFacts) -> Inspected:
    name, wrong, found = runtime.name_of(node.id), "", versions()
    actor = runtime.start(node, {}, 1)
    try:
        await runtime.greet(actor, name)
    except SetupError as error:
        wrong, found = str(error), {}
    finally:
        runtime.stop(actor)
    return Inspected(name, node.address, node.total, found, wrong)


@dataclass(slots=True)
class Place:
    """A worker that takes calls."""

    link: Link
    node: str  # Ray's id
    pool: str
    ahead_s: float  # of its clock before ours
    error_s: float  # of that, at most


class RayRuntime:
    """How a session's calls are carried out on a cluster."""

    def __init__(self, cluster: RayCluster, connection: Connection, settings: Settings) -> None:
        self.cluster = cluster
        self.connection = connection
        self.ray = connection.ray
        self._settings = settings
        self._names: dict[str, str] = {}  # Ray's id of a node -> ours
        self._workers: list[Any] = []  # every actor that was started
        self._seen: dict[str, NodeFacts] = {}
        self.clocks: dict[str, float] = {}  # node -> by how many seconds its clock may be misread
        self._actor = self.ray.remote(Worker)

    def slots(self, members: Membership, group: asyncio.TaskGroup) -> RaySlots:
        """Workers on the nodes."""
        return RaySlots(self, members, group)

    def opening(self, address: str) -> Sequence[AbstractAsyncContextManager[Engine]]:
        """One engine here, or one on every node that has room."""
        from sage.engines.base import open_engine
        from sage.runtime.ray_engine import open_on_node, places_of

        plain, place = split_place(address)
        nodes = places_of(plain, place, self.look())
        if nodes is None:
            return (open_engine(plain, self._settings),)
        return tuple(open_on_node(self, plain, place, node, self._settings) for node in nodes)

    def look(self) -> list[NodeFacts]:
        """The nodes as they are now. Blocks for some milliseconds."""
        nodes = nodes_of(self.connection)
        for node in nodes:
            self._seen[node.id] = node
            self._names.setdefault(node.id, f"node{len(self._names) + 1}")
        return nodes

    def name_of(self, node: str) -> str:
        """What a node is called in endpoints and errors."""
        return self._names[node]

    def facts(self) -> dict[str, object]:
        """The cluster, for the manifest."""
        return {
            "address": self.cluster.address,
            "nodes": {
                self._names[node.id]: {
                    "resources": dict(node.total),
                    "clock_error_s": self.clocks.get(self._names[node.id]),
                }
                for node in self._seen.values()
            },
        }

    def start(self, node: NodeFacts, shape: Mapping[str, float], slots: int) -> Any:
        """A worker on a node, not yet known to work."""
        others = {name: amount for name, amount in shape.items() if name not in {"cpu", "gpu"}}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._actor.options(
            num_cpus=shape.get("cpu", 0.0),
            num_gpus=shape.get("gpu", 0.0),
            resources=others or None,
            max_concurrency=1000,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
        ).remote(slots)
        self._workers.append(actor)
        return actor

    async def greet(self, actor: Any, node: str) -> tuple[float, float]:
        """Wait for a worker, compare versions, and read its clock: how far ahead it is, and the error at most.

        Raises:
            SetupError: it does not answer, or runs another Python, Ray or SAGE.
        """
        clock = asyncio.get_running_loop().time
        best = (0.0, float("inf"))
        try:
            async with asyncio.timeout(START_S):
                for _ in range(CLOCK_LOOKS):
                    asked = clock()
                    facts = await actor.facts.remote()
                    answered = clock()
                    error_s = (answered - asked) / 2
                    if error_s < best[1]:
                        best = facts.clock - (asked + answered) / 2, error_s
        except TimeoutError:
            raise SetupError(
                f"a worker on {node} did not start within {START_S:g} s; `ray status` shows what the cluster waits for"
            ) from None
        except Exception as error:
            raise SetupError(f"a worker on {node} could not be started: {_first_line(error)}") from error
        ours = versions()
        for name, version in facts.versions.items():
            if version != ours[name]:
                raise SetupError(
                    f"{node} runs {name} {version}, this process {ours[name]}; they must be the same on all nodes"
                )
        self.clocks[node] = max(best[1], self.clocks.get(node, 0.0))
        return best

    def stop(self, actor: Any) -> None:
        """End a worker's process."""
        if actor in self._workers:
            self._workers.remove(actor)
            self.ray.kill(actor)

    def end(self) -> None:
        """End every worker's process."""
        for actor in list(self._workers):
            self.stop(actor)


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
        self._changed = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self.carrier = RayCarrier(runtime)

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
            return spawn(self._group, self._carefully(endpoint, hop, jobs, ended)).cancel
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
            return EngineError(f"{endpoint}: {_first_line(error)}", fault="refused")
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
        """Start no worker any more."""
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
        elif pool.nowhere is None and now - pool.down_since > START_S:
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
                f"pool {endpoint.removesuffix(NOWHERE)!r} has had no worker for {START_S:g} s: its nodes are gone",
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


class RayCarrier:
    """Brings functions to workers, their code included.

    What a user's own module defines is sent by value, since a worker may not find the module; what is installed
    is found there under its name.
    """

    def __init__(self, runtime: RayRuntime) -> None:
        self._ray = runtime.ray
        self._checked: dict[int, tuple[Any, str | None]] = {}

    def check(self, call: Callable[[Record], Any]) -> str | None:
        """Why a function cannot travel; None if it can."""
        known = self._checked.get(id(call))
        if known is None:
            known = self._checked[id(call)] = call, self._why_not(call)
        return known[1]

    def put(self, hop: Hop) -> Any:
        """A reference to a hop's functions; they are kept as long as it."""
        return self._ray.put(tuple(zip(hop.steps, hop.calls, strict=True)))

    def _why_not(self, call: Callable[[Record], Any]) -> str | None:
        modules = [module for module in _modules_of(call) if _is_own(module)]
        for module in modules:
            self._ray.cloudpickle.register_pickle_by_value(sys.modules[module])
        try:
            size = len(self._ray.cloudpickle.dumps(call))
        except Exception as error:  # noqa: BLE001 - whatever an object's own methods raise
            return _first_line(error)
        if size > MAX_CODE_BYTES:
            return (
                f"it takes {size:,} bytes with what it refers to; give it that as a field, or load it inside"
            )
        return None


def _nothing() -> None:
    """What stops a call that was never made."""


def _modules_of(call: Any, depth: int = 4) -> set[str]:
    """The modules that a function, and those it closes over, are defined in."""
    found = {getattr(call, "__module__", None) or ""}
    if depth:
        for cell in getattr(call, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # an empty cell
                content = cell.cell_contents
                for inner in content if isinstance(content, list | tuple) else (content,):
                    if callable(inner):
                        found |= _modules_of(inner, depth - 1)
    return found


def _is_own(module: str) -> bool:
    """Whether a module is the user's rather than installed, and so may be missing on a node."""
    loaded = sys.modules.get(module)
    if (
        loaded is None
        or module == "__main__"
        or module.partition(".")[0] in {"sage", *sys.stdlib_module_names}
    ):
        return False
    file = getattr(loaded, "__file__", None)
    if file is None:  # made by hand, as notebooks and tests do
        return True
    path = Path(file).resolve()
    return not any(path.is_relative_to(Path(folder).resolve()) for folder in _INSTALLED)


_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _bytes_of(value: Any) -> int:
    """About how large a value is, where that is known at once."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
