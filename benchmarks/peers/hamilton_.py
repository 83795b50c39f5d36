"""Hamilton: functions of a module, executed by a driver; asynchronously for the input and output."""

from __future__ import annotations

import asyncio
import sys
import time
import types
from typing import Any

from contest import FAST_S, INFLIGHT, JOIN_S, SLOW_S, main
from hamilton import async_driver, driver


def module_of(**functions: Any) -> types.ModuleType:
    module = sys.modules["steps"] = types.ModuleType("steps")
    for name, function in functions.items():
        function.__name__ = name
        function.__module__ = "steps"
        setattr(module, name, function)
    return module


def a(x: int) -> int:
    return x


def b(a: int) -> int:
    return a


def c(b: int) -> int:
    return b


def d(c: int) -> int:
    return c


def overhead(records: int) -> None:
    made = driver.Builder().with_modules(module_of(a=a, b=b, c=c, d=d)).build()
    for x in range(records):
        made.execute(["d"], inputs={"x": x})


async def fast(x: int) -> int:
    await asyncio.sleep(FAST_S)
    return x


async def slow(fast: int) -> int:
    await asyncio.sleep(SLOW_S)
    return fast


def io(records: int) -> None:
    async def work() -> None:
        made = await async_driver.Builder().with_modules(module_of(fast=fast, slow=slow)).build()
        places = asyncio.Semaphore(INFLIGHT)

        async def one(x: int) -> Any:
            async with places:
                return await made.execute(["slow"], inputs={"x": x})

        await asyncio.gather(*(one(x) for x in range(records)))

    asyncio.run(work())


async def left(x: int) -> int:
    await asyncio.sleep(JOIN_S["a"])
    return x


async def lower(left: int) -> int:
    await asyncio.sleep(JOIN_S["b"])
    return left


async def right(x: int) -> int:
    await asyncio.sleep(JOIN_S["c"])
    return x


async def end(lower: int, right: int) -> int:
    return lower + right


def join(times: int) -> list[float]:
    async def work() -> list[float]:
        steps = module_of(left=left, lower=lower, right=right, end=end)
        made = await async_driver.Builder().with_modules(steps).build()
        took = []
        for _ in range(times):
            began = time.perf_counter()
            await made.execute(["end"], inputs={"x": 1})
            took.append(time.perf_counter() - began)
        return took

    return asyncio.run(work())


def rag(records: int, url: str) -> dict[str, Any]:
    from openai_ import Calls
    from rag import Shelf, prompt_of, timed

    shelf, calls = Shelf.fetch(url), None

    async def vector(question: str) -> list:
        return await calls.embed(question)

    def passages(vector: list) -> list:
        return shelf.nearest(vector)

    def prompt(question: str, passages: list) -> str:
        return prompt_of(question, passages)

    async def answer(prompt: str) -> str:
        return await calls.generate(prompt)

    async def work() -> dict[str, Any]:
        nonlocal calls
        calls = Calls(url)
        steps = module_of(vector=vector, passages=passages, prompt=prompt, answer=answer)
        made = await async_driver.Builder().with_modules(steps).build()

        async def one(question: str) -> str:
            return (await made.execute(["answer"], inputs={"question": question}))["answer"]

        return await timed(one, records, "openai")

    return asyncio.run(work())


main("sf-hamilton", overhead=overhead, io=io, join=join, rag=rag)
