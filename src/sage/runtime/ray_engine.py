"""Engines on the nodes of a Ray cluster: opened there, called from here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
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
from sage.engines.ending import Ending
from sage.errors import EngineError, SetupError
from sage.runtime.ray_link import Link
from sage.settings import Settings

if TYPE_CHECKING:
    from sage.runtime.ray import RayRuntime
    from sage.runtime.ray_nodes import NodeFacts

__all__ = ["RayEngine", "is_on_nodes", "open_on_node", "places_of"]

#: Engines that are opened on every node unless their address says where=driver: the model runs inside them.
ON_NODES = frozenset({"llama", "vllm"})
OPEN_S = 600.0  # how long an engine may take to load its model
CLOSE_S = 5.0
LOOK_S = 0.05


def is_on_nodes(address: str, place: Mapping[str, str]) -> bool:
    """Whether an engine is opened on the nodes rather than in this process."""
    where = "node" if parse_address(address).scheme in ON_NODES else "driver"
    return place.get("where", where) == "node"


def places_of(address: str, place: Mapping[str, str], nodes: list[NodeFacts]) -> list[NodeFacts]:
    """The nodes an engine can be opened on now.

    Raises:
        SetupError: no node has the resource it asks for.
    """
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
        engine = RayEngine(actor, info, where)
        holding.add_done_callback(partial(_over, asyncio.get_running_loop(), engine))
        yield engine
        with contextlib.suppress(Exception):  # the worker may be gone, and with it what there was to close
            async with asyncio.timeout(CLOSE_S):
                await actor.close.remote()
    finally:
        runtime.stop(actor)


def _over(loop: asyncio.AbstractEventLoop, engine: RayEngine, _holding: object) -> None:
    """The engine, or its worker, has ended. On a thread of Ray's."""
    with contextlib.suppress(RuntimeError):  # the loop has ended, and everyone who waited with it
        loop.call_soon_threadsafe(engine.over)


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
    """An engine in a worker on a node. It ends with the engine there, or with the worker.

    Args:
        actor: the worker.
        info: what the engine says of itself there.
        where: the node.
    """

    def __init__(self, actor: Any, info: EngineInfo, where: str) -> None:
        self._info = msgspec.structs.replace(info, address=f"{info.address}@{where}")
        self._ending = Ending()
        self._link = Link(self._info.address, actor, lambda _: self._ending.over())

    @property
    def info(self) -> EngineInfo:
        """What the engine on the node is and can do; its address says the node."""
        return self._info

    def on_end(self, tell: Callable[[], None]) -> None:
        """Have somebody told when the worker is gone, or the engine in it."""
        self._ending.tell(tell)

    def over(self) -> None:
        """It has ended: what is under way there fails."""
        self._link.lose()

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer a request. Cancelling aborts it on the node."""
        wants = None if emit is ignore_pieces else emit
        with self._ends_with_a_loss():
            reply: Reply = await self._link.call(request, emit=wants)
        return reply

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Turn texts into vectors."""
        with self._ends_with_a_loss():
            reply: EmbedReply = await self._link.call(request)
        return reply

    @contextlib.contextmanager
    def _ends_with_a_loss(self) -> Iterator[None]:
        """A call that is lost there says that the engine has ended, sooner than its worker can."""
        try:
            yield
        except EngineError as error:
            if error.fault == "lost":
                self.over()
            raise
