"""What a caller may say of a run and of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from sage.errors import InputError, nearest
from sage.events import Outcome
from sage.graph.fields import Argument, Constant, getter, scalar
from sage.graph.values import Record

__all__ = [
    "MAX_INFLIGHT",
    "PRIORITIES",
    "JobArguments",
    "JobOptions",
    "ManyArguments",
    "Progress",
    "RunArguments",
    "Tenant",
]

MAX_INFLIGHT = 64  # jobs of a run at once, where nobody says

#: Names for priority classes; any int is allowed, higher runs first.
PRIORITIES: Mapping[str, int] = {"batch": -10, "normal": 0, "interactive": 10}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What a caller says of the jobs of a run. Text ``"{field}"`` reads the value from each record.

    Attributes:
        tenant: on whose behalf.
        priority: an int, higher first, or a name of PRIORITIES.
        deadline_s: seconds from arrival by which the job should be done; orders and is measured.
        expire: make the deadline hard: what is past it is not sent, what runs is aborted, the job fails.
        timeout_s: stop a job after so long, whatever its deadline.
    """

    tenant: str = "default"
    priority: int | str = 0
    deadline_s: float | str | None = None
    expire: bool = False
    timeout_s: float | None = None

    def resolver(self) -> Callable[[Record], tuple[str, int, float | None]]:
        """A function from a record to (tenant, priority, deadline_s)."""
        given: list[Argument] = [scalar(self.tenant), scalar(self.priority), scalar(self.deadline_s)]
        if all(isinstance(argument, Constant) for argument in given):
            fixed = (str(self.tenant), _priority(self.priority), _seconds(self.deadline_s))
            return lambda _record: fixed
        tenant, priority, deadline_s = map(getter, given)

        def resolve(record: Record) -> tuple[str, int, float | None]:
            try:
                said = tenant(record), priority(record), deadline_s(record)
            except KeyError as error:
                raise InputError(
                    f"a job option reads field {error}, which the record lacks: {nearest(str(error.args[0]), record)}"
                ) from None
            return str(said[0]), _priority(said[1]), _seconds(said[2])

        return resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """What a tenant may claim.

    Attributes:
        weight: twice the weight, twice the share.
        reserved: calls at once, in each pool, that it gets before others share the rest.

    Raises:
        InputError: a weight that is not above 0, or fewer than no reserved calls.
    """

    weight: float = 1.0
    reserved: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise InputError(f"a tenant's weight is {self.weight}, expected a number above 0")
        if self.reserved < 0:
            raise InputError(f"a tenant's reserved calls are {self.reserved}, expected 0 or more")


def _priority(said: Any) -> int:
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    if isinstance(said, str) and said in PRIORITIES:
        return PRIORITIES[said]
    raise InputError(
        f"priority {said!r} is neither a whole number nor known: {nearest(str(said), PRIORITIES)}"
    )


def _seconds(said: Any) -> float | None:
    if said is None:
        return None
    if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
        return float(said)
    raise InputError(f"deadline_s is {said!r}, expected seconds above 0")
