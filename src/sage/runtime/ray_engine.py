"""Engines on the nodes of a Ray cluster: opened there, called from here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from sage.engines.base import (
    EmbedReply,
    EmbedRequest,
    Emit,
    EngineInfo,
    GenerateRequest,
    Reply,
    ignore_pieces,
    parse_address,
)
from sage.errors import EngineError, SetupError
from sage.runtime.ray_link import Link
from sage.settings import Settings

if TYPE_CHECKING:
    from sage.runtime.ray import RayRuntime
    from sage.runtime.ray_cluster import NodeFacts

__all__ = ["RayEngine", "open_on_node", "places_of"]

#: Engines that are opened on every node unless their address says where=driver: the model runs inside them.
ON_NODES = frozenset({"llama", "vllm"})
OPEN_S = 600.0  # how long an engine may take to load its model
LOOK_S = 0.05


def places_of(address: str, place: Mapping[str, str], nodes: list[NodeFacts]) -> list[NodeFacts] | None:
    """The nodes an engine is opened on; None: it is opened in this process.

    Raises:
        SetupError: no node has the resource it asks for.
    """
    where = place.get("where", "node" if parse_address(address).scheme in ON_NODES else "driver")
    if where == "driver":
        return None
    wanted = _shape(place)
    fitting = [node for node in nodes if node.room_for(wanted) >= 1]
    if not fitting:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items()) or "nothing"
        has = "; ".join(f"{node.address}: {_shown(node.free)}" for node in nodes)
        raise SetupError(f"engine {address!r} takes {asked}, which no node has free: {has}")
    return fitting


def _shape(place: Mapping[str, str]) -> dict[str, float]:
    return {place["on"]: 1.0} if "on" in place else {}


def _shown(free: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in free.items() if name != "memory")


@asynccontextmanager
async def open_on_node(
    runtime: RayRuntime, address: str, place: Mapping[str, str], node: NodeFacts, settings: Settings
) -> AsyncIterator[RayEngine]:
    """An engine in a worker of its own on a node, closed with this context.

    Raises:
        SetupError, EngineError: it cannot be opened there.
    """
    where = runtime.name_of(node.id)
    actor = runtime.start(node, _shape(place), 1)
    try:
        await runtime.greet(actor, where)
        holding = actor.hold.remote(address, settings.home).future()
        info = await _opened(actor, holding, address, where)
        yield RayEngine(Link(f"{address}@{where}", actor, _ignore), info, where)
        with contextlib.suppress(Exception):  # the worker may be gone, and with it what there was to close
            async with asyncio.timeout(5.0):
                await actor.close.remote()
    finally:
        runtime.stop(actor)


def _ignore(_link: Link) -> None:
    """An engine whose worker is gone fails its calls; the breaker keeps them away."""


async def _opened(actor: Any, holding: Any, address: str, where: str) -> EngineInfo:
    """What the engine says of itself, once it is open."""
    try:
        async with asyncio.timeout(OPEN_S):
            while not holding.done():
                info: EngineInfo | None = await actor.info.remote()
                if info is not None:
                    return info
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise SetupError(f"engine {address!r} did not open on {where} within {OPEN_S:g} s") from None
    error = holding.exception()
    cause = getattr(error, "cause", None) or error
    raise (
        cause
        if isinstance(cause, SetupError | EngineError)
        else SetupError(f"engine {address!r} could not be opened on {where}: {cause}")
    ) from error


class RayEngine:
    """An engine in a worker on a node.

    Args:
        link: the way to the worker.
        info: what the engine says of itself there.
        where: the node.
    """

    def __init__(self, link: Link, info: EngineInfo, where: str) -> None:
        self._link = link
        self._info = msgspec.structs.replace(info, address=f"{info.address}@{where}")

    @property
    def info(self) -> EngineInfo:
        """What the engine on the node is and can do; its address says the node."""
        return self._info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer a request. Cancelling aborts it on the node."""
        wants = None if emit is ignore_pieces else emit
        reply: Reply = await self._link.call(request, emit=wants)
        return reply

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Turn texts into vectors."""
        reply: EmbedReply = await self._link.call(request)
        return reply
