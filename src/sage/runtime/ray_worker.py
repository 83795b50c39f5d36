"""What runs on a node of a Ray cluster: a worker that calls functions in threads, and engines on its event loop.

Work and results travel together: each ``exchange`` brings calls and takes back whatever is done by then, waiting
for the first of it. The driver keeps one or two of them under way, so that no result waits for a request.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sage.engines.base import (
    EmbedReply,
    EmbedRequest,
    Engine,
    GenerateRequest,
    MayEnd,
    Piece,
    Reply,
    open_engine,
)
from sage.errors import EngineError, SageError
from sage.settings import Settings
from sage.tasks import spawn

__all__ = [
    "Call",
    "Cancel",
    "Define",
    "Done",
    "Facts",
    "Pieces",
    "Worker",
    "first_line",
    "run_hop",
    "versions",
]

#: What one record of a hop gives: values of the steps that were done, what the next one raised, and the times: when
#: the first began, and when each was done.
HopResult = tuple[list[Any], Exception | None, list[float]]

Functions = tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...]


@dataclass(frozen=True, slots=True)
class Define:
    """Functions that later calls name by their number."""

    hop: int
    functions: Any  # a reference to Functions, kept by the driver


@dataclass(frozen=True, slots=True)
class Call:
    """Something to do: a hop for several records, or a request to an engine."""

    id: int
    hop: int | None
    given: Any  # a list of records, or a request


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for a call any more."""

    id: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """What an engine wrote since last time."""

    id: int
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class Done:
    """A call ended: its value, or what went wrong with the call as a whole."""

    id: int
    value: Any
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a worker says of itself."""

    versions: Mapping[str, str]
    pid: int
    clock: float  # monotonic seconds, when it was asked


def versions() -> dict[str, str]:
    """What must be the same on every node."""
    try:
        sage = metadata.version("sage-dataflow")
    except metadata.PackageNotFoundError:
        sage = "from a folder"
    return {"python": platform.python_version(), "ray": metadata.version("ray"), "sage": sage}


def run_hop(functions: Functions, records: Sequence[dict[str, Any]]) -> list[HopResult]:
    """Take each record through the functions of a hop; what one record raises stops that one only.

    >>> run_hop((("y", lambda record: record["x"] + 1),), [{"x": 1}, {}])[0][0]
    [2]
    """
    clock = time.monotonic
    results: list[HopResult] = []
    for record in records:
        values: list[Any] = []
        times = [clock()]
        error: Exception | None = None
        try:
            for name, function in functions:
                value = record[name] = function(record)
                values.append(value)
                times.append(clock())
        except Exception as raised:  # noqa: BLE001 - the user's function failed, and its job will
            error = raised
            times.append(clock())
        results.append((values, error, times))
    return results


class Worker:
    """One process on a node: so many threads for functions, or one engine.

    Args:
        slots: functions at once.
    """

    def __init__(self, slots: int) -> None:
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="sage-cpu")
        self._functions: dict[int, Any] = {}  # Functions, or the reference to them until first needed
        self._done: list[Done | Pieces] = []
        self._writing: dict[int, Pieces] = {}  # pieces that nobody has fetched yet
        self._running: dict[int, Any] = {}  # what can be cancelled of each call
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._engine: Engine | None = None
        self._closing = asyncio.Event()
        self._closed = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def facts(self) -> Facts:
        """Versions, and the time on this node's clock."""
        return Facts(versions(), os.getpid(), time.monotonic())

    async def hold(self, address: str, home: Path | None) -> None:
        """Open an engine and keep it until ``close`` or its own end, then return. ``info`` tells when it is open."""
        settings = Settings.load() if home is None else Settings(home=home)
        try:
            async with open_engine(address, settings) as engine, asyncio.TaskGroup() as self._group:
                self._engine = engine
                if isinstance(engine, MayEnd):
                    engine.on_end(self._closing.set)
                await self._closing.wait()
        finally:
            self._engine = self._group = None
            self._closed.set()

    async def info(self) -> Any:
        """What is known of the engine; None until it is open."""
        return None if self._engine is None else self._engine.info

    async def close(self) -> None:
        """Close the engine."""
        self._closing.set()
        await self._closed.wait()

    async def exchange(self, items: Sequence[Define | Call | Cancel]) -> list[Done | Pieces]:
        """Take calls in, and return what is done; nothing only if there is nothing to wait for."""
        for item in items:
            self._take(item)
        while not self._done and self._running:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        done, self._done = self._done, []
        self._writing.clear()
        return done

    async def submit(self, items: Sequence[Define | Call | Cancel]) -> None:
        """Take calls in; others wait for results."""
        for item in items:
            self._take(item)

    def _take(self, item: Define | Call | Cancel) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(item, Define):
            self._functions[item.hop] = item.functions
        elif isinstance(item, Cancel):
            running = self._running.get(item.id)
            if running is not None and running.cancel() and not isinstance(running, asyncio.Task):
                self._end(Done(item.id, None, None))
        elif item.hop is not None:
            self._running[item.id] = self._threads.submit(self._compute, loop, item.id, item.hop, item.given)
        elif self._group is not None:
            self._running[item.id] = spawn(self._group, self._ask(item.id, item.given))
        else:
            self._end(Done(item.id, None, EngineError("the engine on this node is closed", fault="lost")))

    def _compute(
        self, loop: asyncio.AbstractEventLoop, call: int, hop: int, records: list[dict[str, Any]]
    ) -> None:
        try:
            results = run_hop(self._loaded(hop), _unpacked(records))
            done = Done(call, [_sendable(result) for result in results], None)
        except BaseException as error:  # noqa: BLE001 - a call's edge: the driver must hear of it
            done = Done(call, None, _sendable_error(error))
        loop.call_soon_threadsafe(self._end, done)

    def _loaded(self, hop: int) -> Functions:
        import ray

        functions = self._functions[hop]
        if isinstance(functions, ray.ObjectRef):
            functions = self._functions[hop] = ray.get(functions)
        loaded: Functions = functions
        return loaded

    async def _ask(self, call: int, request: GenerateRequest | EmbedRequest) -> None:
        value: Reply | EmbedReply | None = None
        error: Exception | None = None
        try:
            assert self._engine is not None
            if isinstance(request, GenerateRequest):
                value = await self._engine.generate(request, lambda piece: self._piece(call, piece))
            else:
                value = await self._engine.embed(request)
        except Exception as raised:  # noqa: BLE001 - a call's edge: the driver must hear of it
            error = _sendable_error(raised)
        finally:
            self._end(Done(call, value, error))

    def _piece(self, call: int, piece: Piece) -> None:
        if call in self._writing:
            self._writing[call].pieces.append(piece)
            return
        pieces = self._writing[call] = Pieces(call, [piece])
        self._done.append(pieces)
        self._wake()

    def _end(self, done: Done) -> None:
        self._running.pop(done.id, None)
        self._done.append(done)
        self._wake()

    def _wake(self) -> None:
        """One of those who wait; all if nothing further will come."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if self._running:
                    return


def _unpacked(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with the large values that were sent as references."""
    import ray

    for record in records:
        for name, value in record.items():
            if isinstance(value, ray.ObjectRef):
                record[name] = ray.get(value)
    return records


def _sendable(result: HopResult) -> HopResult:
    values, error, times = result
    return result if error is None else (values, _sendable_error(error), times)


def _sendable_error(error: BaseException) -> Exception:
    """The error as the driver can read it: itself where that can be sent, else its words; with where it came from."""
    from ray import cloudpickle as travel  # Ray's own way to send things

    where = "".join(traceback.format_exception(error)[1:-1]).rstrip()
    try:
        if not isinstance(error, Exception):
            raise TypeError
        travel.loads(travel.dumps(error))  # type: ignore[no-untyped-call]  # Ray's
        sent = error
    except Exception:  # noqa: BLE001 - whatever an exception's own methods raise
        sent = SageError(f"{type(error).__name__}: {error}")
    if where and not isinstance(error, SageError):
        sent.add_note(f"on the worker:\n{where}")
    return sent


def first_line(error: BaseException) -> str:
    """What kind of error it is, and the beginning of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
