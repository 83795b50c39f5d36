"""SAGE."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

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


def rag(records: int, url: str) -> dict[str, Any]:
    from rag import MODEL, TOKENS, K, Meter, passages, questions

    from sage import Index, Passage
    from sage.ops import embed, generate, search, template

    server = f"openai:{url}?model={MODEL}"
    shelf = (Passage(str(place), text) for place, text in enumerate(passages()))
    index = Index.build(shelf, embedder=server)
    pipeline = Pipeline(
        "rag",
        vector=embed("{question}"),
        passages=search("docs", near="vector", k=K),
        texts=lambda passages: [passage.text for passage in passages],
        prompt=template("{question} By:\n\n{texts}"),
        answer=generate("{prompt}", max_tokens=TOKENS),
    )
    engines = {"embedder": server, "llm": server}
    began: dict[int, float] = {}
    found: dict[int, tuple[float, str]] = {}

    def asked(number: int) -> Iterator[dict[str, Any]]:
        for place, question in enumerate(questions(number)):
            began[place] = time.perf_counter()  # pulled: it is its turn
            yield {"place": place, "question": question}

    async def work() -> dict[str, Any]:
        async with Session(engines=engines, indexes={"docs": index}, max_inflight=INFLIGHT) as session:
            async for _ in session.stream(pipeline, asked(INFLIGHT)):
                pass
            with Meter() as meter:
                async for record in session.stream(pipeline, asked(records)):
                    place = record["place"]
                    found[place] = time.perf_counter() - began[place], record["answer"]
        return meter.told("aiohttp", [found[place] for place in range(records)])

    with tempfile.TemporaryDirectory() as home:  # of the runs, which are recorded as they are by default
        os.environ["SAGE_HOME"] = home
        return asyncio.run(work())


main("sage-dataflow", overhead=overhead, io=io, join=join, rag=rag)
