"""A real vLLM server on the node that has its resource: make test-vllm VLLM=DIR."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sage import Pipeline, Session
from sage.events import TaskEnded
from sage.ops import generate
from sage.runtime.ray_cluster import Connection

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LOAD_S = 400.0
ASK = Pipeline("ask", answer=generate("Tell me about the number {x}.", max_tokens=12))


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """The folder whose `serve PORT` starts a vLLM."""
    said: str = request.config.getoption("--vllm")
    if "://" in said:
        pytest.skip("this needs a folder whose `serve PORT` starts vLLM, not the address of a server")
    return Path(said).resolve()


def test_it_is_started_there_restarted_when_killed_and_ended_with_the_session(
    ray_connection: Connection, folder: Path
) -> None:
    assert ray_connection.host is not None
    node = ray_connection.host.add(1, {"chip": 1})
    before = set(servers())

    async def main() -> Any:
        engines = {"llm": f"vllm:{folder}?on=chip&limit=8"}
        async with Session(runtime=ray_connection.cluster, engines=engines) as session:
            await session.ready(ASK)
            (view,) = session.snapshot().endpoints
            killed: list[str] = []

            async def until_it_is_back() -> AsyncIterator[dict[str, int]]:
                x = 0
                while not killed or x < 20:
                    yield {"x": x}
                    x += 1

            engine: Any = await session.engine("llm")
            worker = (await engine._link.actor.facts.remote()).pid
            server = server_below(worker)
            assert server in servers()
            async with asyncio.TaskGroup() as group:
                running = group.create_task(session.run(ASK, until_it_is_back(), max_inflight=8))
                await asyncio.to_thread(until, lambda: in_flight(session) > 0)
                os.kill(server, signal.SIGKILL)
                await asyncio.to_thread(until, lambda: not session.snapshot().endpoints)
                await asyncio.to_thread(until, lambda: in_flight(session) > 0)
                killed.append(view.name)
            return running.result(), view.name

    try:
        result, name = asyncio.run(main())
    finally:
        ray_connection.host.kill(node)
    assert not result.failures
    calls = [event for event in result.events if isinstance(event, TaskEnded)]
    assert {call.endpoint for call in calls} == {name}
    assert {call.error for call in calls if call.outcome == "failed"} == {"lost"}
    until(lambda: not set(servers()) - before, 30.0)


def in_flight(session: Session) -> int:
    return sum(view.in_flight for view in session.snapshot().endpoints)


def servers() -> list[int]:
    """vLLM servers that run on this machine."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"vllm.entrypoints" in line and b"sage.engines.guard" not in line:
                found.append(int(entry.name))
    return found


def server_below(worker: int) -> int:
    """The server's process: child of the guard's child, below a worker."""
    parents = {
        int(entry.name): int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
    }
    (front,) = [pid for pid, parent in parents.items() if parent == worker]
    (guard,) = [pid for pid, parent in parents.items() if parent == front]
    (server,) = [pid for pid, parent in parents.items() if parent == guard]
    return server


def until(holds: Callable[[], bool], seconds: float = LOAD_S) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)
