"""Endpoint-bound steps: a task for the scheduler, a call when it says so, the answer back to the job."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from sage.clock import Clock
from sage.engines.base import EmbedReply, EmbedRequest, GenerateRequest, Piece, Reply, Usage
from sage.errors import EngineError, InternalError, SageError
from sage.events import EndpointSwitched, TaskEnded, TaskRetried, TaskReused, Why
from sage.graph.fields import getter
from sage.ops.base import Compute, Embed, Generate
from sage.runtime.base import Job, Token
from sage.runtime.endpoints import Endpoints
from sage.runtime.program import Node
from sage.runtime.reuse import Reuse, is_settled, key_of
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import (
    Command,
    EndpointChanged,
    Event,
    GiveUp,
    Retry,
    Start,
    TaskDone,
    TaskDropped,
    TaskFailed,
    TaskReady,
    Tick,
    WakeAt,
)
from sage.scheduling.views import BatchLimits, TaskKind, TaskView

__all__ = ["Calls"]

CHARS_PER_TOKEN = 4  # to estimate a prompt's size before the engine has counted it
DEFAULT_ATTEMPTS = 3  # R13


#: What is asked: of an engine, or of a compute function by its arguments.
Request = GenerateRequest | tuple[str, ...] | dict[str, Any] | None


@dataclass(slots=True, eq=False)
class Pending:
    """A task the scheduler knows of, until its value is there or it is given up."""

    id: int
    job: Job
    node: Node
    request: Request
    ready: float
    answer: asyncio.Future[Any]
    call: asyncio.Task[None] | None = None  # while it runs
    attempt: int = 1
    endpoint: str = ""
    dispatched: float = 0.0
    first: float | None = None
    pieces: list[float] = field(default_factory=list)
    piece_tokens: list[int] = field(default_factory=list)
    error: SageError | None = None  # of the latest attempt
    why: Why | None = None  # the decision that started it, where it is recorded


class Calls:
    """The way between jobs, scheduler and endpoints. Everything happens on one event loop.

    Args:
        scheduler: decides.
        endpoints: answer.
        reuse: remembers answers.
        clock: monotonic seconds.
        group: owns the tasks of running calls.
    """

    def __init__(
        self, scheduler: Scheduler, endpoints: Endpoints, reuse: Reuse, clock: Clock, group: asyncio.TaskGroup
    ) -> None:
        self._scheduler = scheduler
        self._endpoints = endpoints
        self._reuse = reuse
        self._clock = clock
        self._group = group
        self._ids = itertools.count()
        self._pending: dict[int, Pending] = {}
        self._carry_out: dict[type[Command], Callable[[Any], None]] = {
            Start: self._start,
            Retry: self._retry,
            GiveUp: self._give_up,
            EndpointChanged: self._endpoint_changed,
            WakeAt: self._wake_at,
        }

    def held(self, job: int) -> tuple[tuple[str, float], ...]:
        """What kept a job outside, each with the time from when on."""
        return self._scheduler.held(job)

    def on(self, command: type[Command], carry_out: Callable[[Any], None]) -> None:
        """Say who carries out a kind of command."""
        self._carry_out[command] = carry_out

    def tell(self, event: Event) -> None:
        """Tell the scheduler what happened and carry out what it commands."""
        for command in self._scheduler.handle(event, self._clock()):
            self._carry_out[type(command)](command)

    async def make(self, job: Job, node: Node, number: int = 0) -> Any:
        """The value of an endpoint-bound step; ``number`` tells several answers to one request apart.

        Cancelling drops the task or aborts its call.

        Raises:
            EngineError: after the last attempt. Whatever a compute function raises.
        """
        request, single = _request(job, node)
        if number and isinstance(request, GenerateRequest) and request.seed is not None:
            request = msgspec.structs.replace(request, seed=request.seed + number)
        where = node.planned.step.reuse
        settled = is_settled(request)
        is_seen = job.listen is not None or node.name in job.pipes
        if where is None and (is_seen or not settled):
            answer = await self._ask(job, node, request)
        else:
            key = key_of(self._model(node), request)
            answer, source = await self._reuse.get(
                key,
                where,
                lambda: self._ask(job, node, request),
                joins=settled and not is_seen,
            )
            if source is not None:
                self._reused(job, node, source, answer)
        if isinstance(node.work, Generate):
            return node.work.value(answer)
        if isinstance(node.work, Embed):
            return answer.vectors[0] if single else answer.vectors
        return answer

    async def _ask(self, job: Job, node: Node, request: Request) -> Any:
        """The answer to a call that is really made: a Reply, an EmbedReply, or a compute function's value."""
        job.run.check_budget()
        answer = asyncio.get_running_loop().create_future()
        pending = Pending(next(self._ids), job, node, request, self._clock(), answer)
        self._pending[pending.id] = pending
        try:
            self.tell(TaskReady(self._view(pending)))
            return await pending.answer
        except asyncio.CancelledError:
            await self._abandon(pending)
            raise
        finally:
            self._pending.pop(pending.id, None)

    def _model(self, node: Node) -> str:
        """What answers, as far as it decides the answer."""
        pool = node.planned.step.pool
        assert pool is not None
        if isinstance(node.work, Compute):
            function = node.planned.step.function
            return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
        info = self._endpoints.info(pool)
        return info.fingerprint or f"{pool} {info.model}"

    def _reused(self, job: Job, node: Node, source: Literal["memory", "disk", "flight"], answer: Any) -> None:
        if job.run.log is not None:
            t = self._clock() - job.run.began
            job.run.log.append(TaskReused(t, job.index, job.shown(node.name), source))
        if job.listen is not None and isinstance(answer, Reply):
            job.listen(Token(job.shown(node.name), answer.text))

    def _view(self, pending: Pending) -> TaskView:
        job, node, request = pending.job, pending.node, pending.request
        step = node.planned.step
        assert step.pool is not None
        kind: TaskKind = "compute"
        chars = max_out = 0
        batch_key = None
        if isinstance(request, GenerateRequest):
            kind = "generate"
            chars = sum(len(message.content) for message in request.messages)
            max_out = request.max_tokens
        elif isinstance(request, tuple):
            kind = "embed"
            chars = sum(map(len, request))
            batch_key = step.pool if step.batch is None else f"{step.pool}/{step.batch}"
        return TaskView(
            id=pending.id,
            job=job.id,
            step=job.shown(node.name),
            pipeline=job.program.plan.name,
            pool=step.pool,
            kind=kind,
            arrived=job.arrived,
            ready=pending.ready,
            tenant=job.tenant,
            priority=job.priority,
            deadline=job.deadline,
            in_tokens=chars // CHARS_PER_TOKEN,
            max_out_tokens=max_out,
            batch_key=batch_key,
            batch=None
            if step.batch is None
            else BatchLimits(step.batch.max_items, max_wait_s=step.batch.max_wait_ms / 1000),
            remaining_steps=node.remaining_steps + len(job.path_after),
            path=node.path + job.path_after,
            prefix_key=_prefix_key(job, node, request),
        )

    def _start(self, command: Start) -> None:
        together = [self._pending[task] for task in command.tasks]
        now = self._clock()
        for pending in together:
            pending.endpoint, pending.dispatched = command.endpoint, now
            pending.first, pending.error = None, None
            pending.pieces.clear()
            pending.piece_tokens.clear()
            if pending.job.run.log is not None:
                pending.why = self._scheduler.why(pending.id)
        call = self._group.create_task(self._call(together, command.endpoint))
        for pending in together:
            pending.call = call

    async def _call(self, together: list[Pending], endpoint: str) -> None:
        """Make one call and settle every task in it, whatever happens."""
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
        work = together[0].node.work
        try:
            async with asyncio.timeout(_time_limit(together)):
                if isinstance(work, Embed):
                    await self._embed(together, endpoint)
                else:
                    await self._call_one(together[0], endpoint)
        except TimeoutError:
            limit = _time_limit(together)
            seen = together[0].first is not None
            self._settle_failed(
                together,
                EngineError(
                    f"{endpoint}: no complete answer within the step's timeout of {limit} s",
                    fault="stalled" if seen else "timeout",
                ),
            )
        except EngineError as error:
            if len(together) > 1 and not error.retryable:
                for pending in together:  # one bad input fails alone
                    await self._call_together([pending], endpoint)
            else:
                self._settle_failed(together, error)

    async def _call_one(self, pending: Pending, endpoint: str) -> None:
        work = pending.node.work
        if isinstance(work, Compute):
            try:
                value = await self._endpoints.compute(endpoint, work.call, pending.job.record)
            except Exception as error:  # noqa: BLE001 - the user's function failed, not the endpoint
                self._settle_raised(pending, error)
            else:
                self._settle_done(pending, value, Usage())
            return
        assert isinstance(work, Generate)
        assert isinstance(pending.request, GenerateRequest)
        engine = self._endpoints.engine(endpoint)
        reply = await engine.generate(pending.request, self._emitter(pending))
        self._settle_done(pending, reply, reply.usage)

    async def _embed(self, together: list[Pending], endpoint: str) -> None:
        texts: list[str] = []
        for pending in together:
            assert isinstance(pending.request, tuple)
            texts += pending.request
        reply: EmbedReply = await self._endpoints.engine(endpoint).embed(EmbedRequest(texts=tuple(texts)))
        start = 0
        for pending in together:
            assert isinstance(pending.request, tuple)
            rows = reply.vectors[start : start + len(pending.request)]
            start += len(pending.request)
            share = reply.usage.prompt_tokens * len(pending.request) // max(1, len(texts))
            usage = Usage(prompt_tokens=share, counted_by=reply.usage.counted_by)
            self._settle_done(pending, EmbedReply(rows, usage), usage, batch=len(together))

    def _emitter(self, pending: Pending) -> Callable[[Piece], None]:
        clock, pieces = self._clock, pending.pieces
        pipe = pending.job.pipes.get(pending.node.name)
        listen, step = pending.job.listen, pending.job.shown(pending.node.name)

        def emit(piece: Piece) -> None:
            now = clock()
            if pending.first is None:
                pending.first = now
            pieces.append(now)
            if piece.tokens is not None:
                pending.piece_tokens.append(piece.tokens)
            if pipe is not None and piece.channel == "text":
                pipe.put(piece.text)
            if listen is not None and piece.channel == "text":
                listen(Token(step, piece.text))

        return emit

    def _settle_done(self, pending: Pending, value: Any, usage: Usage, batch: int = 1) -> None:
        if pending.call is None:  # abandoned while others of its batch went on
            return
        pending.call = None
        pending.job.run.spent_tokens += usage.prompt_tokens + usage.completion_tokens
        self._log(pending, "done", usage, batch)
        self.tell(TaskDone(pending.id, usage.prompt_tokens, usage.completion_tokens))
        if not pending.answer.done():
            pending.answer.set_result(value)

    def _settle_raised(self, pending: Pending, error: Exception) -> None:
        """The call itself went well, but what came of it is an error: no retry by the scheduler."""
        pending.call = None
        self._log(pending, "failed", Usage(), 1, error)
        self.tell(TaskDone(pending.id))
        if not pending.answer.done():
            pending.answer.set_exception(error)

    def _settle_failed(self, together: Sequence[Pending], error: SageError | None) -> None:
        """Every task of a call that failed (or was cancelled: None) and is not settled yet."""
        for pending in together:
            if pending.call is None:
                continue
            pending.call = None
            pending.error = error
            self._log(pending, "cancelled" if error is None else "failed", Usage(), len(together), error)
            is_seen = pending.job.listen is not None or pending.node.name in pending.job.pipes
            if isinstance(error, EngineError):
                told = TaskFailed(
                    pending.id,
                    fault=error.fault,
                    retry_after_s=error.retry_after_s,
                    seen_tokens=is_seen and pending.first is not None,
                    attempts_allowed=pending.node.planned.step.attempts or DEFAULT_ATTEMPTS,
                )
            else:
                told = TaskFailed(pending.id)
            self.tell(told)

    def _retry(self, command: Retry) -> None:
        pending = self._pending[command.task]
        pending.attempt = command.attempt + 1
        run = pending.job.run
        if run.log is not None:
            run.log.append(
                TaskRetried(
                    t=self._clock() - run.began,
                    job=pending.job.index,
                    step=pending.job.shown(pending.node.name),
                    endpoint=pending.endpoint,
                    attempt=command.attempt,
                    delay_s=command.delay_s,
                    error=_fault(pending.error),
                )
            )

    def _give_up(self, command: GiveUp) -> None:
        pending = self._pending.get(command.task)
        if pending is None or pending.answer.done():
            return
        error = pending.error or EngineError(
            command.reason, fault="unreachable"
        )  # never sent, or sent long ago
        if command.attempts > 1:
            error.add_note(f"after {command.attempts} attempts: {command.reason}")
        pending.answer.set_exception(error)

    def _endpoint_changed(self, command: EndpointChanged) -> None:
        now = self._clock()
        for run in {id(pending.job.run): pending.job.run for pending in self._pending.values()}.values():
            if run.log is not None:
                said = command.endpoint, command.pool, command.state, command.reason
                run.log.append(EndpointSwitched(now - run.began, *said))

    def _wake_at(self, command: WakeAt) -> None:
        delay = max(0.0, command.time - self._clock())
        asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        """Time has passed. Nobody awaits this, so what goes wrong here goes to everyone who waits."""
        try:
            self.tell(Tick())
        except Exception as error:  # noqa: BLE001 - a broken scheduler must not leave jobs waiting for ever
            for pending in list(self._pending.values()):
                if not pending.answer.done():
                    wrong = InternalError(f"the scheduler broke: {type(error).__name__}: {error}")
                    wrong.__cause__ = error
                    pending.answer.set_exception(wrong)

    async def _abandon(self, pending: Pending) -> None:
        """Nobody waits for this task any more: drop it from the queue, or abort its call."""
        if pending.call is None:
            self.tell(TaskDropped(pending.id))
            return
        alone = not any(
            other.call is pending.call and not other.answer.cancelled()
            for other in self._pending.values()
            if other is not pending
        )
        if alone:
            await _end(pending.call)
        self._settle_failed([pending], None)  # where the call never began, or goes on for others

    def _log(
        self, pending: Pending, outcome: Any, usage: Usage, batch: int, error: Exception | None = None
    ) -> None:
        run = pending.job.run
        if run.log is None:
            return
        began = run.began
        run.log.append(
            TaskEnded(
                t=self._clock() - began,
                job=pending.job.index,
                step=pending.job.shown(pending.node.name),
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
                pieces=tuple(moment - began for moment in pending.pieces),
                piece_tokens=_if_aligned(pending.piece_tokens, pending.pieces),
                error=None if error is None else _fault(error),
                why=pending.why,
            )
        )


def _if_aligned(counts: Sequence[int], pieces: Sequence[float]) -> tuple[int, ...]:
    """Token counts of pieces, where every piece has one."""
    return tuple(counts) if len(counts) == len(pieces) else ()


async def _end(call: asyncio.Task[None]) -> None:
    """Cancel a call and wait until it has ended, however often the waiting itself is cancelled."""
    call.cancel()
    while not call.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([call])


def _prefix_key(job: Job, node: Node, request: Request) -> str | None:
    """Whose prompts begin alike: those of one conversation, or of one step."""
    if not isinstance(request, GenerateRequest):
        return None
    has_history = any(message.role == "assistant" for message in request.messages)
    return f"job {job.id}" if has_history else node.path[0]


def _request(job: Job, node: Node) -> tuple[Request, bool]:
    """What a step asks; and whether it is one text to embed, whose value is a row and not rows."""
    if isinstance(node.work, Generate):
        return node.work.request(job.record), False
    if isinstance(node.work, Embed):
        texts = node.work.texts(job.record)
        return ((texts,), True) if isinstance(texts, str) else (texts, False)
    if node.planned.step.reuse is None:
        return None, False
    return {name: getter(argument)(job.record) for name, argument in node.planned.arguments.items()}, False


def _time_limit(together: Sequence[Pending]) -> float | None:
    """The steps' own timeout for one attempt; of several, the longest, and none if one has none."""
    limits = [pending.node.planned.step.timeout_s for pending in together]
    return None if None in limits else max(limit for limit in limits if limit is not None)


def _fault(error: Exception | None) -> str:
    """An error in one or two words, for the log."""
    if isinstance(error, EngineError):
        return error.fault if error.status is None else f"{error.fault} {error.status}"
    return type(error).__name__
