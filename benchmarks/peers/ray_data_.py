"""Ray Data: rows mapped by asynchronous classes, each in an actor of its own, and a function.

As many rows at once in an actor as the other peers have records in flight. The rows are one block: Ray Data gives
an actor one block at a time, and more blocks would be waited for one after the other. Every execution of a dataset
starts its own actors, so their start is in its time, and ends them, so that the memory counted may lack them. A
record's time is from the start of its first step to the end of its last, by their stamps in the actors, which tell
of their CPU as well.
"""

from __future__ import annotations

import os
import time
from typing import Any

from contest import INFLIGHT, main

ELSEWHERE = "measured by make bench-ray"


def so_far(what: str) -> dict[str, Any]:
    """Who this is, and the CPU it has taken."""
    return {f"{what}_process": os.getpid(), f"{what}_cpu_s": time.process_time()}


class Retrieve:
    def __init__(self, url: str) -> None:
        from openai_ import Calls
        from rag import Shelf

        self._calls, self._shelf = Calls(url), Shelf.fetch(url)

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        vector = await self._calls.embed(row["question"])
        passages = self._shelf.nearest(vector)
        return {**row, "began": began, "passages": passages, **so_far("retrieve")}


def write(row: dict[str, Any]) -> dict[str, Any]:
    from rag import prompt_of

    return {**row, "prompt": prompt_of(row["question"], row["passages"])}


class Generate:
    def __init__(self, url: str) -> None:
        from openai_ import Calls

        self._calls = Calls(url)

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        answer = await self._calls.generate(row["prompt"])
        return {**row, "answer": answer, "ended": time.perf_counter(), **so_far("generate")}


def rag(records: int, url: str) -> dict[str, Any]:
    os.environ["RAY_DATA_DEFAULT_ASYNC_ROW_UDF_MAX_CONCURRENCY"] = str(INFLIGHT)
    import ray
    from rag import Meter, questions

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run(number: int) -> list[dict[str, Any]]:
        asked = [{"place": place, "question": question} for place, question in enumerate(questions(number))]
        rows = ray.data.from_items(asked, override_num_blocks=1)
        pool = ray.data.ActorPoolStrategy(size=1)
        actor = {"fn_constructor_args": (url,), "compute": pool, "num_cpus": 0.5}
        rows = rows.map(Retrieve, **actor).map(write, num_cpus=0.5).map(Generate, **actor)
        return sorted(rows.iter_rows(), key=lambda row: row["place"])

    run(INFLIGHT)
    began = time.perf_counter()
    with Meter() as meter:
        done = run(records)
    spent_s: dict[int, float] = {}
    for row in done:
        for what in ("retrieve", "generate"):
            process = row[f"{what}_process"]
            spent_s[process] = max(spent_s.get(process, 0.0), row[f"{what}_cpu_s"])
    told = meter.told("openai", [(row["ended"] - row["began"], row["answer"]) for row in done], spent_s)
    return told | {"first_began_s": min(row["began"] for row in done) - began}


main("ray", ELSEWHERE, rag=rag)
