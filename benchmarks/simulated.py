"""Simulated tasks per second of CPU: the product's own driver and scheduler, in virtual time, on emulated engines.

    python benchmarks/simulated.py [--jobs N] [--rounds N] [--large]

Prints one JSON object. Each figure is the best of interleaved rounds, in tasks per second of CPU time of one core,
set-up left out. ``constant`` are engines whose calls take a fixed time, ``tokens`` token-level emulation of
continuous batching (answers of about 100 tokens); ``recorded`` also writes the event log. ``engine_alone`` is the
emulated engine without a session. ``--large`` runs a million tasks on 1,000 endpoints once, and prints its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

from sage import Pipeline, Session
from sage.engines.base import Engine, GenerateRequest, Message, ignore_pieces
from sage.engines.emulated import EmulatedEngine, EmulatedOptions
from sage.engines.emulated_profile import load_profile
from sage.ops import generate
from sage.runtime.virtual import run_virtual
from sage.settings import Settings

PIPELINE = Pipeline("p", answer=generate("{question}", max_tokens=400))
OUTPUT = {"constant": "1", "tokens": "lognormal(100,0.6)"}
PROFILE = {"constant": "constant", "tokens": "vllm-llama-3.1-8b"}


def engines(kind: str, count: int, limit: int) -> list[Engine]:
    options = EmulatedOptions(output=OUTPUT[kind], pieces="first", limit=limit)
    profile = load_profile(PROFILE[kind])
    return [EmulatedEngine(profile, options, name=f"llm-{number}") for number in range(count)]


def records(jobs: int) -> Iterator[dict[str, Any]]:
    text = "word " * 200
    return ({"question": f"{number} {text}"} for number in range(jobs))


async def tasks_per_s(kind: str, jobs: int, *, endpoints: int, record: bool, home: Path) -> float:
    clock = asyncio.get_running_loop().time
    settings = Settings(home=home, record=record, policy="load_aware")
    limit = 64
    pool = engines(kind, endpoints, limit)
    async with Session(engines={"llm": pool}, settings=settings, clock=clock, kind="simulated") as session:
        await session.ready(PIPELINE)
        began, done = process_time(), 0
        stream = session.stream(PIPELINE, records(jobs), errors="yield", max_inflight=endpoints * limit)
        async for _ in stream:
            done += 1
        assert done == jobs
        return jobs / (process_time() - began)


async def engine_alone(jobs: int) -> float:
    (engine,) = engines("tokens", 1, 128)
    coming = records(jobs)

    async def client() -> None:
        for record in coming:
            message = Message("user", record["question"])
            await engine.generate(GenerateRequest(messages=(message,), max_tokens=400), ignore_pieces)

    began = process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(128):
            group.create_task(client())
    return jobs / (process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    given = parser.parse_args()
    found: dict[str, float] = {}

    def keep(name: str, value: float) -> None:
        found[name] = max(found.get(name, 0.0), round(value))

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for _ in range(given.rounds):
            keep("engine_alone", run_virtual(engine_alone(given.jobs)))
            for kind in OUTPUT:
                for record in (False, True):
                    name = f"{kind}_recorded" if record else kind
                    work = tasks_per_s(kind, given.jobs, endpoints=4, record=record, home=home)
                    keep(name, run_virtual(work))
        report: dict[str, Any] = {"jobs": given.jobs, "rounds": given.rounds, "tasks_per_cpu_s": found}
        if given.large:
            work = tasks_per_s("tokens", 1_000_000, endpoints=1000, record=False, home=home)
            report["large"] = {
                "tasks": 1_000_000,
                "endpoints": 1000,
                "tasks_per_cpu_s": round(run_virtual(work)),
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
    report |= {"python": platform.python_version(), "machine": platform.machine()}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
