"""A small MCP server for the tests: on its standard streams, or on a port of this machine."""

import os
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("small", log_level="CRITICAL")


@server.tool()
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@server.tool()
def table() -> dict[str, list[int]]:
    """Something with a form."""
    return {"rows": [1, 2]}


@server.tool()
def wrong() -> str:
    """Always fails."""
    raise ValueError("it never works")


@server.tool()
async def slow() -> str:
    """Never ends."""
    import asyncio

    await asyncio.Event().wait()
    return ""


@server.tool()
def die() -> str:
    """Ends the process."""
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
