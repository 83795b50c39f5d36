"""Stages that may have to wait: jobs of a pipeline, and records made many from one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Protocol

from sage.clock import Clock
from sage.errors import InputError
from sage.graph.values import Record
from sage.runtime.base import JobFailure
from sage.runtime.feed import InOrder, Sink, placed
from sage.runtime.options import MAX_INFLIGHT
from sage.stream.calls import function_name, reading
from sage.stream.specs import FlatMap, Through
from sage.stream.stages import CHUNK, Gate, Host, Inbox, Items, Stage, room

__all__ = ["Feed", "FlatMapStage", "ThroughStage", "WaitingStage"]

YIELD_S = 0.002  # records that never wait let others run this often


class Feed(Protocol):
    """The session, as a stage of jobs sees it."""

    async def feed(self, spec: Through, records: AsyncIterable[Record], sink: Sink) -> None:
        """Take records through the stage's pipeline, many at once, and put the results into a sink."""

    async def straight(self, spec: Through) -> Callable[[Record], Record | JobFailure] | None:
        """Runs a record through the stage's pipeline at once; None: it may have to wait."""

    @property
    def clock(self) -> Clock:
        """Seconds."""


class WaitingStage(Stage):
    """Takes records into an inbox and deals with them in a task of its own."""

    def __init__(self, name: str, host: Host, limit: int) -> None:
        super().__init__(name, host)
        self._inbox = Inbox(limit)

    @property
    def pending(self) -> int:
        """How much is kept."""
        return self._inbox.num_records

    def inlets(self, _number: int, /) -> list[Gate]:
        """What has to have room before records may come in here."""
        return [self._inbox]

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        self.taken += len(items)
        self._inbox.put(items)
        self.most_pending = max(self.most_pending, self._inbox.num_records)

    def end(self, _number: int, /) -> None:
        """An input has ended."""
        self._inbox.end()

    async def work(self) -> None:
        """Deal with what comes, until nothing more does."""
        raise NotImplementedError


class ThroughStage(WaitingStage):
    """See ``Through``. It is the sink of its pipeline's jobs."""

    def __init__(self, name: str, host: Host, spec: Through, feed: Feed, max_inflight: int | None) -> None:
        limit = spec.max_inflight or max_inflight or MAX_INFLIGHT
        super().__init__(name, host, max(limit, MAX_INFLIGHT))
        self._spec = spec
        self._feed = feed
        self._sink = InOrder(self, 2 * limit) if spec.ordered else self
        self._gates: list[Gate] = []
        self.num_done = 0

    async def work(self) -> None:
        """Deal with what comes, until nothing more does."""
        self._gates = self.outlets()
        carry = await self._feed.straight(self._spec)
        if carry is None:
            await self._feed.feed(self._spec, self._records(), self._sink)
        else:
            await self._run_straight(carry)
        self.close()

    async def _run_straight(self, carry: Callable[[Record], Record | JobFailure]) -> None:
        """Jobs that never wait: one after the other, handed on together."""
        clock = self._feed.clock
        while (items := await self._inbox.next()) is not None:
            done: Items = []
            until = clock() + YIELD_S
            for record in items:
                if self._is_over:
                    break
                result = placed(carry(record), self.num_done)
                self.num_done += 1
                if isinstance(result, JobFailure):
                    self.failed += 1
                    self.host.failed(result)
                else:
                    done.append(result)
                if clock() > until:
                    await self._hand_on(done)
                    done, until = [], clock() + YIELD_S
            await self._hand_on(done)

    async def _hand_on(self, done: Items) -> None:
        if done:
            self.give(done)
        await asyncio.sleep(0)
        await room(self._gates)

    async def _records(self) -> AsyncIterator[Record]:
        while (items := await self._inbox.next()) is not None:
            for record in items:
                if self._is_over:
                    return
                yield record

    @property
    def _is_over(self) -> bool:
        return self.is_done or self.host.is_stopped

    def put(self, _index: int, result: Record | JobFailure) -> bool:
        """Hand a job's result on."""
        self.num_done += 1
        if isinstance(result, JobFailure):
            self.failed += 1
            self.host.failed(result)
        else:
            self.give([result])
        return not any(gate.is_full for gate in self._gates)

    async def room(self) -> None:
        """Wait until what reads the results has room."""
        await room(self._gates)

    def release(self) -> None:
        """Hand on results that are held back for others that do not come any more."""
        if isinstance(self._sink, InOrder):
            self._sink.release()

    def finish(self) -> None:
        """Count what was taken for nothing, because no one wants more."""
        self.dropped = self.taken - self.num_done

    def abandon(self) -> None:
        """Count the records that are still held, for they go no further."""
        self.unfinished = self.taken - self.num_done


class FlatMapStage(WaitingStage):
    """See ``FlatMap``."""

    def __init__(self, name: str, host: Host, spec: FlatMap) -> None:
        super().__init__(name, host, 2 * CHUNK)
        self._call = reading(spec.function, name, may_stream=True)
        self._shown = function_name(spec.function)
        self._num_done = 0
        self._gates: list[Gate] = []

    async def work(self) -> None:
        """Deal with what comes, until nothing more does."""
        self._gates = self.outlets()
        while (items := await self._inbox.next()) is not None:
            out: Items = []
            for record in items:
                if self.is_done:
                    break
                out = await self._spread(record, out)
                self._num_done += 1
            await self._hand_on(out)
        self.close()

    async def _spread(self, record: Record, out: Items) -> Items:
        """Add what a record becomes, handing on whenever it is enough; what is left over.

        Only the function and its generator may fail the record; what goes wrong further down stops the stream.
        """
        place = self._num_done
        try:
            made = self._call(record)
            pieces, is_async = self._pieces(made), isinstance(made, AsyncIterable)
        except Exception as error:  # noqa: BLE001 - the user's function; the record fails alone
            self.fail(record, error, place)
            return out
        while True:
            try:
                item = self._checked(await anext(pieces) if is_async else next(pieces))
            except (StopIteration, StopAsyncIteration):
                return out
            except Exception as error:  # noqa: BLE001 - the user's generator; the record fails alone
                self.fail(record, error, place)
                return out
            out.append(item)
            if is_async or len(out) >= CHUNK:
                await self._hand_on(out)
                out = []
                if self.is_done:
                    return out

    def _pieces(self, made: Any) -> Any:
        if isinstance(made, AsyncIterable):
            return aiter(made)
        if isinstance(made, Mapping | str) or not isinstance(made, Iterable):
            raise InputError(f"{self._shown!r} gave {made!r:.60}, expected a list of records or a generator")
        return iter(made)

    def _checked(self, item: Any) -> Record:
        if type(item) is dict:
            return item
        if isinstance(item, Mapping):
            return dict(item)
        raise InputError(f"{self._shown!r} gave {item!r:.60} among its records, expected a mapping")

    async def _hand_on(self, out: Items) -> None:
        if out:
            self.give(out)
            await asyncio.sleep(0)  # a generator that never waits lets others run
            await room(self._gates)

    def finish(self) -> None:
        """Count what was taken for nothing, because no one wants more."""
        self.dropped = self.taken - self._num_done

    def abandon(self) -> None:
        """Count the records that are still held, for they go no further."""
        self.unfinished = self.taken - self._num_done
