"""Tools of MCP servers, by the official SDK: a local process on its standard streams, or an HTTP address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sage.errors import InputError, SetupError
from sage.graph.jsonschema import check_schema, supported
from sage.ops.agents.tools import Tool

__all__ = ["open_mcp"]

START_S = 30.0
CALL_S = 60.0  # of one call at the server; a tool's own timeout is usually shorter


@asynccontextmanager
async def open_mcp(
    server: str | Sequence[str],
    /,
    *,
    env: Mapping[str, str] | None = None,
    prefix: str = "",
    start_s: float = START_S,
    call_s: float = CALL_S,
) -> AsyncIterator[list[Tool]]:
    """The tools of an MCP server, for a Toolbox, as long as the block lasts.

    Descriptions and results are the server's and as trustworthy as it is. Arguments are checked before they are sent.
    A server that dies or answers garbage makes its calls fail, which the model reads; the job goes on.

    Args:
        server: the address of a streamable HTTP endpoint, such as ``http://127.0.0.1:8000/mcp``; or the words of a
            command that speaks MCP on its standard streams.
        env: more environment for the command.
        prefix: put before every tool's name, to tell servers apart.
        start_s: how long it may take to start and to list its tools.
        call_s: how long one call may take.

    Raises:
        InputError: this is no server. SetupError: the package is missing, or the server does not start.
    """
    address = _address(server, env)
    async with AsyncExitStack() as stack:
        client = await _connected(address, server, stack, start_s, call_s)
        home = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(start_s):
                listed = await _listed(client)
        except Exception as error:
            raise SetupError(f"MCP server {_shown(server)} does not list its tools: {_why(error)}") from error
        yield [_tool(about, prefix, client, home) for about in listed]


def _address(server: str | Sequence[str], env: Mapping[str, str] | None) -> Any:
    try:
        from mcp import StdioServerParameters
    except ImportError as error:
        raise SetupError(
            "MCP servers need the package mcp, 2.0 or later; type pip install 'sage-dataflow[mcp]'"
        ) from error
    if isinstance(server, str):
        if not server.startswith(("http://", "https://")):
            raise InputError(
                f"{server!r} is no MCP server; write http://… or the words of a command: ['python', 'server.py']"
            )
        if env:
            raise InputError("env= is for commands; an HTTP server has its own environment")
        return server
    if not server or not all(isinstance(word, str) for word in server):
        raise InputError(f"{server!r} is no command; write its words: ['python', 'server.py']")
    command, *rest = server
    return StdioServerParameters(command=command, args=rest, env=dict(env or {}))


async def _connected(
    address: Any, server: str | Sequence[str], stack: AsyncExitStack, start_s: float, call_s: float
) -> Any:
    """The open client; closed with the stack, which a server that has died does not make fail."""
    from mcp import Client

    client = Client(address, read_timeout_seconds=call_s)
    try:
        async with asyncio.timeout(start_s):
            await client.__aenter__()
    except Exception as error:
        raise SetupError(f"MCP server {_shown(server)} does not start: {_why(error)}") from error

    async def close(*_exc: object) -> None:
        with contextlib.suppress(Exception):  # it is gone already; every call to it has said so
            await client.__aexit__(None, None, None)

    stack.push_async_exit(close)
    return client


async def _listed(client: Any) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return found


def _tool(about: Any, prefix: str, client: Any, home: asyncio.AbstractEventLoop) -> Tool:
    schema = supported(about.input_schema)
    schema.setdefault("type", "object")
    check_schema(schema)

    async def run(arguments: Mapping[str, Any]) -> Any:
        return await _at(home, _called(client, about.name, dict(arguments)))

    return Tool(
        name=prefix + about.name,
        description=about.description or "",
        parameters=schema,
        run=run,
        is_async=True,
    )


async def _called(client: Any, name: str, arguments: dict[str, Any]) -> Any:
    """What the server says.

    Raises:
        RuntimeError: it says that the call failed.
    """
    result = await client.call_tool(name, arguments)
    text = "\n".join(block.text if hasattr(block, "text") else f"[{block.type}]" for block in result.content)
    if result.is_error:
        raise RuntimeError(text or "the server says that the call failed")
    return text if result.structured_content is None or text else result.structured_content


async def _at(home: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    """Await work on the loop that the connection belongs to."""
    if asyncio.get_running_loop() is home:
        return await work
    if not home.is_running():
        work.close()
        raise RuntimeError("the loop on which the MCP server was opened is not running")
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, home))


def _shown(server: str | Sequence[str]) -> str:
    return repr(server if isinstance(server, str) else " ".join(server))


def _why(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it took too long; does it speak MCP?"
    return str(error) or type(error).__name__
