"""What a run writes down while it happens. Every figure SAGE prints is computed from these.

Times are seconds since the run began, on the monotonic clock. The manifest (``run.json``) says when that was.
A log is a file of JSON objects, one a line, each with its ``type``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "EndpointSwitched",
    "Event",
    "Hold",
    "JobEnded",
    "Notice",
    "Outcome",
    "PipelineSeen",
    "RunEnded",
    "StageCounted",
    "StreamSeen",
    "TaskEnded",
    "TaskRetried",
    "TaskReused",
    "Why",
    "decode_event",
    "encode_events",
]

Outcome = Literal["done", "failed", "rejected", "cancelled"]


class Base(msgspec.Struct, frozen=True, gc=False, tag_field="type", omit_defaults=True):
    """Common to every event: when it happened."""

    t: float  # seconds since the run began


class Hold(msgspec.Struct, frozen=True, gc=False):
    """What kept a job outside: a rule of admission that put it off, or the limit of jobs at once."""

    rule: str  # its name on the axis ``admit``
    since: float  # until the next one began, or the job was let in or refused


class Why(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the scheduler decided by when it started a task. Counts include the task itself.

    Nothing in it: there was nothing to decide, since it started at once and nobody else was waiting.
    """

    key: tuple[float, ...] = ()  # its place in the order, smallest first; times in it are the session's
    in_flight: int = 0  # calls on its endpoint, now that it started
    limit: int = 0  # calls at once that its endpoint gets
    queued: int = 0  # tasks of its pool that go on waiting
    queued_s: float = 0.0  # so long it had waited, by the scheduler's clock; 0: it started at once
    turn: float | None = None  # tokens its tenant was charged by then, by weight; None: nobody takes turns
    reserve: bool = False  # its tenant was within its reserve, and went first
    held_s: float = 0.0  # kept back, so that others could join its call
    aside_s: float = 0.0  # so long ago it had stepped aside, since it could not be in time any more


class PipelineSeen(Base, frozen=True, gc=False, tag="pipeline"):
    """The first job of a pipeline arrived. Gives the order of the stamps in its ``JobEnded`` events."""

    pipeline: str
    steps: tuple[str, ...]
    operators: tuple[str, ...]  # aligned with steps
    after: tuple[tuple[str, ...], ...]  # per step, the steps it waits for


class JobEnded(Base, frozen=True, gc=False, tag="job"):
    """A job reached its one terminal state; ``t`` is when."""

    job: int  # counted from 0 within the run
    pipeline: str
    outcome: Outcome
    arrived: float
    admitted: float | None = None
    stamps: tuple[float | None, ...] = ()  # per step, ready and done, in plan order; None: did not run
    tenant: str = "default"
    priority: int = 0
    deadline: float | None = None  # absolute, same clock
    step: str | None = None  # the step that failed
    error: str | None = None  # one line, without prompts or keys
    held: tuple[Hold, ...] = ()  # what it waited for before it was let in; empty: it came in at once


class TaskEnded(Base, frozen=True, gc=False, tag="task"):
    """One call to an endpoint ended, for one task of it; ``t`` is when."""

    job: int
    step: str
    pool: str
    endpoint: str
    outcome: Literal["done", "failed", "cancelled"]
    ready: float  # handed to the scheduler
    dispatched: float  # sent to the endpoint
    first: float | None = None  # first piece with a generated token
    attempt: int = 1
    batch: int = 1  # how many tasks travelled in the same call
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, served from a prefix cache
    usage_from: str = ""  # who counted: "server", "tokenizer" or "pieces"
    pieces: tuple[float, ...] = ()  # arrival of every streamed piece
    piece_tokens: tuple[int, ...] = ()  # aligned with pieces; empty where the engine does not say
    error: str | None = None
    why: Why | None = None  # the decision that started it


class TaskRetried(Base, frozen=True, gc=False, tag="retry"):
    """A call failed and will be made again after ``delay_s``."""

    job: int
    step: str
    endpoint: str
    attempt: int  # the attempt that failed
    delay_s: float
    error: str


class TaskReused(Base, frozen=True, gc=False, tag="reuse"):
    """A call was not made, because the same one was answered already or was under way."""

    job: int
    step: str
    source: Literal["memory", "disk", "flight"]


class EndpointSwitched(Base, frozen=True, gc=False, tag="endpoint"):
    """The breaker of an endpoint opened, lets a probe through, or closed; in the log of every run that waits."""

    endpoint: str
    pool: str
    state: Literal["healthy", "draining", "open", "half_open"]
    reason: str


class Notice(Base, frozen=True, gc=False, tag="notice"):
    """Something a user should know that is no failure, such as passages dropped to fit the context."""

    kind: str  # "fit", "slow_step", …
    text: str
    job: int | None = None
    step: str | None = None


class StreamSeen(Base, frozen=True, gc=False, tag="stream"):
    """A stream began. Gives its stages, in an order in which each stands behind what it reads."""

    stream: str
    stages: tuple[str, ...]
    kinds: tuple[str, ...]  # aligned with stages
    after: tuple[tuple[str, ...], ...]  # per stage, what it reads: ``stage``, or ``stage.port``


class StageCounted(Base, frozen=True, gc=False, tag="stage"):
    """How many records a stage of a stream has dealt with since it began; the last one of a stage holds."""

    stage: str
    taken: int = 0  # came in; of a source: were read
    given: int = 0  # went out, on all ports
    failed: int = 0  # could not be read, or made the stage fail
    late: int = 0  # came when their windows were closed
    dropped: int = 0  # left out by what the stage is for: a test, a join without a partner
    pending: int = 0  # what it keeps now: groups of windows, keys, records waiting
    most_pending: int = 0  # and at most
    unfinished: int = 0  # records it still held when the stream was stopped or failed


class RunEnded(Base, frozen=True, gc=False, tag="end"):
    """The last line of a complete log."""

    status: Literal["complete", "partial", "failed"]


Event = (
    PipelineSeen
    | JobEnded
    | TaskEnded
    | TaskRetried
    | TaskReused
    | EndpointSwitched
    | Notice
    | StreamSeen
    | StageCounted
    | RunEnded
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode_events(events: list[Event]) -> bytes:
    """The events as JSON lines, each line ended."""
    return _encoder.encode_lines(events)


def decode_event(line: bytes | str) -> Event:
    """One line of a log.

    Raises:
        msgspec.ValidationError: the line is no event.
    """
    return _decoder.decode(line)
