"""Asyncio, written by hand: a semaphore and gather for the overhead, workers for the input and output; aiohttp for calls."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from contest import FAST_S, INFLIGHT, JOIN_S, SLOW_S, main


def passed(x: int) -> int:
    return x


def overhead(records: int) -> None:
    async def work() -> None:
        places = asyncio.Semaphore(INFLIGHT)

        async def one(record: dict[str, int]) -> dict[str, int]:
            async with places:
                record = dict(record)
                record["a"] = passed(record["x"])
                record["b"] = passed(record["a"])
                record["c"] = passed(record["b"])
                record["d"] = passed(record["c"])
                return record

        await asyncio.gather(*(one({"x": x}) for x in range(records)))

    asyncio.run(work())


def io(records: int) -> None:
    async def work() -> None:
        left = iter(range(records))

        async def worker() -> None:
            for _ in left:
                await asyncio.sleep(FAST_S)
                await asyncio.sleep(SLOW_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(INFLIGHT):
                group.create_task(worker())

    asyncio.run(work())


def join(times: int) -> list[float]:
    async def branch() -> None:
        await asyncio.sleep(JOIN_S["a"])
        await asyncio.sleep(JOIN_S["b"])

    async def once() -> float:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())
            group.create_task(asyncio.sleep(JOIN_S["c"]))
        return time.perf_counter() - began

    async def work() -> list[float]:
        return [await once() for _ in range(times)]

    return asyncio.run(work())


def rag(records: int, url: str) -> dict[str, Any]:
    import aiohttp
    from rag import MODEL, TOKENS, Shelf, prompt_of, timed

    shelf = Shelf.fetch(url)

    async def work() -> dict[str, Any]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def answer(question: str) -> str:
                asked = {"model": MODEL, "input": [question]}
                async with session.post(f"{url}/embeddings", json=asked) as response:
                    vector = (await response.json())["data"][0]["embedding"]
                said = {"role": "user", "content": prompt_of(question, shelf.nearest(vector))}
                wanted = {"model": MODEL, "messages": [said], "max_tokens": TOKENS, "temperature": 0}
                pieces: list[str] = []
                async with session.post(
                    f"{url}/chat/completions", json=wanted | {"stream": True}
                ) as response:
                    async for line in response.content:
                        if line.startswith(b"data: {"):
                            choices = json.loads(line[6:])["choices"]
                            pieces += [choice["delta"].get("content") or "" for choice in choices]
                return "".join(pieces)

            return await timed(answer, records, "aiohttp")

    return asyncio.run(work())


main(None, overhead=overhead, io=io, join=join, rag=rag)
