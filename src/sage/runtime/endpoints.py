"""The endpoints of a session: engines opened by pool when a pipeline first needs them, and closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sage.engines.base import Engine, EngineInfo
from sage.engines.engine_metrics import Measured
from sage.errors import InputError, nearest
from sage.graph.shape import CPU_POOL, is_cpu
from sage.runtime.slots import Membership, Slots

__all__ = ["DEFAULT_ENGINES", "Endpoints", "addresses_from"]

#: What a pool is when nobody says: real models, embedded, without a key or a server.
DEFAULT_ENGINES: Mapping[str, str] = {
    "llm": "llama:smollm2-135m-instruct",
    "embedder": "bert:all-minilm-l6-v2",
}

#: What opens an address: one engine, or one for each of the places it is to be at.
Opening = Callable[[str], Sequence[AbstractAsyncContextManager[Engine]]]


class Endpoints:
    """Open engines by endpoint name, grouped in pools.

    Every engine is opened and closed by one task of the group, so that whatever it holds is released in the
    task that took it.

    Args:
        addresses: pool -> engine addresses; several make one pool of several endpoints.
        opening: opens an address.
        group: owns the tasks that hold engines open.
        members: told when an endpoint can take calls.
        slots: carry out the functions of the cpu pools.
    """

    def __init__(
        self,
        addresses: Mapping[str, str | tuple[str, ...] | Engine],
        opening: Opening,
        group: asyncio.TaskGroup,
        members: Membership,
        slots: Slots,
    ) -> None:
        self._addresses = {**DEFAULT_ENGINES, **addresses}
        self._opening_of = opening
        self._group = group
        self._members = members
        self.slots = slots
        self._engines: dict[str, Engine] = {}
        self._pools: dict[str, list[str]] = {}
        self._opening = asyncio.Lock()  # protects _pools: a pool is opened once
        self._closing = asyncio.Event()

    @property
    def pools(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the endpoints that are open, by pool."""
        engines = {pool: tuple(names) for pool, names in self._pools.items()}
        return engines | {pool: tuple(limits) for pool, limits in self.slots.limits.items()}

    @property
    def limits(self) -> Mapping[str, int]:
        """Calls at once that each open endpoint takes."""
        found = {name: engine.info.limit for name, engine in self._engines.items()}
        for limits in self.slots.limits.values():
            found |= limits
        return found

    def known_pools(self) -> tuple[str, ...]:
        """Every pool a step may name."""
        return (*self._addresses, CPU_POOL)

    def engine(self, endpoint: str) -> Engine:
        """The open engine behind an endpoint."""
        return self._engines[endpoint]

    def info(self, pool: str) -> EngineInfo:
        """What is known of a pool's engines; they are interchangeable, so the first one's."""
        return self._engines[self._pools[pool][0]].info

    async def open(self, pool: str) -> None:
        """Make a pool ready; no work if it is.

        Raises:
            InputError: an unknown pool or a wrong address.
            SetupError, EngineError: its engines cannot be opened.
        """
        async with self._opening:
            if pool in self._pools:
                return
            if is_cpu(pool):
                await self.slots.open(pool)
                return
            if pool not in self._addresses:
                raise InputError(f"unknown engine pool {pool!r}: {nearest(pool, self.known_pools())}")
            said = self._addresses[pool]
            openers = [
                opener
                for one in (said if isinstance(said, tuple) else (said,))
                for opener in (self._opening_of(one) if isinstance(one, str) else (_given(one),))
            ]
            names = [await self._open_one(opener) for opener in openers]
            self._pools[pool] = names
            for name in names:
                self._members.joined(name, pool, self._engines[name].info.limit)

    async def close(self) -> None:
        """Let go of every engine; returns at once, the group waits for them."""
        self._closing.set()
        await self.slots.close()

    async def _open_one(self, opener: AbstractAsyncContextManager[Engine]) -> str:
        opened: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        self._group.create_task(self._hold(opener, opened))
        engine = await opened
        name = engine.info.address
        copies = sum(other == name or other.startswith(f"{name}#") for other in self._engines)
        if copies:
            name = f"{name}#{copies + 1}"
        self._engines[name] = engine
        if isinstance(engine, Measured):
            engine.on_metrics(lambda metrics: self._members.measured(name, metrics))
        return name

    async def _hold(
        self, opener: AbstractAsyncContextManager[Engine], opened: asyncio.Future[Engine]
    ) -> None:
        """Open an engine, keep it until the session closes, close it."""
        try:
            async with opener as engine:
                if not opened.cancelled():
                    opened.set_result(engine)
                    await self._closing.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)


@asynccontextmanager
async def _given(engine: Engine) -> AsyncIterator[Engine]:
    """An engine the caller opened, and will close."""
    yield engine


def addresses_from(engines: Mapping[str, Any]) -> dict[str, Any]:
    """Addresses in the forms users write them in: one, several, or open engines."""
    for pool, said in engines.items():
        if said is None or (isinstance(said, list | tuple) and not said):
            raise InputError(
                f"engine pool {pool!r} has no address; give one, such as 'llama:smollm2-135m-instruct'"
            )
    return {pool: tuple(said) if isinstance(said, list) else said for pool, said in engines.items()}
