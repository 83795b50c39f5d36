"""Ray Serve: a deployment each for retrieving and generating, and one that calls them; one replica of each."""

from __future__ import annotations

import asyncio
from typing import Any

from contest import INFLIGHT, main

ELSEWHERE = "measured by make bench-ray"


class Retrieve:
    def __init__(self, url: str) -> None:
        from openai_ import Calls
        from rag import Shelf

        self._calls, self._shelf = Calls(url), Shelf.fetch(url)

    async def __call__(self, question: str) -> list[str]:
        return self._shelf.nearest(await self._calls.embed(question))


class Generate:
    def __init__(self, url: str) -> None:
        from openai_ import Calls

        self._calls = Calls(url)

    async def __call__(self, prompt: str) -> str:
        return await self._calls.generate(prompt)


class Rag:
    def __init__(self, retrieve: Any, generate: Any) -> None:
        self._retrieve, self._generate = retrieve, generate

    async def __call__(self, question: str) -> str:
        from rag import prompt_of

        found = await self._retrieve.remote(question)
        return await self._generate.remote(prompt_of(question, found))


def rag(records: int, url: str) -> dict[str, Any]:
    import ray
    from rag import timed
    from ray import serve

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    deployed = serve.deployment(max_ongoing_requests=INFLIGHT, ray_actor_options={"num_cpus": 0.25})
    handle = serve.run(
        deployed(Rag).bind(deployed(Retrieve).bind(url), deployed(Generate).bind(url)), route_prefix=None
    )

    async def answer(question: str) -> str:
        return await handle.remote(question)

    return asyncio.run(timed(answer, records, "openai"))


main("ray", ELSEWHERE, rag=rag)
