"""From a source of records, through the driver, to a sink: pulled as places become free, never ahead of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from dataclasses import replace
from typing import Any, Protocol

from sage.clock import Clock
from sage.errors import InputError
from sage.graph.values import Record
from sage.runtime.base import JobFailure, Run, first_of_group
from sage.runtime.driver import Driver
from sage.runtime.inline import Inline
from sage.runtime.ledger import SLOW_STEP_S
from sage.runtime.program import Program

__all__ = ["Channel", "Collected", "InOrder", "Sink", "Source", "feed", "placed"]

Source = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]

Result = Record | JobFailure

Carry = Callable[[Run, Program, int, Any], Awaitable[Result]]

YIELD_S = 0.002  # inline work lets other tasks run this often


class Sink(Protocol):
    """Where results go."""

    def put(self, index: int, result: Result) -> bool:
        """Keep a result. False: full; whoever put it awaits ``room`` before the next one is pulled."""

    async def room(self) -> None:
        """Wait until there is room."""


class Collected:
    """Keeps everything, for callers that want it all."""

    def __init__(self) -> None:
        self.results: list[tuple[int, Result]] = []

    def put(self, index: int, result: Result) -> bool:
        """Keep a result; never full."""
        self.results.append((index, result))
        return True

    async def room(self) -> None:
        """Return at once."""

    def in_source_order(self) -> list[Result]:
        """The results, as their records stood in the source."""
        return [result for _, result in sorted(self.results, key=lambda item: item[0])]


class Channel:
    """A bounded queue between a feed and whoever iterates over its results: one consumer, on one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Any] = deque()
        self._wanted: asyncio.Future[None] | None = None  # while the consumer waits
        self._emptied = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None

    def put(self, _index: int, result: Result) -> bool:
        """Keep a result for the consumer."""
        self.add(result)
        return len(self._items) < self._limit

    def add(self, item: Any) -> None:
        """Keep anything for the consumer, from a source that is bounded by itself."""
        self._items.append(item)
        if self._wanted is not None:
            self._wake(self._wanted)

    async def room(self) -> None:
        """Wait until the consumer has taken what is there."""
        while len(self._items) >= self._limit:
            self._emptied.clear()
            await self._emptied.wait()

    def end(self, error: BaseException | None = None) -> None:
        """No further results come; ``error`` is raised to the consumer once it has taken the rest."""
        self._ended, self._error = True, error
        if self._wanted is not None:
            self._wake(self._wanted)

    async def take(self) -> list[Any]:
        """All results that are there, waiting for at least one; empty at the end.

        Raises:
            BaseException: what the feed ended with.
        """
        while not self._items and not self._ended:
            assert self._wanted is None, "a channel has one consumer"
            self._wanted = asyncio.get_running_loop().create_future()
            try:
                await self._wanted
            finally:
                self._wanted = None
        taken = list(self._items)
        self._items.clear()
        self._emptied.set()
        if not taken and self._error is not None:
            error, self._error = self._error, None
            raise error
        return taken

    def _wake(self, wanted: asyncio.Future[None]) -> None:
        if not wanted.done():
            wanted.set_result(None)


class InOrder:
    """Hands results on in the order of the source, holding back at most ``limit`` that came too early."""

    def __init__(self, sink: Sink, limit: int) -> None:
        self._sink = sink
        self._limit = limit
        self._early: dict[int, Result] = {}
        self._next = 0
        self._released = asyncio.Event()

    def put(self, index: int, result: Result) -> bool:
        """Keep a result until all before it are there."""
        self._early[index] = result
        has_room = True
        while self._next in self._early:
            has_room = self._sink.put(self._next, self._early.pop(self._next))
            self._next += 1
            self._released.set()
        return has_room and len(self._early) < self._limit

    def release(self) -> None:
        """Hand on what is held back, though results before it are missing: none of them comes any more."""
        for index in sorted(self._early):
            self._sink.put(index, self._early.pop(index))

    async def room(self) -> None:
        """Wait until the missing result has come, and until the sink behind has room."""
        while len(self._early) >= self._limit:
            self._released.clear()
            await self._released.wait()
        await self._sink.room()


async def feed(
    driver: Driver, inline: Inline, clock: Clock, run: Run, program: Program, source: Source, sink: Sink
) -> None:
    """Take every record of a source through a program.

    At most ``run.max_inflight`` jobs are under way; the next record is pulled when one ends and its result
    found room.

    Raises:
        InputError: the source is no source of records. Whatever the source raises, once the jobs under way
            have ended.
    """
    intake = _Intake(source)
    if program.is_inline and not intake.is_async:
        await _pump(inline, clock, run, program, intake, sink)
    else:
        is_bare = program.is_free and program.is_chain and run.log is None and not run.is_limited
        carry = inline.acarry if is_bare else driver.carry
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(run.max_inflight, intake.at_most)):
                    workers.create_task(_work(carry, clock, run, program, intake, sink))
        except ExceptionGroup as group:  # not a job's failure: the log cannot be written, or SAGE is wrong
            first = first_of_group(group)
            raise first from first.__cause__ or group
    if intake.error is not None:
        raise intake.error


async def _pump(
    inline: Inline, clock: Clock, run: Run, program: Program, intake: _Intake, sink: Sink
) -> None:
    """Inline programs: one record after the other, without a task for each."""
    yielded = clock()
    carry, put, numbers = inline.carry, sink.put, run.numbers
    for index, record in intake.rest():
        if numbers is None:
            result = carry(run, program, index, record)
        else:
            result = placed(carry(run, program, next(numbers), record), index)
        if not put(index, result):
            await sink.room()
        now = clock()
        if now - yielded > YIELD_S:
            run.watches_steps = run.watches_steps or now - yielded > SLOW_STEP_S
            await asyncio.sleep(0)
            yielded = clock()


async def _work(carry: Carry, clock: Clock, run: Run, program: Program, intake: _Intake, sink: Sink) -> None:
    """One place in flight: a record after the other, until the source is empty."""
    yielded = clock()
    numbers = run.numbers
    while (pulled := await intake.anext() if intake.is_async else intake.next()) is not None:
        index, record = pulled
        if numbers is None:
            result = await carry(run, program, index, record)
        else:
            result = placed(await carry(run, program, next(numbers), record), index)
        if not sink.put(index, result):
            await sink.room()
        now = clock()
        if intake.pulled > index + 1:  # others had their turn meanwhile
            yielded = now
        elif now - yielded > YIELD_S:
            await asyncio.sleep(0)
            yielded = clock()


def placed(result: Result, index: int) -> Result:
    """A result of a job that is numbered within its run: a failure names its place in its own source."""
    return replace(result, index=index) if isinstance(result, JobFailure) else result


class _Intake:
    """Numbers the records of a source, and remembers what the source raised."""

    def __init__(self, source: Source) -> None:
        self.error: BaseException | None = None
        self.at_most = len(source) if isinstance(source, Sized) else 1 << 30
        self.pulled = 0  # records
        self._pulling = asyncio.Lock()  # protects an async source: one __anext__ at a time
        self._records: Iterator[Mapping[str, Any]] | None = None
        self._async_records: AsyncIterator[Mapping[str, Any]] | None = None
        self.is_async = False  # pulling has to be awaited
        self._is_over = False
        if isinstance(source, AsyncIterable):
            self._async_records = aiter(source)
            self.is_async = True
        elif isinstance(source, Mapping | str) or not isinstance(source, Iterable):
            raise InputError(
                f"expected records, an iterable of mappings, got one {type(source).__name__!r}; "
                "for a single record call the pipeline with its fields: pipeline(question=…)"
            )
        else:
            self._records = iter(source)

    def rest(self) -> Iterator[tuple[int, Any]]:
        """Everything that is left of a plain source, numbered."""
        assert self._records is not None
        try:
            yield from enumerate(self._records)
        except Exception as error:  # noqa: BLE001 - the source's own error, raised when the jobs have ended
            self.error = error

    async def anext(self) -> tuple[int, Any] | None:
        """The next record of an async source and its number; None at the end."""
        async with self._pulling:
            return await self._apull()

    def next(self) -> tuple[int, Any] | None:
        """The next record of a plain source and its number; None at the end."""
        assert self._records is not None
        if self._is_over:
            return None
        try:
            record = next(self._records)
        except StopIteration:
            self._is_over = True
            return None
        except Exception as error:  # noqa: BLE001 - the source's own error, raised when the jobs have ended
            self._is_over, self.error = True, error
            return None
        self.pulled += 1
        return self.pulled - 1, record

    async def _apull(self) -> tuple[int, Any] | None:
        assert self._async_records is not None
        if self._is_over:
            return None
        try:
            record = await anext(self._async_records)
        except StopAsyncIteration:
            self._is_over = True
            return None
        except Exception as error:  # noqa: BLE001 - the source's own error, raised when the jobs have ended
            self._is_over, self.error = True, error
            return None
        self.pulled += 1
        return self.pulled - 1, record
