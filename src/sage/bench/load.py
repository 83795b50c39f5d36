"""The load generator: requests handed over by a schedule, each remembered with the moment it was due.

Two kinds of load. An open loop sends each request at its time, however many are under way; a closed loop has so many
clients, each of which sends its next request when its last has ended. Warm-up requests come first and are followed
by the counted ones without a pause, so that those meet a system under load.

What is loaded is an engine (``EngineSender``), called directly, once per request: no retries, no scheduler, no equal
calls made once; or a pipeline in a session (``PipelineSender``), with all that SAGE does to a job. Both leave the same
kind of event log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from sage.clock import Clock
from sage.engines.base import Engine, GenerateRequest, Piece, Reply
from sage.errors import EngineError, SageError
from sage.events import JobEnded, Outcome, PipelineSeen, TaskEnded
from sage.pipeline import Pipeline
from sage.runtime.runs import EventLog
from sage.session import Session
from sage.tasks import spawn

__all__ = ["Due", "EngineSender", "GoneError", "PipelineSender", "Send", "closed_load", "open_load"]

PIPELINE = "serve"
STEP = "answer"
POOL = "llm"

#: A server that could not be reached so many times in a row, for every request at once, is gone.
GONE_AFTER = 20

#: An open loop that is late lets others run once in so many requests.
TURNS = 16

W = TypeVar("W")


class Due(msgspec.Struct, Generic[W], frozen=True):
    """A request whose time has come."""

    scheduled: float  # seconds on the load's clock
    work: W
    warmup: bool = False


class GoneError(Exception):
    """The server went away in the middle; what happened until then is in the log."""


#: Hands a request over and waits for its end; when that was, by the load's clock. Raises for no request that fails,
#: but ``GoneError`` when there is no use in sending more.
Send = Callable[[Due[W]], Awaitable[float]]


async def open_load(
    times: Sequence[float],
    work: Iterator[W],
    send: Send[W],
    clock: Clock,
    *,
    began: float,
    warmups: int = 0,
) -> None:
    """Send each request at its time; ends with the last.

    Args:
        times: seconds from ``began``, never falling.
        work: what each sends.
        send: takes it to its end.
        clock: of the event loop.
        began: when the first second began, by the clock.
        warmups: how many of the first requests are not counted.
    """
    async with asyncio.TaskGroup() as group:
        for number, (at_s, item) in enumerate(zip(times, work, strict=False)):
            wait_s = began + at_s - clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif number % TURNS == 0:
                await asyncio.sleep(0)
            spawn(group, _sent(send, Due(began + at_s, item, number < warmups)))


async def closed_load(
    work: Iterator[W],
    send: Send[W],
    clock: Clock,
    *,
    clients: int,
    think_s: float = 0.0,
    warmups: int = 0,
) -> None:
    """Send requests one after the other for each client; ends with the last.

    A request is due when its client's last one ended, and the client has thought.
    """
    numbered = enumerate(work)

    async def client() -> None:
        free = clock()
        for number, item in numbered:
            free = await send(Due(free, item, number < warmups)) + think_s
            if think_s > 0:
                await asyncio.sleep(free - clock())

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            spawn(group, client())


async def _sent(send: Send[W], due: Due[W]) -> None:
    await send(due)


class EngineSender:
    """Calls an engine, and writes down what came of each call as a run of a one-step pipeline would.

    Args:
        engine: what answers.
        log: where events go.
        clock: monotonic seconds.
        began: by this clock, the zero of the log.
        slots: calls at once; further ones wait here, in the order they came. None: no limit.
        key: the start of the idempotency key of each request; None sends none.
        on_end: told how each request ended.

    Attributes:
        sent: what was handed over, in the order of the numbers of its jobs in the log.
    """

    def __init__(
        self,
        engine: Engine,
        log: EventLog,
        clock: Clock,
        *,
        began: float,
        slots: int | None = None,
        key: str | None = None,
        on_end: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.sent: list[Due[GenerateRequest]] = []
        self._engine = engine
        self._log = log
        self._clock = clock
        self._began = began
        self._slots = asyncio.Semaphore(slots) if slots is not None else None
        self._key = key
        self._on_end = on_end
        self._under_way = 0
        self._unreachable = 0  # calls in a row that did not reach the server
        self._gone_since = 0.0
        log.append(PipelineSeen(clock() - began, PIPELINE, (STEP,), ("generate",), ((),)))

    async def send(self, due: Due[GenerateRequest]) -> float:
        """Make the call of one request."""
        number, handed = len(self.sent), self._clock()
        self.sent.append(due)
        call = _Call(number, handed, self._clock)
        request = due.work
        if self._key is not None:
            request = msgspec.structs.replace(request, idempotency_key=f"{self._key}-{number}")
        self._under_way += 1
        try:
            if self._slots is None:
                await call.make(self._engine, request)
            else:
                async with self._slots:
                    await call.make(self._engine, request)
        finally:
            self._under_way -= 1
            self._write(call)
        self._watch(call)
        return call.ended

    def _write(self, call: _Call) -> None:
        began, end = self._began, call.ended or self._clock()
        t, handed = end - began, call.handed - began
        if call.dispatched is not None:
            self._log.append(call.event(began, t, self._engine.info.address))
        self._log.append(
            JobEnded(
                t,
                call.number,
                PIPELINE,
                call.outcome,
                handed,
                handed,
                (handed, t if call.outcome == "done" else None),
                step=STEP if call.error is not None else None,
                error=call.error,
            )
        )
        if self._on_end is not None:
            self._on_end(call.outcome)

    def _watch(self, call: _Call) -> None:
        """Stop when the server is gone: going on would only count refusals."""
        if call.error != "unreachable":
            self._unreachable = 0
            return
        if not self._unreachable:
            self._gone_since = call.ended - self._began
        self._unreachable += 1
        if self._unreachable >= GONE_AFTER + self._under_way:
            raise GoneError(
                f"the server is gone: {self._unreachable} requests in a row could not reach it, the first "
                f"{self._gone_since:.1f} s after the beginning; the load was stopped there"
            )


class _Call:
    """One call while it is made, and what came of it."""

    __slots__ = (
        "_clock",
        "counts",
        "dispatched",
        "ended",
        "error",
        "handed",
        "number",
        "outcome",
        "pieces",
        "reply",
    )

    def __init__(self, number: int, handed: float, clock: Clock) -> None:
        self.number = number
        self.handed = handed
        self.dispatched: float | None = None
        self.ended = 0.0  # 0: it has not
        self.pieces: list[float] = []
        self.counts: list[int] = []
        self.reply: Reply | None = None
        self.outcome: Literal["done", "failed", "cancelled"] = "cancelled"
        self.error: str | None = None
        self._clock = clock

    async def make(self, engine: Engine, request: GenerateRequest) -> None:
        clock, pieces, counts = self._clock, self.pieces, self.counts

        def emit(piece: Piece) -> None:
            pieces.append(clock())
            if piece.tokens is not None:
                counts.append(piece.tokens)

        self.dispatched = clock()
        try:
            self.reply = await engine.generate(request, emit)
            self.outcome = "done"
        except EngineError as error:
            self.outcome = "failed"
            self.error = error.fault if error.status is None else f"{error.fault} {error.status}"
        finally:
            self.ended = clock()

    def event(self, began: float, t: float, endpoint: str) -> TaskEnded:
        assert self.dispatched is not None
        pieces = tuple([moment - began for moment in self.pieces])
        if self.reply is None:
            prompt_tokens = completion_tokens = cached_tokens = 0
            counted_by = ""
        else:
            usage = self.reply.usage
            prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
            cached_tokens, counted_by = usage.cached_tokens, usage.counted_by
        return TaskEnded(
            t,
            self.number,
            STEP,
            POOL,
            endpoint,
            self.outcome,
            self.handed - began,
            self.dispatched - began,
            pieces[0] if pieces else None,
            1,
            1,
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            counted_by,
            pieces,
            tuple(self.counts) if len(self.counts) == len(pieces) else (),
            self.error,
        )


class PipelineSender:
    """Hands records to a session as jobs of one pipeline. The session writes the log.

    Args:
        session: open, recording, and used for nothing else.
        pipeline: what every record goes through.
        clock: that of the session.
        options: of every job, as for ``Session.call``.
        on_end: told how each request ended.

    Attributes:
        sent: what was handed over, in the order of the numbers of its jobs in the log.
    """

    def __init__(
        self,
        session: Session,
        pipeline: Pipeline,
        clock: Clock,
        *,
        options: Mapping[str, Any] | None = None,
        on_end: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.sent: list[Due[dict[str, Any]]] = []
        self._call: Callable[..., Awaitable[Any]] = session.call
        self._pipeline = pipeline
        self._clock = clock
        self._options = dict(options or {})
        self._on_end = on_end

    async def send(self, due: Due[dict[str, Any]]) -> float:
        """Run one job."""
        self.sent.append(due)
        outcome: Outcome = "cancelled"
        try:
            await self._call(self._pipeline, due.work, **self._options)
            outcome = "done"
        except SageError:
            outcome = "failed"  # or rejected: the log says
        finally:
            if self._on_end is not None:
                self._on_end(outcome)
        return self._clock()
