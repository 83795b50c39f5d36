"""pydantic-graph: steps and edges of a graph builder, 64 at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from contest import FAST_S, INFLIGHT, JOIN_S, SLOW_S, main
from pydantic_graph import GraphBuilder, StepContext, reduce_sum


def step_of(graph: Any, name: str, seconds: float) -> Any:
    async def step(ctx: StepContext[None, None, int]) -> int:
        if seconds:
            await asyncio.sleep(seconds)
        return ctx.inputs

    return graph.step(step, node_id=name)


def chain(*seconds: float) -> Any:
    graph = GraphBuilder(input_type=int, output_type=int)
    before = graph.start_node
    for number, wait in enumerate(seconds):
        step = step_of(graph, f"s{number}", wait)
        graph.add(graph.edge_from(before).to(step))
        before = step
    graph.add(graph.edge_from(before).to(graph.end_node))
    return graph.build()


def invoked(graph: Any, records: int) -> None:
    async def work() -> None:
        places = asyncio.Semaphore(INFLIGHT)

        async def one(x: int) -> Any:
            async with places:
                return await graph.run(inputs=x)

        await asyncio.gather(*(one(x) for x in range(records)))

    asyncio.run(work())


def overhead(records: int) -> None:
    invoked(chain(0, 0, 0, 0), records)


def io(records: int) -> None:
    invoked(chain(FAST_S, SLOW_S), records)


def join(times: int) -> list[float]:
    graph = GraphBuilder(input_type=int, output_type=int)
    a, b, c = (step_of(graph, name, JOIN_S[name]) for name in "abc")
    end = graph.join(reduce_sum, initial=0)
    graph.add(
        graph.edge_from(graph.start_node).to(a, c),
        graph.edge_from(a).to(b),
        graph.edge_from(b, c).to(end),
        graph.edge_from(end).to(graph.end_node),
    )
    built = graph.build()

    async def work() -> list[float]:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            assert await built.run(inputs=1) == 2
            took.append(time.perf_counter() - began)
        return took

    return asyncio.run(work())


def rag(records: int, url: str) -> dict[str, Any]:
    from openai_ import Calls
    from rag import Shelf, prompt_of, timed

    shelf = Shelf.fetch(url)

    async def work() -> dict[str, Any]:
        calls = Calls(url)
        graph = GraphBuilder(input_type=str, output_type=str)

        @graph.step
        async def retrieve(ctx: StepContext[None, None, str]) -> tuple[str, list[str]]:
            return ctx.inputs, shelf.nearest(await calls.embed(ctx.inputs))

        @graph.step
        async def write(ctx: StepContext[None, None, tuple[str, list[str]]]) -> str:
            return prompt_of(*ctx.inputs)

        @graph.step
        async def generate(ctx: StepContext[None, None, str]) -> str:
            return await calls.generate(ctx.inputs)

        graph.add(
            graph.edge_from(graph.start_node).to(retrieve),
            graph.edge_from(retrieve).to(write),
            graph.edge_from(write).to(generate),
            graph.edge_from(generate).to(graph.end_node),
        )
        built = graph.build()

        async def answer(question: str) -> str:
            return await built.run(inputs=question)

        return await timed(answer, records, "openai")

    return asyncio.run(work())


main("pydantic-graph", overhead=overhead, io=io, join=join, rag=rag)
