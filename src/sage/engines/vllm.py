"""``vllm:``: starts vLLM's OpenAI server on this machine, uses it, tells if it dies, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlencode

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
from sage.engines.ending import Ending
from sage.engines.engine_metrics import EngineMetrics, Measured
from sage.errors import EngineError, EngineFault, InputError, SetupError

if TYPE_CHECKING:
    from sage.settings import Settings

__all__ = ["VllmEngine", "open_vllm"]

START_S = 600.0  # a large model takes minutes to load
LOOK_S = 0.5
DEATH_S = 2.0  # how long a server that broke off calls may take to end, for them to be lost with it
#: Faults of calls whose server may have died.
SUSPICIOUS: frozenset[EngineFault] = frozenset({"unreachable", "stalled", "failed", "garbled"})
OWN = ("flags", "start_s")  # options that are not the client's


class VllmEngine:
    """A server of our own, seen through the client of its API. It ends with the server.

    Args:
        engine: the client.
        name: the address that the user wrote.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._info = msgspec.structs.replace(engine.info, address=name)
        self._ending = Ending()
        self._is_over = asyncio.Event()

    @property
    def info(self) -> EngineInfo:
        """What the server says it can do."""
        return self._info

    def on_metrics(self, tell: Callable[[EngineMetrics], None]) -> None:
        """Have somebody told of the server's load: see the option ``metrics_s`` of ``openai:``."""
        if isinstance(self._engine, Measured):
            self._engine.on_metrics(tell)

    def on_end(self, tell: Callable[[], None]) -> None:
        """Have somebody told when the server has ended."""
        self._ending.tell(tell)

    async def watch(self, server: asyncio.subprocess.Process) -> None:
        """Wait for the end of the server, and tell of it."""
        await server.wait()
        self._ending.over()
        self._is_over.set()

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        """Answer a request. Cancelling makes the server stop generating."""
        try:
            return await self._engine.generate(request, emit)
        except EngineError as error:
            raise await self._why(error) from None

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Turn texts into vectors, if the model does."""
        try:
            return await self._engine.embed(request)
        except EngineError as error:
            raise await self._why(error) from None

    async def _why(self, error: EngineError) -> EngineError:
        """The error, or that the server has ended, which is seen a moment later than that it broke off a call."""
        if error.fault not in SUSPICIOUS:
            return error
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEATH_S):
                await self._is_over.wait()
        return (
            EngineError(f"{self._info.address}: its server has ended", fault="lost")
            if self._is_over.is_set()
            else error
        )


@asynccontextmanager
async def open_vllm(address: Address, settings: Settings) -> AsyncIterator[VllmEngine]:
    """A vLLM server for a model, ready to be asked.

    The address is ``vllm:MODEL`` or ``vllm:FOLDER`` with an executable ``serve`` in it, which is given the port. The
    option ``flags`` holds further arguments of vLLM's, ``start_s`` the seconds it may take to load; all others are
    those of ``openai:``. A session opens it anew if it dies.

    Raises:
        InputError: an option makes no sense. SetupError: the server ends instead of starting, or takes too long.
    """
    start_s = _seconds(address.options.get("start_s"))
    port = _free_port()
    command = _command(address, port)
    rest = {name: value for name, value in address.options.items() if name not in OWN}
    query = urlencode(rest)
    client = f"openai:http://127.0.0.1:{port}/v1" + (f"?{query}" if query else "")
    name = f"vllm:{address.target}"
    with tempfile.TemporaryFile() as log:
        server = await _started(command, log)
        try:
            async with contextlib.AsyncExitStack() as stack:
                engine = VllmEngine(await _opened(stack, server, client, settings, start_s, log, name), name)
                await stack.enter_async_context(_watched(engine, server))
                yield engine
        finally:
            await _stop(server)


@asynccontextmanager
async def _watched(engine: VllmEngine, server: asyncio.subprocess.Process) -> AsyncIterator[None]:
    raised: Exception | None = None
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(engine.watch(server))
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below, outside the group that would wrap it
            raised = error
        finally:
            watching.cancel()
    if raised is not None:
        raise raised


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


async def _stop(server: asyncio.subprocess.Process) -> None:
    if server.stdin is not None:
        server.stdin.close()
    await asyncio.shield(server.wait())


def _last_words(log: BinaryIO) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f"it said last: {lines[-1][:300]}" if lines else "it said nothing"
