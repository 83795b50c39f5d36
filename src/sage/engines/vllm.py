"""``vllm:``: starts vLLM's OpenAI server on this machine, uses it, restarts it if it dies, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from sage.engines.base import (
    Address,
    EmbedReply,
    EmbedRequest,
    Emit,
    Engine,
    EngineInfo,
    GenerateRequest,
    Reply,
)
from sage.engines.base import open_engine as open_address
from sage.errors import EngineError, InputError, SetupError

if TYPE_CHECKING:
    from sage.settings import Settings

__all__ = ["VllmEngine", "open_vllm"]

START_S = 600.0  # a large model takes minutes to load
LOOK_S = 0.5
AGAIN_S = 1.0  # before a server that died is started anew
OWN = ("flags", "start_s")  # options that are not the client's


class VllmEngine:
    """A server of our own, seen through the client of its API.

    Args:
        engine: the client.
        name: the address that the user wrote.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._info = msgspec.structs.replace(engine.info, address=name)

    @property
    def info(self) -> EngineInfo:
        """What the server says it can do."""
        return self._info

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer a request. Cancelling makes the server stop generating."""
        return await self._engine.generate(request, emit)

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Turn texts into vectors, if the model does."""
        return await self._engine.embed(request)


@asynccontextmanager
async def open_vllm(address: Address, settings: Settings) -> AsyncIterator[VllmEngine]:
    """A vLLM server for a model, ready to be asked.

    The address is ``vllm:MODEL`` or ``vllm:FOLDER`` with an executable ``serve`` in it, which is given the port. The
    option ``flags`` holds further arguments of vLLM's, ``start_s`` the seconds it may take to load; all others are
    those of ``openai:``.

    Raises:
        InputError: an option makes no sense. SetupError: the server ends instead of starting, or takes too long.
    """
    start_s = _seconds(address.options.get("start_s"))
    port = _free_port()
    command = _command(address, port)
    rest = {name: value for name, value in address.options.items() if name not in OWN}
    query = "&".join(f"{name}={value}" for name, value in rest.items())
    client = f"openai:http://127.0.0.1:{port}/v1" + (f"?{query}" if query else "")
    name = f"vllm:{address.target}"
    with tempfile.TemporaryFile() as log:
        server = await _started(command, log)
        async with contextlib.AsyncExitStack() as stack:
            try:
                engine = await _opened(stack, server, client, settings, start_s, log, name)
            except BaseException:
                await _stop(server)
                raise
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(_keep(server, command, log))
                try:
                    yield VllmEngine(engine, name)
                finally:
                    keeping.cancel()


def _command(address: Address, port: int) -> list[str]:
    serve = Path(address.target).expanduser() / "serve"
    flags = shlex.split(address.options.get("flags", ""))
    if serve.is_file():
        return [str(serve.resolve()), str(port), *flags]
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return [*module, "--model", address.target, "--host", "127.0.0.1", "--port", str(port), *flags]


def _seconds(said: str | None) -> float:
    try:
        seconds = START_S if said is None else float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"engine 'vllm': start_s is {said!r}, expected seconds above 0")
    return seconds


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _started(command: list[str], log: BinaryIO) -> asyncio.subprocess.Process:
    """The server, under a guard that ends it when we end, however we do."""
    guarded = [sys.executable, "-m", "sage.engines.guard", *command]
    return await asyncio.create_subprocess_exec(
        *guarded, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
    )


async def _opened(
    stack: contextlib.AsyncExitStack,
    server: asyncio.subprocess.Process,
    client: str,
    settings: Settings,
    start_s: float,
    log: BinaryIO,
    name: str,
) -> Engine:
    try:
        async with asyncio.timeout(start_s):
            while server.returncode is None:
                try:
                    return await stack.enter_async_context(open_address(client, settings))
                except EngineError as error:
                    if error.fault not in {"unreachable", "overloaded", "failed"}:
                        raise
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise SetupError(
            f"{name}: the server did not answer within {start_s:g} s, which start_s= changes; {_last_words(log)}"
        ) from None
    raise SetupError(
        f"{name}: the server ended with {server.returncode} instead of starting; {_last_words(log)}"
    )


async def _keep(server: asyncio.subprocess.Process, command: list[str], log: BinaryIO) -> None:
    """Start the server anew whenever it dies; end it when this is cancelled."""
    try:
        while True:
            await server.wait()
            await asyncio.sleep(AGAIN_S)
            server = await _started(command, log)
    finally:
        await _stop(server)


async def _stop(server: asyncio.subprocess.Process) -> None:
    if server.stdin is not None:
        server.stdin.close()
    await asyncio.shield(server.wait())


def _last_words(log: BinaryIO) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f"it said last: {lines[-1][:300]}" if lines else "it said nothing"
