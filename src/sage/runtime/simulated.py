"""The simulated runtime: jobs that come by a schedule, and endpoints that fail by one, in virtual time.

Plan, driver, scheduler and policies are those of every other run; what differs is the event loop
(``sage.runtime.virtual``), whose clock jumps, and the engines, which take emulated time. What is here also works
on a real clock, against real engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sage.engines.base import (
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    Piece,
    Reply,
)
from sage.errors import EngineError, InputError
from sage.tasks import spawn

__all__ = ["FailingEngine", "Outage", "closed_loop", "open_loop"]

J = TypeVar("J")
R = TypeVar("R")


async def open_loop(coming: Iterator[tuple[float, J]], carry: Callable[[J], Awaitable[object]]) -> None:
    """Carry each job from the moment it is to come, however many are under way; ends with the last.

    Args:
        coming: (seconds from now, job), in the order of their times. Pulled one at a time.
        carry: takes a job to its end.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as jobs:
        for at_s, job in coming:
            wait_s = began + at_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            spawn(jobs, _carried(carry, job))


async def closed_loop(
    coming: Iterator[J], carry: Callable[[J], Awaitable[object]], *, clients: int, think_s: float = 0.0
) -> None:
    """Carry jobs one after the other for each client; ends with the last.

    Args:
        coming: the jobs; each goes to the first client that is free.
        carry: takes a job to its end.
        clients: jobs at once.
        think_s: what a client waits after a job.
    """

    async def client() -> None:
        for job in coming:
            await carry(job)
            if think_s > 0:
                await asyncio.sleep(think_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            spawn(group, client())


async def _carried(carry: Callable[[J], Awaitable[object]], job: J) -> None:
    await carry(job)


@dataclass(frozen=True, slots=True)
class Outage:
    """An endpoint is gone from one moment to another, in seconds of the event loop's clock."""

    at_s: float
    until_s: float


class FailingEngine:
    """An engine that is gone at times: calls to it fail then, and so do those under way when it goes.

    Args:
        engine: what answers otherwise.
        outages: when it is gone; they must not overlap.

    Raises:
        InputError: an outage ends before it begins, or two overlap.
    """

    def __init__(self, engine: Engine, outages: Sequence[Outage]) -> None:
        self._engine = engine
        self._outages = sorted(outages, key=lambda outage: outage.at_s)
        earlier = float("-inf")
        for outage in self._outages:
            if outage.until_s <= outage.at_s or outage.at_s < earlier:
                raise InputError(
                    f"endpoint {engine.info.address!r} fails from {outage.at_s:g} s to {outage.until_s:g} s: "
                    "failures of one endpoint must have a length, and not overlap"
                )
            earlier = outage.until_s

    @property
    def info(self) -> EngineInfo:
        """That of the engine."""
        return self._engine.info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """What the engine answers, if it stays."""
        seen = False

        def emit_seen(piece: Piece) -> None:
            nonlocal seen
            seen = True
            emit(piece)

        try:
            return await self._while_up(self._engine.generate(request, emit_seen))
        except _GoneError:
            message = f"engine {self.info.address}: it is gone"
            raise EngineError(message, fault="stalled" if seen else "unreachable") from None

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """What the engine answers, if it stays."""
        try:
            return await self._while_up(self._engine.embed(request))
        except _GoneError:
            message = f"engine {self.info.address}: it is gone"
            raise EngineError(message, fault="unreachable") from None

    async def _while_up(self, call: Awaitable[R]) -> R:
        now = asyncio.get_running_loop().time()
        following = next((outage for outage in self._outages if outage.until_s > now), None)
        if following is None:
            return await call
        try:
            async with asyncio.timeout_at(following.at_s):
                return await call
        except TimeoutError:
            raise _GoneError from None


class _GoneError(Exception):
    """The endpoint went away."""
