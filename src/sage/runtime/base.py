"""The objects of a run: what is asked for each job, what is known of it, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sage.errors import InputError, InternalError, SageError, StepError, nearest
from sage.events import Event, Outcome
from sage.graph.fields import Argument, Constant, getter, scalar
from sage.graph.values import Record

if TYPE_CHECKING:
    from sage.runtime.pipe import Pipe
    from sage.runtime.program import Program

__all__ = [
    "PRIORITIES",
    "Job",
    "JobFailure",
    "JobOptions",
    "JobResult",
    "Log",
    "Progress",
    "RecordDone",
    "Run",
    "RunEvent",
    "StepDone",
    "StepStarted",
    "Token",
    "as_step_error",
    "narrowed",
]

#: Names for priority classes; any int is allowed, higher runs first.
PRIORITIES: Mapping[str, int] = {"batch": -10, "normal": 0, "interactive": 10}


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A job that did not end well.

    ``record`` is what went in; ``outcome`` is "failed", "rejected" or "cancelled"; ``step`` is None when it
    never came to one.
    """

    index: int
    record: Record
    outcome: Outcome
    error: SageError
    step: str | None = None
    attempts: int = 1

    def __str__(self) -> str:
        where = (
            f"step {self.step!r}: " if self.step is not None and not isinstance(self.error, StepError) else ""
        )
        return f"record {self.index} {self.outcome}: {where}{self.error}"


#: The finished record of one job, or why there is none. With the job's place in the source, counted from 0.
JobResult = tuple[int, Record | JobFailure]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step's inputs are there."""

    step: str


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer that a step's model is writing."""

    step: str
    text: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step's value is there."""

    step: str
    value: Any


@dataclass(frozen=True, slots=True)
class RecordDone:
    """The whole record is there; the last event of a job that ends well."""

    record: Record


RunEvent = StepStarted | Token | StepDone | RecordDone


class Log(Protocol):
    """Where a run's events go. ``sage.runtime.runs.EventLog`` is one."""

    def append(self, event: Event) -> None:
        """Keep an event; called on the hot path, so it only buffers."""


#: Told of every job that ended, by its outcome. For progress bars.
Progress = Callable[[Outcome], None]


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


@dataclass(slots=True)
class Run:
    """One execution: its identity and where its events go. Owned by the feed that drives it."""

    id: str
    began: float  # monotonic
    options: JobOptions
    log: Log | None = None  # None: nothing is recorded
    max_inflight: int = 64
    watches_steps: bool = False  # time inline steps though nothing is recorded: one of them was slow
    on_end: Progress | None = None
    seen: set[str] = field(default_factory=set)  # pipelines already announced in the log
    counts: dict[Outcome, int] = field(
        default_factory=lambda: {"done": 0, "failed": 0, "rejected": 0, "cancelled": 0}
    )
    resolve: Callable[[Record], tuple[str, int, float | None]] = field(init=False)

    is_limited: bool = field(init=False)  # jobs have a time after which they are stopped

    def __post_init__(self) -> None:
        self.resolve = self.options.resolver()
        self.is_limited = self.options.expire or self.options.timeout_s is not None


@dataclass(slots=True)
class Job:
    """One record on its way through one program."""

    id: int  # unique in the session
    index: int  # in its run
    run: Run
    program: Program
    record: Record
    arrived: float
    admitted: float | None = None
    tenant: str = "default"
    priority: int = 0
    deadline: float | None = None
    stamps: list[float | None] | None = None  # ready and done of every step; None: not recorded
    listen: Callable[[RunEvent], None] | None = None
    at: str | None = None  # the step it failed in
    prefix: str = ""  # of its steps' names in events: where in the outer job this body runs
    is_step: bool = False  # a body that is one step, shown by the prefix alone
    pipes: dict[str, Pipe] = field(default_factory=dict)  # of steps whose pieces others read as they come
    steps_after: int = 0  # endpoint-bound steps that follow in the jobs around it

    def shown(self, step: str) -> str:
        """A step's name in events: with the path to the body it is in, such as ``summaries[3].answer``."""
        return self.prefix if self.is_step else f"{self.prefix}.{step}" if self.prefix else step


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


def narrowed(program: Program, record: Record) -> Record:
    """The finished record, with the fields the pipeline's ``outputs`` name, if it names any."""
    outputs = program.plan.outputs
    return record if outputs is None else {name: record[name] for name in outputs}


def as_step_error(error: Exception, step: str | None) -> SageError:
    """What a step raised, as an error of ours; the original is its cause. Of several at once, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SageError):
        return error
    if step is None:
        return InternalError(f"{type(error).__name__}: {error}")
    wrapped = StepError(step, f"raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
