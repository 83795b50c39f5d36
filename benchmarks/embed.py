"""Texts per CPU-second of an embedder: ``python benchmarks/embed.py [ADDRESS] [--rounds N]``. JSON on stdout.

CPU time of the whole process, every thread of it; the best of several rounds that take turns over the lengths.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import time

import numpy as np

from sage.engines.base import EmbedRequest, Engine, open_engine
from sage.settings import Settings

WORDS = (
    *("the", "a", "list", "of", "module", "function", "returns", "value", "object", "string", "file", "when"),
    *("called", "with", "name", "key", "each", "item", "order", "sorted", "number", "text", "time", "path"),
    *("read", "write", "open", "close", "error", "raised", "default", "argument", "sequence"),
)
#: What is measured: name -> words a text. A short text is a sentence or a question.
LENGTHS = {"short": 14, "medium": 60, "long": 230}
TEXTS = {"short": 256, "medium": 96, "long": 32}


def texts(name: str) -> tuple[str, ...]:
    rng = random.Random(name)
    length = LENGTHS[name]
    return tuple(
        " ".join(rng.choices(WORDS, k=rng.randint(length // 2, length * 3 // 2))) for _ in range(TEXTS[name])
    )


async def measure(engine: Engine, rounds: int) -> dict[str, dict[str, float]]:
    best: dict[str, dict[str, float]] = {}
    requests = {name: EmbedRequest(texts=texts(name)) for name in LENGTHS}
    await engine.embed(requests["short"])  # pages in the weights
    for _ in range(rounds):
        for name, request in requests.items():
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            reply = await engine.embed(request)
            cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
            if name not in best or cpu_s < best[name]["cpu_s"]:
                best[name] = {
                    "texts": len(request.texts),
                    "tokens": reply.usage.prompt_tokens,
                    "cpu_s": round(cpu_s, 4),
                    "texts_per_cpu_s": round(len(request.texts) / cpu_s, 1),
                    "tokens_per_cpu_s": round(reply.usage.prompt_tokens / cpu_s),
                    "texts_per_s": round(len(request.texts) / wall_s, 1),
                }
    return best


async def main() -> None:
    parser = argparse.ArgumentParser(description="Texts per CPU-second of an embedder.")
    parser.add_argument("address", nargs="?", default="bert:all-minilm-l6-v2")
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    begun_s = time.perf_counter()
    async with open_engine(said.address, Settings.load()) as engine:
        opened_s = time.perf_counter() - begun_s
        result = {
            "engine": engine.info.address,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.platform(),
            "rounds": said.rounds,
            "open_s": round(opened_s, 3),
            "lengths": await measure(engine, said.rounds),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
