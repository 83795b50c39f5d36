"""The shortest way through: programs that need no endpoint contend for nothing, so nothing is scheduled."""

from __future__ import annotations

from typing import Any

from sage.clock import Clock
from sage.errors import InputError
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
        """The same with a stamp after every step. A Job is made only where something is to be said of it."""
        try:
            values = dict(record)
            if values.keys() != program.inputs:
                program.check_record(values)
            said = run.resolve(values)
        except (TypeError, ValueError, InputError) as error:
            return self._ledger.refused(run, program, index, record, bad_record(record, error))
        clock, began = self._clock, run.began
        arrived = clock()
        if program.plan.name not in run.seen:
            self._ledger.announce(run, program, arrived)
        arrived -= began
        stamps: list[float | None] = [arrived]
        name = None
        try:
            for name, call, _ in program.calls:
                values[name] = call(values)
                done = clock() - began
                stamps += (done, done)  # of this step, and when the next one can begin
        except Exception as raised:  # noqa: BLE001 - a job's edge: whatever its steps raise is its failure
            failure = as_step_error(raised, name)
            job = _job(run, program, index, values, said, stamps[:-1])
            job.at = name
            self._tell_slow(job)
            self._ledger.job_ended(job, "failed", failure)
            return JobFailure(index, values, "failed", failure, name)
        ended = stamps.pop()
        if ended - arrived > SLOW_STEP_S:  # type: ignore[operator]  # a time, as all that was put in above
            self._tell_slow(_job(run, program, index, values, said, stamps))
        self._ledger.inline_done(run, program, index, stamps, said)
        return narrowed(program, values)

    def _tell_slow(self, job: Job, stamps: list[Any]) -> None:
        """Name the slow ones among a job's steps."""
        for node, ready, done in zip(job.program.nodes, stamps[::2], stamps[1::2], strict=False):
            if done - ready > SLOW_STEP_S:
                self._ledger.slow_step(job, node.name, done - ready)


def _job(
    run: Run,
    program: Program,
    index: int,
    values: Record,
    arrived: float,
    said: tuple[str, int, float | None],
) -> Job:
    tenant, priority, deadline_s = said
    return Job(
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
