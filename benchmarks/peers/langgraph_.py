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


class Asked(TypedDict, total=False):
    question: str
    passages: list[str]
    prompt: str
    answer: str


def rag(records: int, url: str) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from rag import MODEL, TOKENS, Shelf, prompt_of, timed

    shelf = Shelf.fetch(url)

    async def work() -> dict[str, Any]:
        there = {"base_url": url, "api_key": "none", "max_retries": 0}
        embedder = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **there)
        model = ChatOpenAI(model=MODEL, max_tokens=TOKENS, temperature=0, **there)

        async def retrieve(state: Asked) -> Asked:
            return {"passages": shelf.nearest(await embedder.aembed_query(state["question"]))}

        async def write(state: Asked) -> Asked:
            return {"prompt": prompt_of(state["question"], state["passages"])}

        async def generate(state: Asked) -> Asked:
            return {"answer": "".join([chunk.text async for chunk in model.astream(state["prompt"])])}

        graph = StateGraph(Asked)
        graph.add_sequence([retrieve, write, generate])
        graph.add_edge(START, "retrieve")
        graph.add_edge("generate", END)
        compiled = graph.compile()

        async def answer(question: str) -> str:
            return (await compiled.ainvoke({"question": question}))["answer"]

        return await timed(answer, records, "langchain-openai")

    return asyncio.run(work())


main("langgraph", overhead=overhead, io=io, join=join, rag=rag)
