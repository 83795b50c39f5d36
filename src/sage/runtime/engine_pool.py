"""The engines of one pool: opened where they are to be, and opened anew where one has ended or a node has joined."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from sage.engines.base import (
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    MayEnd,
    Reply,
)
from sage.engines.engine_metrics import Measured
from sage.errors import EngineError, SetupError
from sage.runtime.slots import NOWHERE, Membership
from sage.tasks import spawn

__all__ = ["EnginePool", "Sites"]

logger = logging.getLogger("sage")

AGAIN_S = 1.0  # before an engine that could not be opened is tried again; doubled each time
MAX_AGAIN_S = 30.0
DOWN_S = 60.0  # a pool without an engine for so long, and none being opened, fails its calls

#: Which address of the pool, and the place it is to be at.
Spot = tuple[int, str]


class Sites(Protocol):
    """Knows where engines are to be."""

    async def opening(self, address: str) -> Mapping[str, AbstractAsyncContextManager[Engine]]:
        """What opens an engine's address, by the place it is to be at.

        Raises:
            InputError: the address is wrong. SetupError: there is no such place.
        """

    def look_s(self, address: str) -> float | None:
        """How often to ask again, since places may come and go; None: they stay."""


@dataclass(slots=True)
class _Site:
    """One spot with an engine on it, or one that is being opened."""

    over: asyncio.Event = field(default_factory=asyncio.Event)  # it ended by itself, or is to be closed
    engine: Engine | None = None  # once it takes calls
    holder: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Delay:
    """A spot where opening failed."""

    until: float
    wait_s: float


class EnginePool:
    """The engines of one pool, each an endpoint.

    Every engine is opened and closed by one task of the group, so that whatever it holds is released in the
    task that took it.

    Args:
        name: of the pool.
        addresses: of its engines, or engines that are open.
        sites: knows where they are to be.
        group: owns the tasks that hold engines open.
        members: told which endpoints take calls.
        engines: endpoint -> engine; filled in here. One that ended stays until another takes its place.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[str | Engine],
        sites: Sites,
        group: asyncio.TaskGroup,
        members: Membership,
        engines: dict[str, Engine],
    ) -> None:
        self._name = name
        self._addresses = addresses
        self._sites = sites
        self._group = group
        self._members = members
        self._engines = engines
        self._spots: dict[Spot, _Site] = {}
        self._names: dict[Spot, str] = {}  # of endpoints, kept for the next engine on the same spot
        self._delays: dict[Spot, _Delay] = {}
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._clock = asyncio.get_running_loop().time
        self._down_since: float | None = None
        self._nowhere = False  # a stand-in fails the calls
        self.endpoints: list[str] = []  # that take calls
        self.info: EngineInfo | None = None  # of the first engine; they are interchangeable

    async def open(self) -> None:
        """Open every engine, all at the same time.

        Raises:
            InputError: an address is wrong. SetupError, EngineError: an engine cannot be opened.
        """
        openers = await self._openers()
        opened = {spot: asyncio.get_running_loop().create_future() for spot in openers}
        try:
            for spot, opener in openers.items():
                self._begin(spot, opener, opened[spot].set_result, opened[spot].set_exception)
            await asyncio.wait(opened.values())
            engines = {spot: future.result() for spot, future in opened.items()}
        except BaseException:
            self.close()
            raise
        finally:
            for future in opened.values():
                if future.done() and not future.cancelled():
                    future.exception()  # only the first is raised
        for spot, engine in engines.items():
            self._names[spot] = self._name_for(engine)
            self._engines[self._names[spot]] = engine
        for spot, engine in engines.items():
            self._join(spot, engine)
        if self._look_s() is not None:
            self._keep()

    def close(self) -> None:
        """Let go of every engine; returns at once, the group waits for them."""
        if self._keeper is not None:
            self._keeper.cancel()
        for site in self._spots.values():
            if site.engine is None and site.holder is not None:
                site.holder.cancel()
            site.engine = None
            site.over.set()

    # One engine

    def _begin(
        self,
        spot: Spot,
        opener: AbstractAsyncContextManager[Engine],
        ready: Callable[[Engine], None],
        failed: Callable[[Exception], None],
    ) -> None:
        site = self._spots[spot] = _Site()
        site.holder = spawn(self._group, self._hold(spot, site, opener, ready, failed))

    async def _hold(
        self,
        spot: Spot,
        site: _Site,
        opener: AbstractAsyncContextManager[Engine],
        ready: Callable[[Engine], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Open an engine, keep it until it ends or the pool closes, close it."""
        is_open = False
        try:
            async with opener as engine:
                is_open = True
                ready(engine)
                await site.over.wait()
        except Exception as error:
            if not is_open:
                failed(error)
            elif isinstance(engine, MayEnd):
                logger.warning("%s: %s", self._names.get(spot, self._name), error)  # it had ended anyway
            else:
                raise
        finally:
            del self._spots[spot]
            self._changed.set()

    def _join(self, spot: Spot, engine: Engine) -> None:
        """Let an engine take calls."""
        name, site = self._names[spot], self._spots[spot]
        site.engine = self._engines[name] = engine
        self.info = self.info or engine.info
        self._delays.pop(spot, None)
        self._down_since = None
        if self._nowhere:
            self._nowhere = False
            self._members.left(self._name + NOWHERE)
        self.endpoints.append(name)
        self._members.joined(name, self._name, engine.info.limit)
        if isinstance(engine, Measured):
            engine.on_metrics(lambda metrics: self._members.measured(name, metrics))
        if isinstance(engine, MayEnd):
            engine.on_end(partial(self._ended, spot, site))

    def _ended(self, spot: Spot, site: _Site) -> None:
        """An engine ended by itself."""
        if site.engine is None:  # it is being closed
            return
        site.engine = None
        name = self._names[spot]
        logger.warning("%s is gone; its calls are made again, and it is opened anew", name)
        self.endpoints.remove(name)
        self._members.left(name)
        if not self.endpoints:
            self._down_since = self._clock()
        site.over.set()
        self._keep()

    def _name_for(self, engine: Engine) -> str:
        name = engine.info.address
        copies = sum(other == name or other.startswith(f"{name}#") for other in self._engines)
        return f"{name}#{copies + 1}" if copies else name

    # Engines come and go

    async def _openers(self) -> dict[Spot, AbstractAsyncContextManager[Engine]]:
        """What opens the pool's engines, everywhere they are to be."""
        found: dict[Spot, AbstractAsyncContextManager[Engine]] = {}
        for number, address in enumerate(self._addresses):
            if not isinstance(address, str):
                found[number, ""] = _given(address)
                continue
            for place, opener in (await self._sites.opening(address)).items():
                found[number, place] = opener
        return found

    def _keep(self) -> None:
        if self._keeper is None:
            self._keeper = spawn(self._group, self._kept())

    async def _kept(self) -> None:
        """Open engines where there is none and one is to be, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_s()):
                    await self._changed.wait()
            self._changed.clear()
            missing = await self._missing()
            known = {*self._spots, *missing}
            self._delays = {spot: delay for spot, delay in self._delays.items() if spot in known}
            for spot, opener in missing.items():
                if self._is_due(spot):
                    self._begin(spot, opener, partial(self._opened, spot), partial(self._put_off, spot))
            self._mark_down()

    async def _missing(self) -> dict[Spot, AbstractAsyncContextManager[Engine]]:
        try:
            openers = await self._openers()
        except SetupError:  # no place is left
            return {}
        return {
            spot: opener
            for spot, opener in openers.items()
            if spot not in self._spots and isinstance(self._addresses[spot[0]], str)
        }

    def _is_due(self, spot: Spot) -> bool:
        delay = self._delays.get(spot)
        return delay is None or delay.until <= self._clock()

    def _look_s(self) -> float | None:
        """How soon to look again."""
        said = [self._sites.look_s(address) for address in self._addresses if isinstance(address, str)]
        waits = [look_s for look_s in said if look_s is not None]
        waits += [
            max(0.0, delay.until - self._clock())
            for spot, delay in self._delays.items()
            if spot not in self._spots
        ]
        return min(waits, default=None)

    def _opened(self, spot: Spot, engine: Engine) -> None:
        if spot not in self._names:
            self._names[spot] = self._name_for(engine)
        self._join(spot, engine)

    def _put_off(self, spot: Spot, error: Exception) -> None:
        before = self._delays.get(spot)
        wait_s = AGAIN_S if before is None else min(MAX_AGAIN_S, 2 * before.wait_s)
        self._delays[spot] = _Delay(self._clock() + wait_s, wait_s)
        logger.warning("%s; tried again in %g s", error, wait_s)

    def _mark_down(self) -> None:
        """A pool without an engine for long fails its calls, rather than let them wait for ever."""
        if (
            self._down_since is None
            or self._nowhere
            or self._spots
            or self._clock() - self._down_since < DOWN_S
        ):
            return
        name = self._name + NOWHERE
        assert self.info is not None
        self._nowhere = True
        self._engines[name] = _Nowhere(msgspec.structs.replace(self.info, address=name), self._name)
        self._members.joined(name, self._name, self.info.limit)


class _Nowhere:
    """Stands in for engines that are gone for good."""

    def __init__(self, info: EngineInfo, pool: str) -> None:
        self.info = info
        self._pool = pool

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:  # noqa: ARG002 - as any engine
        raise self._gone()

    async def embed(self, request: EmbedRequest) -> EmbedReply:  # noqa: ARG002 - as any engine
        raise self._gone()

    def _gone(self) -> EngineError:
        return EngineError(
            f"pool {self._pool!r} has had no engine for {DOWN_S:g} s: they ended, and could not be opened again",
            fault="refused",
        )


@asynccontextmanager
async def _given(engine: Engine) -> AsyncIterator[Engine]:
    """An engine the caller opened, and will close."""
    yield engine
