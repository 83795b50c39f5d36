"""One call to an endpoint, from the scheduler's Start to its end: answered, failed, timed out or aborted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from sage.clock import Clock
from sage.engines.base import (
    CallsBack,
    EmbedReply,
    EmbedRequest,
    Emit,
    Ended,
    GenerateRequest,
    Piece,
    Reply,
    Usage,
    ignore_pieces,
)
from sage.errors import EngineError, InternalError, SageError
from sage.events import TaskEnded
from sage.ops.base import Compute, Embed, Generate
from sage.runtime.base import Token
from sage.runtime.endpoints import Endpoints
from sage.runtime.pending import Pending, fault_of
from sage.runtime.slots import Outcome
from sage.scheduling.messages import Event, Start, TaskDone, TaskFailed

__all__ = ["Dispatch"]

DEFAULT_ATTEMPTS = 3  # R13
LOST_ATTEMPTS = 8  # of a task whose worker keeps dying under it: then it is the task that kills

NOTHING = Usage()

Begin = Callable[[GenerateRequest, Emit, Ended], Callable[[], None]]


class Dispatch:
    """Makes calls, and settles every task in them, whatever happens.

    Args:
        endpoints: answer.
        clock: monotonic seconds.
        group: owns the tasks of running calls.
        tell: tells the scheduler of an event and carries out what it commands.
        broken: told of an error that nobody awaits.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        clock: Clock,
        group: asyncio.TaskGroup,
        tell: Callable[[Event], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._group = group
        self._tell = tell
        self._broken = broken
        self._begins: dict[str, Begin | None] = {}  # of the endpoints that call back

    def start(self, command: Start, together: list[Pending]) -> None:
        """Make one call for all these tasks."""
        now, endpoint = self._clock(), command.endpoint
        for pending in together:
            pending.endpoint, pending.dispatched = endpoint, now
            if pending.attempt > 1:
                pending.first, pending.error = None, None
                pending.pieces = pending.piece_tokens = ()
        node, request = together[0].node, together[0].request
        if isinstance(node.work, Compute):
            self._compute(together, endpoint)
            return
        if isinstance(request, GenerateRequest) and node.planned.step.timeout_s is None:
            begin = self._begin_of(endpoint)
            if begin is not None:
                (pending,) = together
                pending.call = begin(request, self._emitter(pending), partial(self._ended, pending))
                return
        call = self._group.create_task(self._call(together, endpoint))
        for pending in together:
            pending.call = call
            pending.together = together

    async def abort(self, pending: Pending) -> None:
        """Stop a task's call, unless it goes on for others; returns when it has ended."""
        call = pending.call
        if isinstance(call, asyncio.Task):
            if all(
                other.answer.cancelled()
                for other in pending.together
                if other.call is call and other is not pending
            ):
                await _end(call)
        elif call is not None:
            call()
        self._settle_failed([pending], None)  # where the call never began, or goes on for others

    def _compute(self, together: list[Pending], endpoint: str) -> None:
        """Have a function called; it is stopped once nobody of these waits any more."""
        jobs = [pending.job for pending in together]
        stop = self._endpoints.slots.begin(
            endpoint, together[0].node, jobs, partial(self._computed, together)
        )
        waiting = len(together)

        def abort() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                stop()

        for pending in together:
            pending.call = abort

    def _computed(self, together: list[Pending], outcomes: list[Outcome] | EngineError) -> None:
        """A function was called. Nobody awaits this either."""
        try:
            if isinstance(outcomes, EngineError):
                if len(together) > 1 and not outcomes.retryable:  # one bad record fails alone
                    for pending in together:
                        if pending.call is not None:
                            self._compute([pending], pending.endpoint)
                else:
                    self._settle_failed(together, outcomes)
                return
            for pending, (value, error) in zip(together, outcomes, strict=True):
                if error is None:
                    self._settle_done(pending, value, NOTHING, batch=len(together))
                elif isinstance(error, EngineError) and error.fault == "lost":
                    self._settle_failed([pending], error)
                else:
                    self._settle_raised(pending, error)
        except Exception as error:  # noqa: BLE001 - a broken scheduler must not leave jobs waiting for ever
            self._broken(error)

    def _begin_of(self, endpoint: str) -> Begin | None:
        """How calls to an endpoint begin without a task; None: they need one."""
        if endpoint not in self._begins:
            engine = self._endpoints.engine(endpoint)
            self._begins[endpoint] = engine.begin if isinstance(engine, CallsBack) else None
        return self._begins[endpoint]

    def _ended(self, pending: Pending, outcome: Reply | EngineError) -> None:
        """An engine called back. Nobody awaits this, so what goes wrong here goes to everyone who waits."""
        try:
            if isinstance(outcome, Reply):
                self._settle_done(pending, outcome, outcome.usage)
            else:
                self._settle_failed([pending], outcome)
        except Exception as error:  # noqa: BLE001 - a broken scheduler must not leave jobs waiting for ever
            self._broken(error)

    async def _call(self, together: list[Pending], endpoint: str) -> None:
        try:
            await self._call_together(together, endpoint)
        except asyncio.CancelledError:
            self._settle_failed(together, None)
            raise
        except Exception as error:  # noqa: BLE001 - a call's edge: an engine's bug fails its tasks, not the session
            wrong = InternalError(f"endpoint {endpoint!r} raised {type(error).__name__}: {error}")
            wrong.__cause__ = error
            self._settle_failed(together, wrong)

    async def _call_together(self, together: list[Pending], endpoint: str) -> None:
        limit_s = _time_limit(together)
        try:
            if limit_s is None:
                await self._call_once(together, endpoint)
            else:
                async with asyncio.timeout(limit_s):
                    await self._call_once(together, endpoint)
        except TimeoutError:
            seen = together[0].first is not None
            self._settle_failed(
                together,
                EngineError(
                    f"{endpoint}: no complete answer within the step's timeout of {limit_s} s",
                    fault="stalled" if seen else "timeout",
                ),
            )
        except EngineError as error:
            if len(together) > 1 and not error.retryable:
                for pending in together:  # one bad input fails alone
                    await self._call_together([pending], endpoint)
            else:
                self._settle_failed(together, error)

    async def _call_once(self, together: list[Pending], endpoint: str) -> None:
        pending = together[0]
        work = pending.node.work
        if isinstance(work, Embed):
            await self._embed(together, endpoint)
        else:
            assert isinstance(work, Generate)
            assert isinstance(pending.request, GenerateRequest)
            engine = self._endpoints.engine(endpoint)
            request = pending.request
            if request.idempotency_key is None:
                request = msgspec.structs.replace(request, idempotency_key=_key_of(pending))
            reply = await engine.generate(request, self._emitter(pending))
            self._settle_done(pending, reply, reply.usage)

    async def _embed(self, together: list[Pending], endpoint: str) -> None:
        texts: list[str] = []
        for pending in together:
            assert isinstance(pending.request, tuple)
            texts += pending.request
        reply: EmbedReply = await self._endpoints.engine(endpoint).embed(
            EmbedRequest(
                texts=tuple(texts), idempotency_key=_key_of(together[0]) if len(together) == 1 else None
            )
        )
        start = 0
        for pending in together:
            assert isinstance(pending.request, tuple)
            rows = reply.vectors[start : start + len(pending.request)]
            start += len(pending.request)
            share = reply.usage.prompt_tokens * len(pending.request) // max(1, len(texts))
            usage = Usage(prompt_tokens=share, counted_by=reply.usage.counted_by)
            self._settle_done(pending, EmbedReply(rows, usage), usage, batch=len(together))

    def _emitter(self, pending: Pending) -> Emit:
        job, node = pending.job, pending.node
        listen, pipe = job.listen, job.pipes.get(node.name) if job.pipes else None
        if listen is None and pipe is None and job.run.log is None and node.planned.step.timeout_s is None:
            return ignore_pieces
        clock, step = self._clock, pending.step
        pieces: list[float] = []
        counts: list[int] = []
        pending.pieces, pending.piece_tokens = pieces, counts

        def emit(piece: Piece) -> None:
            now = clock()
            if pending.first is None:
                pending.first = now
            pieces.append(now)
            if piece.tokens is not None:
                counts.append(piece.tokens)
            if pipe is not None and piece.channel == "text":
                pipe.put(piece.text)
            if listen is not None and piece.channel == "text":
                listen(Token(step, piece.text))

        return emit

    # How it ended

    def _settle_done(self, pending: Pending, value: Any, usage: Usage, batch: int = 1) -> None:
        if pending.call is None:  # abandoned while others of its batch went on
            return
        pending.call = None
        run = pending.job.run
        run.spent_tokens += usage.prompt_tokens + usage.completion_tokens
        if run.log is not None:
            self._log(pending, "done", usage, batch)
        self._tell(TaskDone(pending.id, usage.prompt_tokens, usage.completion_tokens))
        if not pending.answer.done():
            pending.answer.set_result(value)

    def _settle_raised(self, pending: Pending, error: Exception) -> None:
        """The call itself went well, but what came of it is an error: no retry by the scheduler."""
        if pending.call is None:  # abandoned while others of its batch went on
            return
        pending.call = None
        self._log(pending, "failed", NOTHING, 1, error)
        self._tell(TaskDone(pending.id))
        if not pending.answer.done():
            pending.answer.set_exception(error)

    def _settle_failed(self, together: Sequence[Pending], error: SageError | None) -> None:
        """Every task of a call that failed (or was cancelled: None) and is not settled yet."""
        for pending in together:
            if pending.call is None:
                continue
            pending.call = None
            pending.error = error
            self._log(pending, "cancelled" if error is None else "failed", NOTHING, len(together), error)
            if isinstance(error, EngineError):
                told = TaskFailed(
                    pending.id,
                    fault=error.fault,
                    retry_after_s=error.retry_after_s,
                    seen_tokens=pending.is_seen and pending.first is not None,
                    attempts_allowed=LOST_ATTEMPTS
                    if error.fault == "lost"
                    else pending.node.planned.step.attempts or DEFAULT_ATTEMPTS,
                )
            else:
                told = TaskFailed(pending.id)
            self._tell(told)

    def _log(
        self,
        pending: Pending,
        outcome: Literal["done", "failed", "cancelled"],
        usage: Usage,
        batch: int,
        error: Exception | None = None,
    ) -> None:
        run = pending.job.run
        if run.log is None:
            return
        began = run.began
        run.log.append(
            TaskEnded(
                t=self._clock() - began,
                job=pending.job.index,
                step=pending.step,
                pool=pending.node.planned.step.pool or "",
                endpoint=pending.endpoint,
                outcome=outcome,
                ready=pending.ready - began,
                dispatched=pending.dispatched - began,
                first=None if pending.first is None else pending.first - began,
                attempt=pending.attempt,
                batch=batch,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                usage_from=usage.counted_by,
                pieces=tuple([moment - began for moment in pending.pieces]),
                piece_tokens=_if_aligned(pending.piece_tokens, pending.pieces),
                error=None if error is None else fault_of(error),
                why=pending.why,
            )
        )


def _key_of(pending: Pending) -> str:
    """The same for every attempt of one task, so that a server that remembers does its work once."""
    return f"{pending.job.run.id}-{pending.id}"


def _if_aligned(counts: Sequence[int], pieces: Sequence[float]) -> tuple[int, ...]:
    """Token counts of pieces, where every piece has one."""
    return tuple(counts) if len(counts) == len(pieces) else ()


async def _end(call: asyncio.Task[None]) -> None:
    """Cancel a call and wait until it has ended, however often the waiting itself is cancelled."""
    call.cancel()
    while not call.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([call])


def _time_limit(together: Sequence[Pending]) -> float | None:
    """The steps' own timeout for one attempt; of several, the longest, and none if one has none."""
    limits = [pending.node.planned.step.timeout_s for pending in together]
    return None if None in limits else max(limit for limit in limits if limit is not None)
