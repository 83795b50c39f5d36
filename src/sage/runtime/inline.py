"""The shortest way through: programs that need no endpoint contend for nothing, so nothing is scheduled."""

from __future__ import annotations

from typing import Any

from sage.clock import Clock
from sage.errors import InputError, SageError
from sage.events import Outcome
from sage.graph.values import Record
from sage.runtime.base import Job, JobFailure, Run, as_step_error, narrowed
from sage.runtime.ledger import SLOW_STEP_S, Ledger, bad_record, checked
from sage.runtime.program import Program

__all__ = ["Inline"]


class Inline:
    """Carries jobs whose steps are all functions, without the scheduler. A feed bounds how many at once.

    Args:
        ledger: where their ends are written.
        clock: monotonic seconds.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def carry(self, run: Run, program: Program, index: int, record: Any) -> Record | JobFailure:
        """Run one record through a program in which nothing awaits."""
        if run.log is not None or run.watches_steps:
            return self._carry_timed(run, program, index, record)
        try:
            values = dict(record)
            if values.keys() != program.inputs:
                program.check_record(values)
        except (TypeError, ValueError, InputError) as error:
            return self._ledger.refused(run, program, index, record, bad_record(record, error))
        name = None
        try:
            for name, call, _ in program.calls:
                values[name] = call(values)
        except Exception as raised:  # noqa: BLE001 - a job's edge: whatever its steps raise is its failure
            return self._failed(run, index, values, raised, name)
        self._ledger.count(run, "done")
        return narrowed(program, values)

    async def acarry(self, run: Run, program: Program, index: int, record: Any) -> Record | JobFailure:
        """The same for a chain with async functions in it, of which nothing is recorded."""
        try:
            values = checked(program, record)
        except InputError as error:
            return self._ledger.refused(run, program, index, record, error)
        name = None
        try:
            for name, call, awaits in program.calls:
                values[name] = await call(values) if awaits else call(values)
        except Exception as raised:  # noqa: BLE001 - a job's edge: whatever its steps raise is its failure
            return self._failed(run, index, values, raised, name)
        except BaseException:
            self._ledger.count(run, "cancelled")
            raise
        self._ledger.count(run, "done")
        return narrowed(program, values)

    def _failed(
        self, run: Run, index: int, values: Record, raised: Exception, step: str | None
    ) -> JobFailure:
        self._ledger.count(run, "failed")
        return JobFailure(index, values, "failed", as_step_error(raised, step), step)

    def _carry_timed(self, run: Run, program: Program, index: int, record: Any) -> Record | JobFailure:
        try:
            values = checked(program, record)
            tenant, priority, deadline_s = run.resolve(values)
        except InputError as error:
            return self._ledger.refused(run, program, index, record, error)
        clock, began = self._clock, run.began
        arrived = clock()
        if program.plan.name not in run.seen:
            self._ledger.announce(run, program, arrived)
        job = Job(
            id=-1 - index,
            index=index,
            run=run,
            program=program,
            record=values,
            arrived=arrived,
            admitted=arrived,
            tenant=tenant,
            priority=priority,
            deadline=None if deadline_s is None else arrived + deadline_s,
        )
        stamps: list[float | None] = []
        job.stamps = stamps
        outcome: Outcome = "done"
        error: SageError | None = None
        ready = arrived - began
        try:
            for name, call, _ in program.calls:
                values[name] = call(values)
                done = clock() - began
                stamps += (ready, done)
                if done - ready > SLOW_STEP_S:
                    self._ledger.slow_step(job, name, done - ready)
                ready = done
        except Exception as raised:  # noqa: BLE001 - a job's edge: whatever its steps raise is its failure
            job.at = program.nodes[len(stamps) // 2].name
            outcome, error = "failed", as_step_error(raised, job.at)
            stamps += [None] * (2 * len(program.nodes) - len(stamps))
        self._ledger.job_ended(job, outcome, error)
        if error is not None:
            return JobFailure(index, values, outcome, error, job.at)
        return narrowed(program, values)
