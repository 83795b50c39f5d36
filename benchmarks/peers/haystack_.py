"""Haystack: a pipeline of components, run asynchronously, 64 at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from contest import FAST_S, INFLIGHT, JOIN_S, SLOW_S, main
from haystack import component

try:
    from haystack import AsyncPipeline as Pipeline
except ImportError:  # later versions have one pipeline for both
    from haystack import Pipeline  # type: ignore[assignment]


@component
class Pass:
    """Passes a value on, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    @component.output_types(value=int)
    def run(self, value: int) -> dict[str, int]:
        time.sleep(self._seconds)
        return {"value": value}

    @component.output_types(value=int)
    async def run_async(self, value: int) -> dict[str, int]:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return {"value": value}


@component
class Add:
    """Adds two values."""

    @component.output_types(value=int)
    def run(self, left: int, right: int) -> dict[str, int]:
        return {"value": left + right}

    @component.output_types(value=int)
    async def run_async(self, left: int, right: int) -> dict[str, int]:
        return {"value": left + right}


def chain(*seconds: float) -> Any:
    pipeline = Pipeline()
    for number, wait in enumerate(seconds):
        pipeline.add_component(f"s{number}", Pass(wait))
        if number:
            pipeline.connect(f"s{number - 1}.value", f"s{number}.value")
    return pipeline


def invoked(pipeline: Any, records: int) -> None:
    async def work() -> None:
        places = asyncio.Semaphore(INFLIGHT)

        async def one(x: int) -> Any:
            async with places:
                return await pipeline.run_async({"s0": {"value": x}})

        await asyncio.gather(*(one(x) for x in range(records)))

    asyncio.run(work())


def overhead(records: int) -> None:
    invoked(chain(0, 0, 0, 0), records)


def io(records: int) -> None:
    invoked(chain(FAST_S, SLOW_S), records)


def join(times: int) -> list[float]:
    pipeline = Pipeline()
    for name in "abc":
        pipeline.add_component(name, Pass(JOIN_S[name]))
    pipeline.add_component("end", Add())
    pipeline.connect("a.value", "b.value")
    pipeline.connect("b.value", "end.left")
    pipeline.connect("c.value", "end.right")

    async def work() -> list[float]:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            await pipeline.run_async({"a": {"value": 1}, "c": {"value": 1}})
            took.append(time.perf_counter() - began)
        return took

    return asyncio.run(work())


@component
class Nearest:
    """Finds the passages nearest to a vector."""

    def __init__(self, shelf: Any) -> None:
        self._shelf = shelf

    @component.output_types(passages=list[str])
    def run(self, vector: list[float]) -> dict[str, list[str]]:
        return {"passages": self._shelf.nearest(vector)}

    @component.output_types(passages=list[str])
    async def run_async(self, vector: list[float]) -> dict[str, list[str]]:
        return self.run(vector)


def rag(records: int, url: str) -> dict[str, Any]:
    from haystack.components.builders import ChatPromptBuilder
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.utils import Secret
    from rag import MODEL, TOKENS, Shelf, timed

    there = {"api_key": Secret.from_token("none"), "model": MODEL, "api_base_url": url, "max_retries": 0}
    template = "{{ question }} By:\n\n{{ passages | join('\n\n') }}"

    async def seen(_chunk: Any) -> None:
        """Haystack streams where somebody listens."""

    pipeline = Pipeline()
    pipeline.add_component("embedder", OpenAITextEmbedder(**there))
    pipeline.add_component("nearest", Nearest(Shelf.fetch(url)))
    pipeline.add_component(
        "prompt", ChatPromptBuilder([ChatMessage.from_user(template)], required_variables="*")
    )
    pipeline.add_component(
        "llm",
        OpenAIChatGenerator(
            **there, streaming_callback=seen, generation_kwargs={"max_tokens": TOKENS, "temperature": 0}
        ),
    )
    pipeline.connect("embedder.embedding", "nearest.vector")
    pipeline.connect("nearest.passages", "prompt.passages")
    pipeline.connect("prompt.prompt", "llm.messages")

    async def answer(question: str) -> str:
        asked = {"embedder": {"text": question}, "prompt": {"question": question}}
        return (await pipeline.run_async(asked))["llm"]["replies"][0].text

    return asyncio.run(timed(answer, records, "openai"))


main("haystack-ai", overhead=overhead, io=io, join=join, rag=rag)
