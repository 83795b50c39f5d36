"""The endpoints of a session: engines opened by pool when a pipeline first needs them, and closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sage.engines.base import Engine, EngineInfo
from sage.errors import EngineError, InputError, nearest
from sage.graph.shape import CPU_POOL, is_cpu
from sage.runtime.engine_pool import EnginePool, Sites
from sage.runtime.slots import Membership, Slots

__all__ = ["DEFAULT_ENGINES", "Endpoints", "addresses_from"]

#: What a pool is when nobody says: real models, embedded, without a key or a server.
DEFAULT_ENGINES: Mapping[str, str] = {
    "llm": "llama:smollm2-135m-instruct",
    "embedder": "bert:all-minilm-l6-v2",
}


class Endpoints:
    """Open engines by endpoint name, grouped in pools.

    Args:
        addresses: pool -> engine addresses; several make one pool of several endpoints.
        sites: knows where engines are to be.
        group: owns the tasks that hold engines open.
        members: told which endpoints take calls.
        slots: carry out the functions of the cpu pools.
    """

    def __init__(
        self,
        addresses: Mapping[str, str | tuple[str, ...] | Engine],
        sites: Sites,
        group: asyncio.TaskGroup,
        members: Membership,
        slots: Slots,
    ) -> None:
        self._addresses = {**DEFAULT_ENGINES, **addresses}
        self._sites = sites
        self._group = group
        self._members = members
        self.slots = slots
        self._engines: dict[str, Engine] = {}
        self._pools: dict[str, EnginePool] = {}
        self._opening = asyncio.Lock()  # protects _pools: a pool is opened once

    @property
    def pools(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the endpoints that take calls, by pool."""
        engines = {name: tuple(pool.endpoints) for name, pool in self._pools.items()}
        return engines | {pool: tuple(limits) for pool, limits in self.slots.limits.items()}

    @property
    def limits(self) -> Mapping[str, int]:
        """Calls at once that each endpoint takes."""
        found = {name: engine.info.limit for name, engine in self._engines.items()}
        for limits in self.slots.limits.values():
            found |= limits
        return found

    def known_pools(self) -> tuple[str, ...]:
        """Every pool a step may name."""
        return (*self._addresses, CPU_POOL)

    def engine(self, endpoint: str) -> Engine:
        """The engine behind an endpoint; one that has just ended fails its calls as "lost"."""
        return self._engines[endpoint]

    def first(self, pool: str) -> Engine:
        """The first engine of an open pool.

        Raises:
            EngineError: all have ended, and none is open again yet.
        """
        for endpoint in self._pools[pool].endpoints:
            return self._engines[endpoint]
        raise EngineError(f"pool {pool!r} has no engine at the moment: they are opened anew", fault="lost")

    def info(self, pool: str) -> EngineInfo:
        """What is known of a pool's engines; they are interchangeable, so the first one's."""
        info = self._pools[pool].info
        assert info is not None, pool
        return info

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
            several = said if isinstance(said, tuple) else (said,)
            opened = EnginePool(pool, several, self._sites, self._group, self._members, self._engines)
            await opened.open()
            self._pools[pool] = opened

    async def close(self) -> None:
        """Let go of every engine; returns at once, the group waits for them."""
        for pool in self._pools.values():
            pool.close()
        await self.slots.close()


def addresses_from(engines: Mapping[str, Any]) -> dict[str, Any]:
    """Addresses in the forms users write them in: one, several, or open engines."""
    for pool, said in engines.items():
        if said is None or (isinstance(said, list | tuple) and not said):
            raise InputError(
                f"engine pool {pool!r} has no address; give one, such as 'llama:smollm2-135m-instruct'"
            )
    return {pool: tuple(said) if isinstance(said, list) else said for pool, said in engines.items()}
