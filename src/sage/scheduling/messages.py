"""What the scheduler is told and what it answers: events in, commands out."""

from __future__ import annotations

import msgspec

from sage.errors import EngineFault
from sage.scheduling.views import EndpointState, JobView, TaskView

__all__ = [
    "Admit",
    "Command",
    "EndpointChanged",
    "EndpointJoined",
    "EndpointLeft",
    "EndpointMeasured",
    "Event",
    "GiveUp",
    "JobArrived",
    "JobOver",
    "Reject",
    "Retry",
    "Start",
    "TaskDone",
    "TaskDropped",
    "TaskFailed",
    "TaskReady",
    "Tick",
    "WakeAt",
]


class JobArrived(msgspec.Struct, frozen=True, gc=False):
    """A record was pulled from its source. Answered by one Admit or Reject, now or later."""

    job: JobView


class JobOver(msgspec.Struct, frozen=True, gc=False):
    """A job reached its end, whatever its outcome; its tasks that still queue are dropped.

    The driver says so only once the job's running calls have ended (each with TaskDone or TaskFailed).
    """

    job: int


class TaskReady(msgspec.Struct, frozen=True, gc=False):
    """The inputs of an endpoint-bound step of an admitted job are there."""

    task: TaskView
    more: bool = False  # another one follows at this very time, and may share its call: start nothing before


class TaskDone(msgspec.Struct, frozen=True, gc=False):
    """A started task succeeded (its call ended, as far as this task is concerned)."""

    task: int
    prompt_tokens: int = 0
    completion_tokens: int = 0


class TaskFailed(msgspec.Struct, frozen=True, gc=False):
    """A started task failed, or was aborted. Answered by Retry or GiveUp unless its job is over."""

    task: int
    fault: EngineFault | None = None  # None: cancelled, or not the engine's doing; never retried
    retry_after_s: float | None = None
    seen_tokens: bool = False  # a consumer has seen tokens of the failed attempt
    attempts_allowed: int = 3  # the step's own .retry(n), or the default layer


class TaskDropped(msgspec.Struct, frozen=True, gc=False):
    """A task that queues, or waits for its next attempt, is no longer wanted; its job goes on, or is stopping.

    A started task is not dropped but aborted: it ends with TaskFailed.
    """

    task: int


class EndpointJoined(msgspec.Struct, frozen=True, gc=False):
    """An endpoint can take calls from now on. Of one that is known already, this changes the limit."""

    name: str
    pool: str
    limit: int


class EndpointLeft(msgspec.Struct, frozen=True, gc=False):
    """An endpoint takes no further calls; those running on it will end by themselves."""

    name: str


class EndpointMeasured(msgspec.Struct, frozen=True, gc=False):
    """What the server behind an endpoint says of its own load; None: it does not say."""

    name: str
    running: float | None = None  # requests in its batch, others' included
    waiting: float | None = None  # requests in its queue
    kv_used: float | None = None  # share of its KV cache, 0 to 1


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed: the answer to a WakeAt."""


Event = (
    JobArrived
    | JobOver
    | TaskReady
    | TaskDone
    | TaskFailed
    | TaskDropped
    | EndpointJoined
    | EndpointLeft
    | EndpointMeasured
    | Tick
)


class Admit(msgspec.Struct, frozen=True, gc=False):
    """Let the job in."""

    job: int


class Reject(msgspec.Struct, frozen=True, gc=False):
    """Do not let the job in, ever. ``retry_after_s`` None: waiting would not help."""

    job: int
    reason: str
    retry_after_s: float | None = None


class Start(msgspec.Struct, frozen=True, gc=False):
    """Make one call to an endpoint, for all these tasks together."""

    tasks: tuple[int, ...]
    endpoint: str


class Retry(msgspec.Struct, frozen=True, gc=False):
    """The failed task was put back; a Start follows no earlier than after the delay."""

    task: int
    attempt: int  # the attempt that failed, from 1
    delay_s: float


class GiveUp(msgspec.Struct, frozen=True, gc=False):
    """The task will not be tried again; or not at all, since its pool has been down for too long."""

    task: int
    attempts: int
    reason: str


class EndpointChanged(msgspec.Struct, frozen=True, gc=False):
    """For the log: the breaker of an endpoint opened, lets a probe through, or closed again."""

    endpoint: str
    pool: str
    state: EndpointState
    reason: str


class WakeAt(msgspec.Struct, frozen=True, gc=False):
    """Send a Tick at this time, or soon after. A later WakeAt with an earlier time adds to this one."""

    time: float


Command = Admit | Reject | Start | Retry | GiveUp | EndpointChanged | WakeAt
