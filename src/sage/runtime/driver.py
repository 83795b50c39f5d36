"""Takes jobs through their steps: tells the scheduler what happens and carries out what it commands.

One driver serves every pipeline of a session. It decides nothing: order, place, batch and retry are the
scheduler's. It owns no engine: calls are made by ``sage.runtime.calls``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from typing import Any

from sage.clock import Clock
from sage.errors import EngineError, Expired, InputError, InternalError, PolicyError, Rejected, SageError
from sage.events import Outcome
from sage.graph.body import VALUE
from sage.graph.values import Record
from sage.ops.base import Composite, Generate
from sage.runtime.base import (
    Job,
    JobFailure,
    RecordDone,
    Run,
    RunEvent,
    StepDone,
    StepStarted,
    Token,
    as_step_error,
    first_of_group,
    narrowed,
)
from sage.runtime.calls import Calls
from sage.runtime.ledger import SLOW_STEP_S, Ledger, checked, loggable
from sage.runtime.options import Tenant
from sage.runtime.pipe import Pipe, pieces_of
from sage.runtime.program import FALLBACK, Node, Program
from sage.scheduling.messages import Admit, JobArrived, JobOver, Reject
from sage.scheduling.views import JobView
from sage.tasks import spawn

__all__ = ["Driver"]

_ANYONE = Tenant()


class Driver:
    """Runs jobs. Everything happens on one event loop.

    Args:
        calls: makes the calls the scheduler commands, and is the way to the scheduler.
        ledger: where the ends of jobs are written.
        clock: monotonic seconds.
        tenants: what each may claim; of others, the default.
    """

    def __init__(
        self, calls: Calls, ledger: Ledger, clock: Clock, tenants: Mapping[str, Tenant] | None = None
    ) -> None:
        self._tenants = tenants or {}
        self._calls = calls
        self._ledger = ledger
        self._clock = clock
        self._ids = itertools.count()
        self._waiting: dict[
            int, asyncio.Future[None] | None
        ] = {}  # jobs not yet admitted; None: just arrived
        self._rejected: dict[int, Rejected] = {}  # jobs refused at once
        calls.on(Admit, self._admit)
        calls.on(Reject, self._reject)
        calls.when_broken(self._broken)

    async def carry(
        self,
        run: Run,
        program: Program,
        index: int,
        record: Any,
        listen: Callable[[RunEvent], None] | None = None,
    ) -> Record | JobFailure:
        """Take one record through a program.

        Every job ends in exactly one outcome, which is logged. Only cancellation of the awaiting task raises, and a
        policy that failed.
        """
        try:
            job = self._new_job(run, program, index, record, listen)
        except InputError as refusal:
            return self._ledger.refused(run, program, index, record, refusal)
        outcome: Outcome = "cancelled"
        error: SageError | None = None
        try:
            run.check_budget()
            if not self._is_in(job):
                await self._wait_outside(job)
            job.admitted = self._clock()
            if run.is_limited:
                async with self._limit(job):
                    await self._advance(job)
            else:
                await self._advance(job)
            outcome = "done"
            if listen is not None:
                listen(RecordDone(narrowed(program, job.record)))
        except Rejected as rejection:
            outcome, error = "rejected", rejection
        except asyncio.CancelledError:
            error = Expired("cancelled before it was done")
            raise
        except BaseExceptionGroup as group:
            outcome, error = "failed", _first_error(group, job)
        except Exception as raised:  # noqa: BLE001 - a job's edge: whatever its steps raise is its failure
            outcome, error = "failed", _as_sage_error(raised, job)
        finally:
            self._end(job, outcome, error)
        if isinstance(error, PolicyError):
            raise error
        if error is not None:
            return JobFailure(index, job.record, outcome, error, job.at, getattr(error, "attempts", 1))
        return narrowed(program, job.record)

    def _new_job(
        self,
        run: Run,
        program: Program,
        index: int,
        record: Any,
        listen: Callable[[RunEvent], None] | None,
    ) -> Job:
        values = checked(program, record)
        now = self._clock()
        tenant, priority, deadline_s = run.resolve(values)
        if run.log is not None and program.plan.name not in run.seen:
            self._ledger.announce(run, program, now)
        return Job(
            id=next(self._ids),
            index=index,
            run=run,
            program=program,
            record=values,
            arrived=now,
            tenant=tenant,
            priority=priority,
            deadline=None if deadline_s is None else now + deadline_s,
            stamps=None if run.log is None else [None] * (2 * len(program.nodes)),
            listen=listen,
        )

    def _is_in(self, job: Job) -> bool:
        """Tell the scheduler of a job; whether it is admitted at once.

        Raises:
            Rejected: it will not be admitted.
        """
        tenant = self._tenants.get(job.tenant, _ANYONE)
        view = JobView(
            id=job.id,
            run=job.run.id,
            pipeline=job.program.plan.name,
            arrived=job.arrived,
            tenant=job.tenant,
            priority=job.priority,
            deadline=job.deadline,
            max_inflight=job.run.said_inflight,
            pulled=job.run.pulled,
            weight=tenant.weight,
            reserved=tenant.reserved,
        )
        self._waiting[job.id] = None
        job.was_told = True
        self._calls.tell(JobArrived(view))
        if job.id in self._rejected:
            raise self._rejected.pop(job.id)
        return job.id not in self._waiting

    async def _wait_outside(self, job: Job) -> None:
        """Wait until the job is admitted.

        Raises:
            Rejected: it will not be. Expired: its time ran out before.
        """
        waiting = self._waiting[job.id] = asyncio.get_running_loop().create_future()
        try:
            async with self._limit(job):
                await waiting
        finally:
            if job.run.log is not None:
                job.held = self._calls.held(job.id)

    def _broken(self, error: PolicyError) -> None:
        for waiting in self._waiting.values():
            if waiting is not None and not waiting.done():
                waiting.set_exception(PolicyError(str(error)))

    def _admit(self, command: Admit) -> None:
        waiting = self._waiting.pop(command.job)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _reject(self, command: Reject) -> None:
        rejection = Rejected(command.reason, retry_after_s=command.retry_after_s)
        waiting = self._waiting.pop(command.job)
        if waiting is None:
            self._rejected[command.job] = rejection
        elif not waiting.done():
            waiting.set_exception(rejection)

    async def _advance(self, job: Job) -> None:
        """Run every step of an admitted job."""
        if not job.program.is_chain:
            await self._run_graph(job)
        elif job.stamps is None and job.listen is None and job.program.is_plain:
            await self._run_chain_bare(job)
        else:
            for node in job.program.nodes:
                await self._run_node(job, node)

    async def run_body(
        self, outer: Job, node: Node, label: str, record: Record, at: str, held: list[Any] | None
    ) -> Any:
        """A plan inside a step, for a record of its own; the value it gives."""
        program, step = node.bodies[label], node.planned.step
        body = step.bodies[label] if label != FALLBACK else step.otherwise
        assert body is not None
        where = outer.shown(node.name) + at
        try:
            if program.is_inline:
                for name, call, _ in program.calls:
                    record[name] = call(record)
            else:
                await self._advance(_inner(outer, node, program, record, where, held))
        except Exception as raised:  # noqa: BLE001 - raised again, with the step it came from
            error = as_step_error(raised, where)
            raise error from _other_than(error, raised)
        return body.value(record)

    def _limit(self, job: Job) -> Any:
        """The time a job may take, as a context that raises Expired; nothing if it has none."""
        options = job.run.options
        ends = [job.deadline] if options.expire and job.deadline is not None else []
        if options.timeout_s is not None:
            ends.append(job.arrived + options.timeout_s)
        return _until(min(ends) - self._clock()) if ends else nullcontext()

    async def _run_chain_bare(self, job: Job) -> None:
        """A chain of which nothing is recorded and nobody is told."""
        values = job.record
        for node in job.program.nodes:
            job.at = node.name
            if node.call is None:
                values[node.name] = await self._work(job, node)
            elif node.awaits:
                values[node.name] = await node.call(values)
            else:
                values[node.name] = node.call(values)

    async def _run_graph(self, job: Job) -> None:
        """Ready steps at once, each as soon as its inputs are there."""
        waits_for = [node.waits_for for node in job.program.nodes]
        job.pipes = {node.name: Pipe() for node in job.program.nodes if node.live_readers}
        async with asyncio.TaskGroup() as strands:
            first = [node for node in job.program.nodes if node.waits_for == 0]
            await self._run_strand(job, first, waits_for, strands)

    async def _run_strand(
        self, job: Job, ready: list[Node], waits_for: list[int], strands: asyncio.TaskGroup
    ) -> None:
        """Run these steps and all that they make ready; what would overlap goes on in strands of its own."""
        while ready:
            inline = [node for node in ready if not node.awaits]
            awaiting = [node for node in ready if node.awaits]
            if inline:
                ready = awaiting
                for node in inline:
                    await self._run_node(job, node)
                    ready += _made_ready(job, node.readers, waits_for)
                continue
            for (
                node
            ) in awaiting:  # grows while it is gone through: who reads pieces begins with who gives them
                awaiting += _made_ready(job, node.live_readers, waits_for)
            for node in awaiting[1:]:
                spawn(strands, self._run_branch(job, node, waits_for, strands))
            await self._run_node(job, awaiting[0])
            ready = _made_ready(job, awaiting[0].readers, waits_for)

    async def _run_branch(
        self, job: Job, node: Node, waits_for: list[int], strands: asyncio.TaskGroup
    ) -> None:
        await self._run_node(job, node)
        await self._run_strand(job, _made_ready(job, node.readers, waits_for), waits_for, strands)

    async def _run_node(self, job: Job, node: Node) -> None:
        """Run one step and keep its value and its times."""
        ready = self._clock()
        if job.listen is not None:
            job.listen(StepStarted(job.shown(node.name)))
        try:
            if node.gate is not None:
                async with node.gate:
                    value = await self._value(job, node)
            elif node.call is not None and not node.awaits and node.condition is None:
                value = node.call(job.record)  # what takes pieces awaits
            else:
                value = await self._value(job, node)
        except Exception as raised:  # noqa: BLE001 - raised again, unless the step says what stands in
            error = as_step_error(raised, job.shown(node.name))
            began = node.live_readers and job.pipes[node.name].has_begun
            if began or not node.forgives:
                job.at = node.name
                raise error from _other_than(error, raised)
            value = await self._recover(job, node, error)
        job.record[node.name] = value
        if node.live_readers:
            job.pipes[node.name].end(value)
        done = self._clock()
        if job.stamps is not None:
            job.stamps[2 * node.index] = ready - job.run.began
            job.stamps[2 * node.index + 1] = done - job.run.began
        if not node.awaits and done - ready > SLOW_STEP_S:
            self._ledger.slow_step(job, node.name, done - ready)
        if job.listen is not None:
            job.listen(StepDone(job.shown(node.name), value, done - ready))

    async def _value(self, job: Job, node: Node) -> Any:
        """What a step gives, if its condition holds."""
        if node.condition is not None and not node.condition(job.record):
            return None
        if node.call is None:
            return await self._work(job, node)
        value = node.call(_with_pieces(job, node) if node.takes else job.record)
        if node.is_stream:
            return await self._drained(job, node, value)
        return await value if node.awaits else value

    async def _drained(self, job: Job, node: Node, pieces: AsyncIterator[Any]) -> list[Any]:
        """Everything a generator yields, handed on as it comes."""
        value: list[Any] = []
        pipe = job.pipes.get(node.name)
        async for piece in pieces:
            value.append(piece)
            if pipe is not None:
                pipe.put(piece)
            if job.listen is not None and isinstance(piece, str):
                job.listen(Token(job.shown(node.name), piece))
        return value

    async def _recover(self, job: Job, node: Node, error: SageError) -> Any:
        """What stands in for the value of a step that failed for good: its fallback's, then its default."""
        why = f"{loggable(error)}; "
        shown = job.shown(node.name)
        if node.otherwise is not None:
            self._ledger.notice(job, shown, "fallback", why + "its fallback is run")
            reads = {name: job.record[name] for name in node.otherwise.plan.inputs}
            try:
                return await self.run_body(job, node, FALLBACK, reads, "", None)
            except Exception as raised:
                if node.instead is None:
                    job.at = node.name
                    raise
                why = f"{loggable(as_step_error(raised, shown))}; "
        assert node.instead is not None
        self._ledger.notice(job, shown, "instead", why + "its default stands in")
        return node.instead.value

    async def _work(self, job: Job, node: Node) -> Any:
        """What a step that is no function gives."""
        if isinstance(node.work, Composite):
            reads = _with_pieces(job, node) if node.takes else job.record
            return await node.work.call(reads, _JobBodies(self, job, node))
        return await self._call_endpoint(job, node)

    async def _call_endpoint(self, job: Job, node: Node) -> Any:
        """One step's call; if its prompt is too long and it may be shortened, again with less."""
        while True:
            try:
                if isinstance(node.work, Generate) and node.work.n > 1:
                    return await self._several(job, node, node.work.n)
                return await self._calls.make(job, node)
            except EngineError as error:
                if error.fault != "too_long" or not isinstance(node.work, Generate) or node.work.fit is None:
                    raise
                left = job.program.shrink(node, job.record, error)
                self._ledger.notice(
                    job,
                    node.name,
                    "fit",
                    f"prompt too long; {left} of {node.work.fit!r} sent to {node.name!r}",
                )

    async def _several(self, job: Job, node: Node, n: int) -> list[Any]:
        """Several answers to one request, asked for at once."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [spawn(group, self._calls.make(job, node, number)) for number in range(n)]
        except ExceptionGroup as failed:
            raise first_of_group(failed) from failed
        return [one.result() for one in asked]

    def _end(self, job: Job, outcome: Outcome, error: SageError | None) -> None:
        self._waiting.pop(job.id, None)
        if job.was_told:
            self._calls.tell(JobOver(job.id))
        self._ledger.job_ended(job, outcome, error)


def _inner(
    outer: Job, node: Node, program: Program, record: Record, where: str, held: list[Any] | None
) -> Job:
    """The same job, inside one of its steps."""
    return Job(
        id=outer.id,
        index=outer.index,
        run=outer.run,
        program=program,
        record=record,
        arrived=outer.arrived,
        tenant=outer.tenant,
        priority=outer.priority,
        deadline=outer.deadline,
        listen=outer.listen if held is None or outer.listen is None else held.append,
        prefix=where,
        is_step=len(program.nodes) == 1 and program.nodes[0].name == VALUE,
        path_after=node.path[node.own_steps :] + outer.path_after,
    )


def _with_pieces(job: Job, node: Node) -> Record:
    """The record as a step sees it that reads some fields piece by piece."""
    record = dict(job.record)
    for name in node.takes:
        is_live = name in node.planned.live and name in job.pipes
        record[name] = job.pipes[name].read() if is_live else pieces_of(record[name])
    return record


class _JobBodies:
    """The bodies of one step, run within one job."""

    def __init__(self, driver: Driver, job: Job, node: Node) -> None:
        self._driver = driver
        self._job = job
        self._node = node

    async def run(self, label: str, record: Record, at: str = "", held: list[Any] | None = None) -> Any:
        return await self._driver.run_body(self._job, self._node, label, record, at, held)

    def show(self, held: list[Any]) -> None:
        if self._job.listen is not None:
            for event in held:
                self._job.listen(event)


class _until:  # noqa: N801 - reads as a word where it is used
    """``asyncio.timeout`` that raises Expired."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(max(0.0, seconds))

    async def __aenter__(self) -> None:
        if self._seconds <= 0:
            raise Expired("its time was over before it was sent")
        await self._timeout.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._timeout.__aexit__(*exc)  # type: ignore[arg-type]  # passed on as given
        except TimeoutError:
            raise Expired("its time ran out") from None


def _other_than(error: BaseException, raised: BaseException) -> BaseException | None:
    """What to chain to an error: what was raised, if it is not the error itself, else what is chained already."""
    return error.__cause__ if error is raised else raised


def _made_ready(job: Job, readers: tuple[int, ...], waits_for: list[int]) -> list[Node]:
    ready = []
    for reader in readers:
        waits_for[reader] -= 1
        if waits_for[reader] == 0:
            ready.append(job.program.nodes[reader])
    return ready


def _as_sage_error(error: Exception, job: Job) -> SageError:
    return as_step_error(error, job.at)


def _first_error(group: BaseExceptionGroup[BaseException], job: Job) -> SageError:
    """The first real error among strands that failed together."""
    errors = group.subgroup(Exception)
    if errors is None:
        return InternalError(f"strands ended by {group!r}")
    assert isinstance(errors, ExceptionGroup)
    return _as_sage_error(errors, job)
