"""Simulated tasks per second of CPU: the product's own driver and scheduler, in virtual time, on emulated engines.

    python benchmarks/simulated.py [--jobs N] [--rounds N] [--large [N]] [--kind tokens|constant] [--out FILE]

Gives one JSON object. Each figure is the best of interleaved rounds, in tasks per second of CPU time of one core,
set-up left out. ``constant`` are engines whose calls take a fixed time, ``tokens`` token-level emulation of
continuous batching (answers of about 100 tokens); ``recorded`` also writes the event log. ``engine_alone`` is the
emulated engine without a session. ``--large`` also runs a million tasks (or N) on 1,000 endpoints of 64 places, once,
all 64,000 places taken; with its time and memory. ``--rounds 0 --large`` runs nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import msgspec
from rounds import noise, say, surroundings

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


def rounds(jobs: int, number: int, home: Path) -> dict[str, int]:
    """The best of each figure."""
    found: dict[str, int] = {}

    def keep(name: str, value: float) -> None:
        found[name] = max(found.get(name, 0), round(value))

    for _ in range(number):
        keep("engine_alone", run_virtual(engine_alone(jobs)))
        for kind in OUTPUT:
            for record in (False, True):
                name = f"{kind}_recorded" if record else kind
                keep(name, run_virtual(tasks_per_s(kind, jobs, endpoints=4, record=record, home=home)))
    return found


def large(kind: str, tasks: int, home: Path) -> dict[str, Any]:
    """Many tasks on 1,000 endpoints."""
    say(f"{tasks:,} tasks on 1,000 endpoints, {kind} …")
    wall, cpu = perf_counter(), process_time()
    rate = run_virtual(tasks_per_s(kind, tasks, endpoints=1000, record=False, home=home))
    return {
        "kind": kind,
        "tasks": tasks,
        "endpoints": 1000,
        "tasks_per_cpu_s": round(rate),
        "cpu_s": process_time() - cpu,
        "wall_s": perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, nargs="?", const=1_000_000, metavar="N")
    parser.add_argument("--kind", choices=list(OUTPUT), default="tokens", help="of the large run's engines")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, not to standard output")
    given = parser.parse_args()
    before = noise()
    report: dict[str, Any] = {"benchmark": "simulated", **surroundings()}
    with tempfile.TemporaryDirectory() as folder:
        if given.rounds:
            figures = rounds(given.jobs, given.rounds, Path(folder))
            report |= {"jobs": given.jobs, "rounds": given.rounds, "tasks_per_cpu_s": figures}
        if given.large:
            report["large"] = large(given.kind, given.large, Path(folder))
    report["noise"] = {"before": before, "after": noise()}
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    if given.out is None:
        sys.stdout.write(encoded.decode())
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_bytes(encoded)


if __name__ == "__main__":
    main()
