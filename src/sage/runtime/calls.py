"""Endpoint-bound steps: a task for the scheduler, a call when it says so, the answer back to the job."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Hashable
from typing import Any, Literal

import msgspec

from sage.clock import Clock
from sage.engines.base import GenerateRequest, Reply
from sage.errors import EngineError, InternalError, PolicyError
from sage.events import EndpointSwitched, TaskRetried, TaskReused
from sage.ops.base import Compute, Embed, Generate
from sage.runtime.base import Job, Token
from sage.runtime.dispatch import Dispatch
from sage.runtime.endpoints import Endpoints
from sage.runtime.pending import Pending, Request, fault_of, request_of, view_of
from sage.runtime.program import Node
from sage.runtime.reuse import Reuse, is_settled, key_of, same_call
from sage.scheduling.core import Scheduler
from sage.scheduling.messages import (
    Command,
    EndpointChanged,
    Event,
    GiveUp,
    JobArrived,
    Retry,
    Start,
    TaskDropped,
    TaskFailed,
    TaskReady,
    Tick,
    WakeAt,
)

__all__ = ["Calls"]


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
        self._dispatch = Dispatch(endpoints, clock, group, self.tell, self._broken)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count()
        self._policy_error: PolicyError | None = None  # by what the policy failed, if it did
        self._tell_broken: list[Callable[[PolicyError], None]] = []
        self._models: dict[str, str] = {}  # pool -> what answers there
        self._pending: dict[int, Pending] = {}
        self._gathered: list[Pending] = []  # ready in this turn of the loop; the scheduler does not know yet
        self._leading: dict[Hashable, Pending] = {}  # what others may join, by what is asked
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
        if self._policy_error is not None:
            self._refuse(event, self._policy_error)
            return
        try:
            commands = self._scheduler.handle(event, self._clock())
        except PolicyError as error:
            self._break(error)
            self._refuse(event, error)
            return
        for command in commands:
            self._carry_out[type(command)](command)

    def when_broken(self, tell: Callable[[PolicyError], None]) -> None:
        """Have somebody told when the policy has failed: nothing is decided from then on."""
        self._tell_broken.append(tell)

    def _break(self, error: PolicyError) -> None:
        """The policy failed: whoever waits for a decision fails with it; calls under way come to their end."""
        self._policy_error = error
        for pending in self._pending.values():
            if pending.call is None and not pending.answer.done():
                pending.answer.set_exception(_again(error))
        for tell in self._tell_broken:
            tell(error)

    def _refuse(self, event: Event, error: PolicyError) -> None:
        """Nobody decides any more.

        Raises:
            PolicyError: a job asks to be let in.
        """
        if isinstance(event, JobArrived):
            raise _again(error)
        if isinstance(event, TaskReady | TaskFailed):
            pending = self._pending.get(event.task.id if isinstance(event, TaskReady) else event.task)
            if pending is not None and not pending.answer.done():
                pending.answer.set_exception(_again(error))

    async def make(self, job: Job, node: Node, number: int = 0) -> Any:
        """The value of an endpoint-bound step; ``number`` tells several answers to one request apart.

        Cancelling drops the task or aborts its call.

        Raises:
            EngineError: after the last attempt. Whatever a compute function raises.
        """
        request, single = request_of(job, node)
        if number and isinstance(request, GenerateRequest) and request.seed is not None:
            request = msgspec.structs.replace(request, seed=request.seed + number)
        where = node.planned.step.reuse
        joins = job.listen is None and is_settled(request) and node.name not in job.pipes
        if where is None:
            answer = await self._ask(job, node, request, joins=joins)
        else:
            answer, source = await self._reuse.get(
                key_of(self._model(node), request),
                where,
                lambda: self._ask(job, node, request, joins=joins),
                joins=joins,
            )
            if source is not None:
                self._reused(job, node, source, answer)
        work = node.work
        if isinstance(work, Generate):
            return work.value(answer)
        if isinstance(work, Embed):
            return answer.vectors[0] if single else answer.vectors
        return answer

    async def ended(self) -> None:
        """Wait for the calls under way that no task waits for, so that engines may be let go of."""
        calls = [p.answer for p in self._pending.values() if p.call and not isinstance(p.call, asyncio.Task)]
        if calls:
            await asyncio.wait(calls)

    async def _ask(self, job: Job, node: Node, request: Request, *, joins: bool) -> Any:
        """The answer to a call: a Reply, an EmbedReply, or a compute function's value.

        ``joins``: that of an equal call, if one is under way.
        """
        key = same_call(self._model(node), request) if joins else None
        if key is not None and key in self._leading:
            has_joined, answer = await self._join(key)
            if has_joined:
                self._reused(job, node, "flight", answer)
                return answer
        run = job.run
        if run.budget_tokens is not None:
            run.check_budget()
        number = next(self._ids)
        answer = self._loop.create_future()
        pending = self._pending[number] = Pending(number, job, node, request, self._clock(), answer)
        if key is not None:
            self._leading[key] = pending
        try:
            if node.hop is not None and node.hop.is_short:
                self._gather(pending)
            else:
                self.tell(TaskReady(view_of(pending)))
            return await answer
        except asyncio.CancelledError:
            if answer.cancelled() or not answer.done():
                await self._abandon(pending)
            raise
        finally:
            del self._pending[number]
            if key is not None and self._leading.get(key) is pending:
                del self._leading[key]

    async def _join(self, key: Hashable) -> tuple[bool, Any]:
        """The answer to an equal call under way; False: whoever made it was cancelled, and nobody makes it now."""
        while True:
            leader = self._leading.get(key)
            if leader is None or leader.answer.cancelled():
                return False, None
            try:
                return True, await asyncio.shield(leader.answer)
            except asyncio.CancelledError:
                caller = asyncio.current_task()
                if not leader.answer.cancelled() or (caller is not None and caller.cancelling()):
                    raise  # it is this caller who was cancelled, by itself or together with the one it waited for

    def _gather(self, pending: Pending) -> None:
        """Tell the scheduler at the end of this turn of the loop: what else is ready by then may go along."""
        if not self._gathered:
            self._loop.call_soon(self._tell_gathered)
        self._gathered.append(pending)

    def _tell_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        left = len(gathered)
        try:
            for pending in gathered:
                left -= 1
                self.tell(TaskReady(view_of(pending), more=left > 0))
        except Exception as error:  # noqa: BLE001 - a broken scheduler must not leave jobs waiting for ever
            self._broken(error)

    def _model(self, node: Node) -> str:
        """What answers, as far as it decides the answer."""
        step = node.planned.step
        pool = step.pool
        assert pool is not None
        known = self._models.get(pool)
        if known is not None:
            return known
        if isinstance(node.work, Compute):
            function = step.function
            return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
        info = self._endpoints.info(pool)
        model = self._models[pool] = info.fingerprint or f"{pool} {info.model}"
        return model

    def _reused(self, job: Job, node: Node, source: Literal["memory", "disk", "flight"], answer: Any) -> None:
        if job.run.log is not None:
            t = self._clock() - job.run.began
            job.run.log.append(TaskReused(t, job.index, job.shown(node.name), source))
        if job.listen is not None and isinstance(answer, Reply):
            job.listen(Token(job.shown(node.name), answer.text))

    async def _abandon(self, pending: Pending) -> None:
        """Nobody waits for this task any more: drop it from the queue, or abort its call."""
        if pending in self._gathered:
            self._gathered.remove(pending)
        elif pending.call is None:
            self.tell(TaskDropped(pending.id))
        else:
            await self._dispatch.abort(pending)

    # Commands

    def _start(self, command: Start) -> None:
        together = [self._pending[task] for task in command.tasks]
        for pending in together:
            if pending.job.run.log is not None:
                pending.why = self._scheduler.why(pending.id)
        self._dispatch.start(command, together)

    def _retry(self, command: Retry) -> None:
        pending = self._pending[command.task]
        pending.attempt = command.attempt + 1
        run = pending.job.run
        if run.log is not None:
            run.log.append(
                TaskRetried(
                    t=self._clock() - run.began,
                    job=pending.job.index,
                    step=pending.step,
                    endpoint=pending.endpoint,
                    attempt=command.attempt,
                    delay_s=command.delay_s,
                    error=fault_of(pending.error),
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
        self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        """Time has passed."""
        try:
            self.tell(Tick())
        except Exception as error:  # noqa: BLE001 - a broken scheduler must not leave jobs waiting for ever
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        """What nobody awaits went wrong: everyone who waits is told."""
        for pending in list(self._pending.values()):
            if not pending.answer.done():
                wrong = InternalError(f"the scheduler broke: {type(error).__name__}: {error}")
                wrong.__cause__ = error
                pending.answer.set_exception(wrong)


def _again(error: PolicyError) -> PolicyError:
    """The same error for one more who waits: an exception that is raised twice drags its first traceback along."""
    again = PolicyError(str(error))
    again.__cause__ = error.__cause__
    return again
