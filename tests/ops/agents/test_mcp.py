"""Tools of real MCP server processes: found, called, and survived when they die or talk nonsense."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage import InputError, Pipeline, Session, SetupError
from sage.ops import Toolbox, call_tool, open_mcp
from sage.ops.agents.tools import ToolResult

pytest.importorskip("mcp")

SERVER = str(Path(__file__).parent / "mcp_server.py")
COMMAND = [sys.executable, SERVER]
START_S = 30.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default::DeprecationWarning"),  # of the SDK's own dependencies
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A running server's address."""
    port = free_port()
    server = subprocess.Popen([*COMMAND, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            server_pause()
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        server.wait(10)


def server_pause() -> None:
    """Until a process of its own may have got further."""
    time.sleep(0.05)


def results_of(server: Any, *calls: dict[str, Any], timeout_s: float = 10.0) -> list[ToolResult]:
    """Call tools of a server one after the other in one session."""

    async def main() -> list[ToolResult]:
        async with open_mcp(server) as tools, Session(record=False) as session:
            pipeline = Pipeline(
                "p", result=call_tool("call", tools=Toolbox("m", *tools, timeout_s=timeout_s))
            )
            return [(await session(pipeline, call=call))["result"] for call in calls]

    return asyncio.run(main())


ADD = {"tool": "add", "arguments": {"a": 1, "b": 2}}


def test_a_process_on_its_standard_streams() -> None:
    added, bad, form, failed = results_of(
        COMMAND, ADD, {"tool": "add", "arguments": {"a": "x"}}, {"tool": "table"}, {"tool": "wrong"}
    )
    assert (added.outcome, added.text) == ("done", "3")
    assert bad.outcome == "invalid"
    assert "rows" in form.text
    assert failed.outcome == "failed"


def test_a_streamable_http_address(address: str) -> None:
    added, slow = results_of(address, ADD, {"tool": "slow"}, timeout_s=1.0)
    assert added.text == "3"
    assert slow.outcome == "timeout"


def test_a_server_that_dies_fails_its_calls_and_nothing_else() -> None:
    before, dying, after = results_of(COMMAND, ADD, {"tool": "die"}, ADD)
    assert [before.outcome, dying.outcome, after.outcome] == ["done", "failed", "failed"]
    assert "closed" in dying.text.lower()


def test_its_tools_are_described_and_told_apart_by_a_prefix() -> None:
    async def main() -> list[Any]:
        async with open_mcp(COMMAND, prefix="small.") as tools:
            return tools

    found = {tool.name: tool for tool in asyncio.run(main())}
    assert found["small.add"].description == "The sum of two numbers."
    assert found["small.add"].parameters["required"] == ["a", "b"]


def test_tools_are_called_from_another_loop_too() -> None:
    async def main() -> Any:
        async with open_mcp(COMMAND) as tools:
            pipeline = Pipeline("p", result=call_tool("call", tools=Toolbox("m", *tools)))
            run = await asyncio.to_thread(
                pipeline.run, [{"call": ADD}]
            )  # the default session has a loop of its own
            return run.records[0]["result"]

    assert asyncio.run(main()).text == "3"


GARBAGE = "print('this is not MCP', flush=True); import sys; sys.stdin.read()"


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ([sys.executable, "-c", GARBAGE], "too long; does it speak MCP"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "does not start"),
        (["no-such-program-anywhere"], "does not start"),
        ("http://127.0.0.1:9/mcp", "does not start"),
    ],
)
def test_what_is_no_server_is_refused_with_the_reason(server: Any, says: str) -> None:
    async def main() -> None:
        async with open_mcp(server, start_s=2.0):
            raise AssertionError("it started")

    with pytest.raises(SetupError, match=says):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("server", "env"), [("python server.py", None), ([], None), ("http://127.0.0.1/mcp", {"A": "b"})]
)
def test_what_is_no_address_is_refused(server: Any, env: Any) -> None:
    async def main() -> None:
        async with open_mcp(server, env=env):
            raise AssertionError("it started")

    with pytest.raises(InputError):
        asyncio.run(main())
