"""LangGraph: a StateGraph, invoked asynchronously, 64 at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypedDict

from contest import FAST_S, INFLIGHT, JOIN_S, SLOW_S, main
from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    x: int
    a: int
    b: int
    c: int
    d: int


def chain(*steps: tuple[str, Any]) -> Any:
    graph = StateGraph(State)
    before = START
    for name, step in steps:
        graph.add_node(f"make_{name}", step)
        graph.add_edge(before, f"make_{name}")
        before = f"make_{name}"
    graph.add_edge(before, END)
    return graph.compile()


def invoked(graph: Any, records: int) -> None:
    async def work() -> None:
        places = asyncio.Semaphore(INFLIGHT)

        async def one(x: int) -> Any:
            async with places:
                return await graph.ainvoke({"x": x})

        await asyncio.gather(*(one(x) for x in range(records)))

    asyncio.run(work())


def overhead(records: int) -> None:
    async def make_a(state: State) -> State:
        return {"a": state["x"]}

    async def make_b(state: State) -> State:
        return {"b": state["a"]}

    async def make_c(state: State) -> State:
        return {"c": state["b"]}

    async def make_d(state: State) -> State:
        return {"d": state["c"]}

    invoked(chain(("a", make_a), ("b", make_b), ("c", make_c), ("d", make_d)), records)


def slept(seconds: float, name: str) -> Any:
    async def step(state: State) -> Any:
        await asyncio.sleep(seconds)
        return {name: state["x"]}

    return step


def io(records: int) -> None:
    invoked(chain(("a", slept(FAST_S, "a")), ("b", slept(SLOW_S, "b"))), records)


def join(times: int) -> list[float]:
    graph = StateGraph(State)
    for name in "abc":
        graph.add_node(f"make_{name}", slept(JOIN_S[name], name))
    graph.add_node("end", lambda state: {"d": state["b"] + state["c"]})
    graph.add_edge(START, "make_a")
    graph.add_edge("make_a", "make_b")
    graph.add_edge(START, "make_c")
    graph.add_edge(["make_b", "make_c"], "end")
    graph.add_edge("end", END)
    compiled = graph.compile()

    async def work() -> list[float]:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            await compiled.ainvoke({"x": 1})
            took.append(time.perf_counter() - began)
        return took

    return asyncio.run(work())


main("langgraph", overhead=overhead, io=io, join=join)
