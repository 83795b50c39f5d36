"""LlamaIndex Workflows: a workflow of typed events, 64 at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from contest import FAST_S, INFLIGHT, JOIN_S, SLOW_S, main
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent


class A(Event):
    value: int


class B(Event):
    value: int


class C(Event):
    value: int


class Four(Workflow):
    @step
    async def a(self, ev: StartEvent) -> A:
        return A(value=ev.x)

    @step
    async def b(self, ev: A) -> B:
        return B(value=ev.value)

    @step
    async def c(self, ev: B) -> C:
        return C(value=ev.value)

    @step
    async def d(self, ev: C) -> StopEvent:
        return StopEvent(result=ev.value)


class Two(Workflow):
    @step
    async def fast(self, ev: StartEvent) -> A:
        await asyncio.sleep(FAST_S)
        return A(value=ev.x)

    @step
    async def slow(self, ev: A) -> StopEvent:
        await asyncio.sleep(SLOW_S)
        return StopEvent(result=ev.value)


class GoA(Event):
    value: int


class GoC(Event):
    value: int


class Joined(Workflow):
    @step
    async def start(self, ctx: Context, ev: StartEvent) -> GoA | GoC | None:
        ctx.send_event(GoA(value=ev.x))
        ctx.send_event(GoC(value=ev.x))
        return None

    @step
    async def a(self, ev: GoA) -> A:
        await asyncio.sleep(JOIN_S["a"])
        return A(value=ev.value)

    @step
    async def b(self, ev: A) -> B:
        await asyncio.sleep(JOIN_S["b"])
        return B(value=ev.value)

    @step
    async def c(self, ev: GoC) -> C:
        await asyncio.sleep(JOIN_S["c"])
        return C(value=ev.value)

    @step
    async def end(self, ctx: Context, ev: B | C) -> StopEvent | None:
        both = ctx.collect_events(ev, [B, C])
        return None if both is None else StopEvent(result=both[0].value + both[1].value)


def invoked(workflow: Any, records: int) -> None:
    async def work() -> None:
        places = asyncio.Semaphore(INFLIGHT)

        async def one(x: int) -> Any:
            async with places:
                return await workflow.run(x=x)

        await asyncio.gather(*(one(x) for x in range(records)))

    asyncio.run(work())


def overhead(records: int) -> None:
    invoked(Four(timeout=None), records)


def io(records: int) -> None:
    invoked(Two(timeout=None), records)


def join(times: int) -> list[float]:
    async def work() -> list[float]:
        workflow = Joined(timeout=None)
        took = []
        for _ in range(times):
            began = time.perf_counter()
            await workflow.run(x=1)
            took.append(time.perf_counter() - began)
        return took

    return asyncio.run(work())


class Found(Event):
    question: str
    passages: list[str]


class Prompted(Event):
    prompt: str


def rag(records: int, url: str) -> dict[str, Any]:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.llms.openai_like import OpenAILike
    from rag import MODEL, TOKENS, Shelf, prompt_of, timed

    shelf = Shelf.fetch(url)
    there = {"api_base": url, "api_key": "none", "max_retries": 0}
    embedder = OpenAILikeEmbedding(model_name=MODEL, **there)
    model = OpenAILike(model=MODEL, is_chat_model=True, max_tokens=TOKENS, temperature=0, **there)

    class Rag(Workflow):
        @step
        async def retrieve(self, ev: StartEvent) -> Found:
            vector = await embedder.aget_query_embedding(ev.question)
            return Found(question=ev.question, passages=shelf.nearest(vector))

        @step
        async def write(self, ev: Found) -> Prompted:
            return Prompted(prompt=prompt_of(ev.question, ev.passages))

        @step
        async def generate(self, ev: Prompted) -> StopEvent:
            pieces = await model.astream_complete(ev.prompt)
            return StopEvent(result="".join([piece.delta or "" async for piece in pieces]))

    async def work() -> dict[str, Any]:
        workflow = Rag(timeout=None)

        async def answer(question: str) -> str:
            return await workflow.run(question=question)

        return await timed(answer, records, "llama-index-llms-openai-like")

    return asyncio.run(work())


main("llama-index-workflows", overhead=overhead, io=io, join=join, rag=rag)
