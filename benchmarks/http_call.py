"""What one call to an OpenAI-compatible server costs the client, in CPU time.

    python benchmarks/http_call.py --calls 2000 --inflight 64 --tokens 8 --rounds 5

The server is the emulated one, in a process of its own: its time does not count, only this process's does.
Rounds of SAGE's engine and of bare aiohttp (the same request, the body read and thrown away) alternate; the
cheapest round of each is reported, as one JSON object on stdout. No model is involved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import aiohttp

from sage.engines.base import Engine, GenerateRequest, Message, ignore_pieces, open_engine
from sage.engines.openai_wire import generate_body
from sage.settings import Settings
from sage.testing.server import Behaviour, separate_server

REQUEST = GenerateRequest(messages=(Message("user", "What does the bisect module do, in a few words?"),))

Call = Callable[[], Awaitable[None]]


async def keep_busy(call: Call, num_calls: int, inflight: int) -> float:
    """Make the calls, ``inflight`` at once; CPU seconds per call."""
    left = iter(range(num_calls))

    async def worker() -> None:
        for _ in left:
            await call()

    begun = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(inflight):
            group.create_task(worker())
    return (time.process_time() - begun) / num_calls


def engine_call(engine: Engine) -> Call:
    async def call() -> None:
        await engine.generate(REQUEST, ignore_pieces)

    return call


def bare_call(session: aiohttp.ClientSession, url: str) -> Call:
    body = generate_body(REQUEST, "emulated", "chat")

    async def call() -> None:
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
            await response.read()

    return call


async def measure(url: str, options: argparse.Namespace) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {"sage": [], "bare_aiohttp": []}
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        open_engine(f"openai:{url}", Settings()) as engine,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        calls = {"sage": engine_call(engine), "bare_aiohttp": bare_call(session, f"{url}/chat/completions")}
        for call in calls.values():
            await keep_busy(call, options.inflight * 2, options.inflight)  # connections, caches
        for _ in range(options.rounds):
            for name, call in calls.items():
                figures[name].append(await keep_busy(call, options.calls, options.inflight))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000, help="per round")
    parser.add_argument("--inflight", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8, help="per answer; each is one event")
    parser.add_argument("--token-ms", type=float, default=0.0, help="between two tokens")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    behaviour = Behaviour(answer_tokens=options.tokens, token_s=options.token_ms / 1000)
    with separate_server(behaviour) as url:
        figures = asyncio.run(measure(url, options))
    report = {
        "what": "client CPU per streamed chat call, milliseconds, cheapest round; emulated server",
        **{f"{name}_cpu_ms_per_call": round(min(rounds) * 1000, 4) for name, rounds in figures.items()},
        "rounds_ms": {name: [round(value * 1000, 4) for value in rounds] for name, rounds in figures.items()},
        "arguments": vars(options),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "machine": platform.machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
