"""The endpoints of a session: engines opened by pool when a pipeline first needs them, and closed with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from sage.engines.base import Engine, EngineInfo, open_engine
from sage.errors import InputError, nearest
from sage.graph.values import Record
from sage.settings import Settings

__all__ = ["DEFAULT_ENGINES", "Endpoints"]

#: What a pool is when nobody says: real models, embedded, without a key or a server.
DEFAULT_ENGINES: Mapping[str, str] = {
    "llm": "llama:smollm2-135m-instruct",
    "embedder": "bert:all-minilm-l6-v2",
}

CPU_POOL = "cpu"


class Endpoints:
    """Open engines by endpoint name, grouped in pools.

    Every engine is opened and closed by one task of the group, so that whatever it holds is released in the
    task that took it.

    Args:
        addresses: pool -> engine addresses; several make one pool of several endpoints.
        settings: where models are kept.
        group: owns the tasks that hold engines open.
        joined: told (endpoint, pool, limit) when an endpoint can take calls.
    """

    def __init__(
        self,
        addresses: Mapping[str, str | tuple[str, ...] | Engine],
        settings: Settings,
        group: asyncio.TaskGroup,
        joined: Callable[[str, str, int], None],
    ) -> None:
        self._addresses = {**DEFAULT_ENGINES, **addresses}
        self._settings = settings
        self._group = group
        self._joined = joined
        self._engines: dict[str, Engine] = {}
        self._pools: dict[str, list[str]] = {}
        self._opening = asyncio.Lock()  # protects _pools: a pool is opened once
        self._closing = asyncio.Event()
        self._threads: ThreadPoolExecutor | None = None
        self._cpu_limit = os.cpu_count() or 1

    @property
    def pools(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the endpoints that are open, by pool."""
        return {pool: tuple(names) for pool, names in self._pools.items()}

    @property
    def limits(self) -> Mapping[str, int]:
        """Calls at once that each open endpoint takes."""
        engines = {name: engine.info.limit for name, engine in self._engines.items()}
        return engines | ({CPU_POOL: self._cpu_limit} if self._threads is not None else {})

    def known_pools(self) -> tuple[str, ...]:
        """Every pool a step may name."""
        return (*self._addresses, CPU_POOL)

    def engine(self, endpoint: str) -> Engine:
        """The open engine behind an endpoint."""
        return self._engines[endpoint]

    def info(self, pool: str) -> EngineInfo:
        """What is known of a pool's engines; they are interchangeable, so the first one's."""
        return self._engines[self._pools[pool][0]].info

    async def compute(self, endpoint: str, call: Callable[[Record], Any], record: Record) -> Any:
        """Run a blocking function in a worker thread of the cpu pool."""
        assert endpoint == CPU_POOL
        assert self._threads is not None
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, record)

    async def open(self, pool: str) -> None:
        """Make a pool ready; no work if it is.

        Raises:
            InputError: an unknown pool or a wrong address.
            SetupError, EngineError: its engines cannot be opened.
        """
        async with self._opening:
            if pool in self._pools:
                return
            if pool == CPU_POOL:
                self._open_cpu()
                return
            if pool not in self._addresses:
                raise InputError(f"unknown engine pool {pool!r}: {nearest(pool, self.known_pools())}")
            said = self._addresses[pool]
            names = [
                await self._open_one(address) for address in (said if isinstance(said, tuple) else (said,))
            ]
            self._pools[pool] = names
            for name in names:
                self._joined(name, pool, self._engines[name].info.limit)

    async def close(self) -> None:
        """Let go of every engine; returns at once, the group waits for them."""
        self._closing.set()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _open_cpu(self) -> None:
        limit = self._cpu_limit
        self._threads = ThreadPoolExecutor(limit, thread_name_prefix="sage-cpu")
        self._pools[CPU_POOL] = [CPU_POOL]
        self._joined(CPU_POOL, CPU_POOL, limit)

    async def _open_one(self, said: str | Engine) -> str:
        opened: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        self._group.create_task(self._hold(said, opened))
        engine = await opened
        name = engine.info.address
        copies = sum(other == name or other.startswith(f"{name}#") for other in self._engines)
        if copies:
            name = f"{name}#{copies + 1}"
        self._engines[name] = engine
        return name

    async def _hold(self, said: str | Engine, opened: asyncio.Future[Engine]) -> None:
        """Open an engine, keep it until the session closes, close it."""
        try:
            async with open_engine(said, self._settings) if isinstance(said, str) else _given(said) as engine:
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
