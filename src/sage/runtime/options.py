"""What a caller may say of a run and of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from sage.errors import InputError, nearest
from sage.events import Outcome
from sage.graph.fields import Argument, Constant, getter, scalar
from sage.graph.values import Record
from sage.tenants import PRIORITIES, Tenant, priority_of

__all__ = [
    "MAX_INFLIGHT",
    "PRIORITIES",
    "JobArguments",
    "JobOptions",
    "ManyArguments",
    "Progress",
    "RunArguments",
    "Tenant",
    "options_from",
]

MAX_INFLIGHT = 64  # jobs of a run at once, where nobody says

#: Told of every job that ended, by its outcome. For progress bars.
Progress = Callable[[Outcome], None]


class JobArguments(TypedDict, total=False):
    """What may be said of jobs. Text ``"{field}"`` takes the value from each record."""

    tenant: str  # on whose behalf; "default"
    priority: int | str  # higher runs first; "batch", "normal" or "interactive" stand for -10, 0, 10
    deadline_s: float | str  # seconds from arrival by which a job should be done
    expire: bool  # make the deadline hard
    timeout_s: float  # stop a job after so long


class ManyArguments(JobArguments, total=False):
    """What may be said of a run of many records."""

    max_inflight: int  # jobs at once; otherwise the session's, or the policy's
    budget_tokens: int  # prompt and answer tokens of all calls; then further jobs are rejected
    record: bool  # False: leave no run folder
    on_end: Progress  # called with the outcome of each job as it ends


class RunArguments(ManyArguments, total=False):
    """What may be said of a run outside a session."""

    engines: Mapping[str, Any]  # pool -> address, several addresses, or an open Engine
    indexes: Mapping[str, Any]  # name -> folder or open Index
    policy: str
    tenants: Mapping[str, Any]  # name -> Tenant, or a table of its settings
    runtime: Any  # "local", "ray", or a RayCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a caller says of the jobs of a run. Text ``"{field}"`` reads the value from each record.

    Attributes:
        tenant: on whose behalf.
        priority: an int, higher first, or a name of PRIORITIES; None: its tenant's.
        deadline_s: seconds from arrival by which the job should be done; orders and is measured.
        expire: make the deadline hard: what is past it is not sent, what runs is aborted, the job fails.
        timeout_s: stop a job after so long, whatever its deadline.
    """

    tenant: str = "default"
    priority: int | str | None = None
    deadline_s: float | str | None = None
    expire: bool = False
    timeout_s: float | None = None

    def resolver(self) -> Callable[[Record], tuple[str, int | None, float | None]]:
        """A function from a record to (tenant, priority, deadline_s); no priority: the tenant's."""
        given: list[Argument] = [scalar(self.tenant), scalar(self.priority), scalar(self.deadline_s)]
        if all(isinstance(argument, Constant) for argument in given):
            fixed: tuple[str, int | None, float | None] = (
                str(self.tenant),
                _priority(self.priority),
                _seconds(self.deadline_s),
            )
            return lambda _record: fixed
        tenant, priority, deadline_s = map(getter, given)

        def resolve(record: Record) -> tuple[str, int | None, float | None]:
            try:
                said = tenant(record), priority(record), deadline_s(record)
            except KeyError as error:
                raise InputError(
                    f"a job option reads field {error}, which the record lacks: {nearest(str(error.args[0]), record)}"
                ) from None
            return str(said[0]), _priority(said[1]), _seconds(said[2])

        return resolve


def _priority(said: Any) -> int | None:
    return None if said is None else priority_of(said)


def _seconds(said: Any) -> float | None:
    if said is None:
        return None
    if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
        return float(said)
    raise InputError(f"deadline_s is {said!r}, expected seconds above 0")


def options_from(said: Mapping[str, Any]) -> JobOptions:
    """What is said of jobs, out of all that is said of a run."""
    return JobOptions(**{name: said[name] for name in JobOptions.__dataclass_fields__ if name in said})
