"""The Ray runtime: functions of the cpu pools run in workers on the nodes of a cluster, engines where they are told.

Scheduler, driver and event log stay in this process. Each worker is an endpoint; the scheduler decides what runs on
which, and Ray carries it there. Workers belong to the session: they are actors without a name of their own, which
Ray ends with the driver, however it ends.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sage.engines.base import Engine, open_engine
from sage.errors import SetupError
from sage.runtime.local import split_place
from sage.runtime.ray_cluster import Connection, RayCluster, connected, nodes_of
from sage.runtime.ray_engine import is_on_nodes, open_on_node, places_of
from sage.runtime.ray_nodes import NodeFacts
from sage.runtime.ray_slots import RaySlots
from sage.runtime.ray_worker import Worker, first_line, versions
from sage.runtime.slots import Membership
from sage.settings import Settings

__all__ = ["Inspected", "RayRuntime", "inspected", "open_ray"]

START_S = 60.0  # how long a worker may take to start
CLOCK_LOOKS = 5
LOOK_S = 2.0  # how often it is seen whether nodes have joined that lack an engine


@asynccontextmanager
async def open_ray(cluster: RayCluster, settings: Settings) -> AsyncIterator[RayRuntime]:
    """Connected to a cluster, for one session.

    Raises:
        SetupError: as in ``connected``.
    """
    manager = connected(cluster)
    connection = await asyncio.to_thread(manager.__enter__)
    _keep_handlers()
    runtime = RayRuntime(cluster, connection, settings)
    try:
        yield runtime
    finally:
        runtime.end()
        await asyncio.to_thread(manager.__exit__, None, None, None)


def _keep_handlers() -> None:
    """Set anew what this process does on SIGTERM: connecting, Ray has put a handler before it that prints its stack."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


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

    async def opening(self, address: str) -> Mapping[str, AbstractAsyncContextManager[Engine]]:
        """One engine here, or one on every node that has room."""
        plain, place = split_place(address)
        if not is_on_nodes(plain, place):
            return {"": open_engine(plain, self._settings)}
        nodes = places_of(plain, place, await asyncio.to_thread(self.look))
        return {node.id: open_on_node(self, plain, place, node, self._settings) for node in nodes}

    def look_s(self, address: str) -> float | None:
        """Nodes come and go; this process stays."""
        return LOOK_S if is_on_nodes(*split_place(address)) else None

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
            raise SetupError(f"a worker on {node} could not be started: {first_line(error)}") from error
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
