"""The shortest way through: programs that need no endpoint contend for nothing, so nothing is scheduled."""

from __future__ import annotations

from typing import Any

from sage.clock import Clock
from sage.errors import InputError
from sage.events import JobEnded
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
        """Run one record through a program in which nothing awaits, with a stamp after every step.

        A Job is made only where there is more to say of it.
        """
        if run.log is None and not run.watches_steps:
            return self._carry_bare(run, program, index, record)
        try:
            values = dict(record)
        except (TypeError, ValueError) as error:
            return self._ledger.refused(run, program, index, record, bad_record(record, error))
        try:
            if values.keys() != program.inputs:
                program.check_record(values)
            said = run.resolve(values)
        except InputError as error:
            return self._ledger.refused(run, program, index, record, error)
        clock, began = self._clock, run.began
        pipeline = program.plan.name
        if pipeline not in run.seen:
            self._ledger.announce(run, program, clock())
        arrived = done = clock() - began
        stamps = [arrived]
        name = None
        try:
            for name, call, _ in program.calls:
                values[name] = call(values)
                done = clock() - began
                stamps += (done, done)  # of this step, and when the next one is ready
        except Exception as raised:  # noqa: BLE001 - a job's edge: whatever its steps raise is its failure
            failure = as_step_error(raised, name)
            job = _job(run, program, index, values, said, stamps)
            job.at = name
            self._tell_slow(job)
            self._ledger.job_ended(job, "failed", failure)
            return JobFailure(index, values, "failed", failure, name)
        if done - arrived > SLOW_STEP_S:
            self._tell_slow(_job(run, program, index, values, said, stamps))
        run.counts["done"] += 1
        if run.on_end is not None:
            run.on_end("done")
        if run.log is not None:
            del stamps[-1]
            tenant, priority, deadline_s = said[0], said[1] or 0, said[2]
            deadline = None if deadline_s is None else arrived + deadline_s
            # By position: naming ten fields takes as long as a step.
            run.log.append(
                JobEnded(
                    done, index, pipeline, "done", arrived, arrived, tuple(stamps), tenant, priority, deadline
                )
            )
        return values if program.plan.outputs is None else narrowed(program, values)

    def _carry_bare(self, run: Run, program: Program, index: int, record: Any) -> Record | JobFailure:
        """The same where nobody asks when."""
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
        return values if program.plan.outputs is None else narrowed(program, values)

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
        return values if program.plan.outputs is None else narrowed(program, values)

    def _failed(
        self, run: Run, index: int, values: Record, raised: Exception, step: str | None
    ) -> JobFailure:
        self._ledger.count(run, "failed")
        return JobFailure(index, values, "failed", as_step_error(raised, step), step)

    def _tell_slow(self, job: Job) -> None:
        """Say which of a job's steps held everything else up."""
        stamps = job.stamps or []
        for node, ready, done in zip(job.program.nodes, stamps[::2], stamps[1::2], strict=True):
            if ready is not None and done is not None and done - ready > SLOW_STEP_S:
                self._ledger.slow_step(job, node.name, done - ready)


def _job(
    run: Run,
    program: Program,
    index: int,
    values: Record,
    said: tuple[str, int | None, float | None],
    times: list[float],
) -> Job:
    """A job that ran straight through, or into an error: ``times`` has two for every step that ended, and one."""
    tenant, priority, deadline_s = said[0], said[1] or 0, said[2]
    arrived = run.began + times[0]
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
        stamps=[*times[:-1], *[None] * (2 * len(program.nodes) - len(times) + 1)],
    )
