"""What is written down about jobs: their counts, their terminal events, and notices."""

from __future__ import annotations

import logging
from typing import Any

from sage.clock import Clock
from sage.errors import InputError, SageError, StepError
from sage.events import Hold, JobEnded, Notice, Outcome, PipelineSeen
from sage.graph.values import Record
from sage.runtime.base import Job, JobFailure, Run
from sage.runtime.program import Program

__all__ = ["SLOW_STEP_S", "Ledger", "bad_record", "checked", "loggable"]

logger = logging.getLogger("sage")

SLOW_STEP_S = 0.05  # an inline function that blocks the loop longer earns one notice


class Ledger:
    """Writes to the logs of runs. One for a session.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._noticed: set[tuple[str, str]] = set()  # (pipeline, step) already called slow

    def job_ended(self, job: Job, outcome: Outcome, error: SageError | None) -> None:
        """The job's one terminal event."""
        run = job.run
        self.count(run, outcome)
        if run.log is None:
            return
        began = run.began
        run.log.append(
            JobEnded(
                t=self._clock() - began,
                job=job.index,
                pipeline=job.program.plan.name,
                outcome=outcome,
                arrived=job.arrived - began,
                admitted=None if job.admitted is None else job.admitted - began,
                stamps=tuple(job.stamps or ()),
                tenant=job.tenant,
                priority=job.priority,
                deadline=None if job.deadline is None else job.deadline - began,
                step=job.at if error is not None else None,
                error=None if error is None else loggable(error),
                held=tuple([Hold(rule, since - began) for rule, since in job.held]) if job.held else (),
            )
        )

    def refused(self, run: Run, program: Program, index: int, record: Any, error: SageError) -> JobFailure:
        """A record that cannot become a job: it fails before anything runs."""
        self.count(run, "failed")
        if run.log is not None:
            now = self._clock()
            self.announce(run, program, now)
            t = now - run.began
            run.log.append(JobEnded(t, index, program.plan.name, "failed", arrived=t, error=loggable(error)))
        return JobFailure(index, record if isinstance(record, dict) else {}, "failed", error)

    def count(self, run: Run, outcome: Outcome) -> None:
        """Add to a run's counts and tell whoever watches its progress."""
        run.counts[outcome] += 1
        if run.on_end is not None:
            run.on_end(outcome)

    def announce(self, run: Run, program: Program, now: float) -> None:
        """Write down a pipeline's steps, before its first job in a run."""
        if run.log is None or program.plan.name in run.seen:
            return
        run.seen.add(program.plan.name)
        steps = program.plan.steps
        run.log.append(
            PipelineSeen(
                t=now - run.began,
                pipeline=program.plan.name,
                steps=tuple(step.name for step in steps),
                operators=tuple(step.step.operator for step in steps),
                after=tuple(step.after for step in steps),
            )
        )

    def slow_step(self, job: Job, step: str, took_s: float) -> None:
        """Say once that an inline step holds everything else up."""
        if (job.program.plan.name, step) not in self._noticed:
            self._noticed.add((job.program.plan.name, step))
            text = (
                f"inline step {step!r} blocked everything else for {1000 * took_s:.0f} ms; "
                'make it async, or run it as step(fn, pool="cpu")'
            )
            logger.warning(text)
            self.notice(job, step, "slow_step", text)

    def notice(self, job: Job, step: str, kind: str, text: str) -> None:
        """Something a user should know that is no failure."""
        if job.run.log is not None:
            job.run.log.append(Notice(self._clock() - job.run.began, kind, text, job=job.index, step=step))


def checked(program: Program, record: Any) -> Record:
    """A record of one's own, with every input the program needs.

    Raises:
        InputError: it is no mapping, lacks an input, or has a field that a step would write.
    """
    try:
        values = dict(record)
    except (TypeError, ValueError) as error:
        raise bad_record(record, error) from None
    if values.keys() != program.inputs:
        program.check_record(values)
    return values


def bad_record(record: Any, error: Exception) -> InputError:
    """The error about something that should be a record."""
    if isinstance(error, InputError):
        return error
    return InputError(f"a record is a mapping of field to value, got {type(record).__name__!r}")


def loggable(error: SageError) -> str:
    """One line about an error that holds no user data: a step's own message may, so only its type is kept."""
    if isinstance(error, StepError) and not isinstance(error.__cause__, SageError):
        cause = type(error.__cause__).__name__ if error.__cause__ is not None else "failed"
        return f"step {error.step!r}: {cause}"
    return str(error).partition("\n")[0]
