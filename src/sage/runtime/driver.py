"""Takes jobs through their steps: tells the scheduler what happens and carries out what it commands.

One driver serves every pipeline of a session. It decides nothing: order, place, batch and retry are the
scheduler's. It owns no engine: calls are made by ``sage.runtime.calls``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from sage.clock import Clock
from sage.errors import Expired, InputError, InternalError, PolicyError, Rejected, SageError
from sage.events import Outcome
from sage.graph.values import Record
from sage.runtime.base import (
    Job,
    JobFailure,
    RecordDone,
    Run,
    RunEvent,
    as_step_error,
    narrowed,
)
from sage.runtime.calls import Calls
from sage.runtime.ledger import Ledger, checked
from sage.runtime.program import Program
from sage.runtime.steps import Steps
from sage.scheduling.messages import Admit, JobArrived, JobOver, Reject
from sage.scheduling.views import JobView
from sage.tenants import Tenant

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
        self._steps = Steps(calls, ledger, clock)
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
            if run.budget_tokens is not None:
                run.check_budget()
            if not self._is_in(job):
                await self._wait_outside(job)
            job.admitted = self._clock()
            if run.is_limited:
                async with self._limit(job):
                    await self._steps.advance(job)
            elif program.is_chain and program.is_plain and listen is None:
                await self._steps.run_chain(job)  # as advance would, one layer down
            else:
                await self._steps.advance(job)
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
        if priority is None:
            priority = int(self._tenants.get(tenant, _ANYONE).priority)
        if run.log is not None and program.plan.name not in run.seen:
            self._ledger.announce(run, program, now)
        deadline = None if deadline_s is None else now + deadline_s
        stamps: list[float | None] | None = None if run.log is None else [None] * (2 * len(program.nodes))
        # By position: naming the fields takes as long as all the rest.
        return Job(
            next(self._ids),
            index,
            run,
            program,
            values,
            now,
            None,
            tenant,
            priority,
            deadline,
            stamps,
            listen,
        )

    def _is_in(self, job: Job) -> bool:
        """Tell the scheduler of a job; whether it is admitted at once.

        Raises:
            Rejected: it will not be admitted.
        """
        tenant = self._tenants.get(job.tenant, _ANYONE)
        run = job.run
        view = JobView(
            job.id,
            run.id,
            job.program.plan.name,
            job.arrived,
            job.tenant,
            job.priority,
            job.deadline,
            run.said_inflight,
            weight=tenant.weight,
            reserved=tenant.reserved,
            tokens_per_s=tenant.tokens_per_s,
            burst_tokens=tenant.burst_tokens,
            pulled=run.pulled,
        )
        self._waiting[job.id] = None
        job.was_told = True
        self._calls.tell(JobArrived(view))
        if self._rejected and job.id in self._rejected:
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

    def _limit(self, job: Job) -> Any:
        """The time a job may take, as a context that raises Expired; nothing if it has none."""
        options = job.run.options
        ends = [job.deadline] if options.expire and job.deadline is not None else []
        if options.timeout_s is not None:
            ends.append(job.arrived + options.timeout_s)
        return _until(min(ends) - self._clock()) if ends else nullcontext()

    def _end(self, job: Job, outcome: Outcome, error: SageError | None) -> None:
        self._waiting.pop(job.id, None)
        if job.was_told:
            self._calls.tell(JobOver(job.id))
        self._ledger.job_ended(job, outcome, error)


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


def _as_sage_error(error: Exception, job: Job) -> SageError:
    return as_step_error(error, job.at)


def _first_error(group: BaseExceptionGroup[BaseException], job: Job) -> SageError:
    """The first real error among strands that failed together."""
    errors = group.subgroup(Exception)
    if errors is None:
        return InternalError(f"strands ended by {group!r}")
    assert isinstance(errors, ExceptionGroup)
    return _as_sage_error(errors, job)
