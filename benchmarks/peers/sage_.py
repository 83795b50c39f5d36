"""SAGE."""

from __future__ import annotations

import asyncio
import time

from contest import FAST_S, INFLIGHT, JOIN_S, SLOW_S, main

from sage import Pipeline, Session


def overhead(records: int) -> None:
    four = Pipeline("four", a=lambda x: x, b=lambda a: a, c=lambda b: b, d=lambda c: c)

    async def work() -> None:
        async with Session(record=False) as session:
            await session.run(four, ({"x": x} for x in range(records)), max_inflight=INFLIGHT)

    asyncio.run(work())


async def fast(x: int) -> int:
    await asyncio.sleep(FAST_S)
    return x


async def slow(fast: int) -> int:
    await asyncio.sleep(SLOW_S)
    return fast


def io(records: int) -> None:
    two = Pipeline("two", fast=fast, slow=slow)

    async def work() -> None:
        async with Session(record=False) as session:
            await session.run(two, ({"x": x} for x in range(records)), max_inflight=INFLIGHT)

    asyncio.run(work())


async def a(x: int) -> int:
    await asyncio.sleep(JOIN_S["a"])
    return x


async def b(a: int) -> int:
    await asyncio.sleep(JOIN_S["b"])
    return a


async def c(x: int) -> int:
    await asyncio.sleep(JOIN_S["c"])
    return x


def join(times: int) -> list[float]:
    joined = Pipeline("joined", a=a, b=b, c=c, end=lambda b, c: b + c)

    async def work() -> list[float]:
        async with Session(record=False) as session:
            await session(joined, x=1)
            took = []
            for _ in range(times):
                began = time.perf_counter()
                await session(joined, x=1)
                took.append(time.perf_counter() - began)
            return took

    return asyncio.run(work())


main("sage-dataflow", overhead=overhead, io=io, join=join)
