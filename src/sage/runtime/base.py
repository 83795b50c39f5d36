"""The objects of a run: what is asked for each job, what is known of it, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from sage.errors import InternalError, Rejected, SageError, StepError
from sage.events import Event, Outcome
from sage.graph.values import Record
from sage.runtime.options import MAX_INFLIGHT, JobOptions, Progress

if TYPE_CHECKING:
    from sage.runtime.hops import Ahead
    from sage.runtime.pipe import Pipe
    from sage.runtime.program import Program

__all__ = [
    "Job",
    "JobFailure",
    "JobResult",
    "Log",
    "RecordDone",
    "Run",
    "RunEvent",
    "StepDone",
    "StepStarted",
    "Token",
    "as_step_error",
    "first_of_group",
    "narrowed",
    "only_of_group",
]


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
    """A step's value is there, so long after its inputs were."""

    step: str
    value: Any
    took_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class RecordDone:
    """The whole record is there; the last event of a job that ends well."""

    record: Record


RunEvent = StepStarted | Token | StepDone | RecordDone


class Log(Protocol):
    """Where a run's events go. ``sage.runtime.runs.EventLog`` is one."""

    def append(self, event: Event) -> None:
        """Keep an event; called on the hot path, so it only buffers."""


@dataclass(slots=True)
class Run:
    """One execution: its identity and where its events go. Owned by the feed that drives it."""

    id: str
    began: float  # monotonic
    options: JobOptions
    log: Log | None = None  # None: nothing is recorded
    max_inflight: int = MAX_INFLIGHT  # places of its feed
    pulled: bool = True  # its records come from a source, which waits; False: each was asked for by itself
    said_inflight: int | None = None  # the limit told to the scheduler; None leaves it to the policy
    budget_tokens: int | None = None  # of all its calls together; then no further call is made
    spent_tokens: int = 0
    watches_steps: bool = False  # time inline steps though nothing is recorded: one of them was slow
    on_end: Progress | None = None
    numbers: Iterator[int] | None = (
        None  # of its jobs, where several feeds share it; None: places in the source
    )
    seen: set[str] = field(default_factory=set)  # pipelines already announced in the log
    counts: dict[Outcome, int] = field(
        default_factory=lambda: {"done": 0, "failed": 0, "rejected": 0, "cancelled": 0}
    )
    resolve: Callable[[Record], tuple[str, int | None, float | None]] = field(init=False)

    is_limited: bool = field(init=False)  # jobs have a time after which they are stopped

    def check_budget(self) -> None:
        """Refuse to go on once the budget is used up.

        Raises:
            Rejected: it is.
        """
        if self.budget_tokens is not None and self.spent_tokens >= self.budget_tokens:
            raise Rejected(
                f"the run's budget of {self.budget_tokens} tokens is used up ({self.spent_tokens} spent)"
            )

    def within(self, options: JobOptions | None, max_inflight: int | None = None) -> Run:
        """The same run, with other options for some of its jobs; counts, log and numbers stay shared."""
        if options is None and max_inflight is None:
            return self
        return replace(self, options=options or self.options, max_inflight=max_inflight or self.max_inflight)

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
    was_told: bool = False  # the scheduler knows of it
    at: str | None = None  # the step it failed in
    held: tuple[tuple[str, float], ...] = ()  # rules that kept it outside, each with the time from when on
    prefix: str = ""  # of its steps' names in events: where in the outer job this body runs
    is_step: bool = False  # a body that is one step, shown by the prefix alone
    pipes: dict[str, Pipe] = field(default_factory=dict)  # of steps whose pieces others read as they come
    ahead: dict[str, Ahead] = field(default_factory=dict)  # steps that were done in a hop with an earlier one
    through: int = (
        -1
    )  # of a chain: all steps up to this place in the plan are done, their values in the record
    parcels: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # large values with where they are kept
    path_after: tuple[str, ...] = ()  # endpoint-bound steps that follow in the jobs around it

    @property
    def goes_straight(self) -> bool:
        """Whether its steps run one after the other, nobody is told, and a failure is its own."""
        return self.listen is None and self.program.is_chain and self.program.is_plain

    def shown(self, step: str) -> str:
        """A step's name in events: with the path to the body it is in, such as ``summaries[3].answer``."""
        return self.prefix if self.is_step else f"{self.prefix}.{step}" if self.prefix else step


def narrowed(program: Program, record: Record) -> Record:
    """The finished record, with the fields the pipeline's ``outputs`` name, if it names any."""
    outputs = program.plan.outputs
    return record if outputs is None else {name: record[name] for name in outputs}


def first_of_group(error: Exception) -> Exception:
    """The first of errors that happened together; a single one itself."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def only_of_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error inside a group of one; the group itself if there are several."""
    first = group.exceptions[0]
    if len(group.exceptions) > 1:
        return group
    return only_of_group(first) if isinstance(first, BaseExceptionGroup) else first


def as_step_error(error: Exception, step: str | None) -> SageError:
    """What a step raised, as an error of ours; the original is its cause. Of several at once, the first."""
    error = first_of_group(error)
    if isinstance(error, SageError):
        return error
    if step is None:
        return InternalError(f"{type(error).__name__}: {error}")
    wrapped = StepError(step, f"raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
