"""The client package of OpenAI, called from asyncio by hand: what those peers stand on that bring no client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from contest import main


class Calls:
    """The two calls of the workload."""

    def __init__(self, url: str) -> None:
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)

    async def embed(self, text: str) -> Sequence[float]:
        from rag import MODEL

        answer = await self._client.embeddings.create(model=MODEL, input=text)
        return answer.data[0].embedding

    async def generate(self, prompt: str) -> str:
        from rag import MODEL, TOKENS

        stream = await self._client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
        )
        pieces = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
        return "".join(pieces)

    async def close(self) -> None:
        await self._client.close()


def rag(records: int, url: str) -> dict[str, Any]:
    from rag import Shelf, prompt_of, timed

    shelf = Shelf.fetch(url)

    async def work() -> dict[str, Any]:
        calls = Calls(url)

        async def answer(question: str) -> str:
            vector = await calls.embed(question)
            return await calls.generate(prompt_of(question, shelf.nearest(vector)))

        return await timed(answer, records, "openai")

    return asyncio.run(work())


if __name__ == "__main__":
    main("openai", "a client, no framework: see asyncio by hand", rag=rag)
