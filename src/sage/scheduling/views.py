"""What a policy may look at: frozen views of jobs, tasks and endpoints. Times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

__all__ = ["BatchLimits", "EndpointView", "JobView", "Snapshot", "TaskKind", "TaskView"]

TaskKind = Literal["generate", "embed", "compute"]


class JobView(msgspec.Struct, frozen=True, gc=False):
    """One record going through one pipeline, as admission sees it."""

    id: int  # unique in the session
    run: str  # jobs of one run share its in-flight limit
    pipeline: str
    arrived: float
    tenant: str = "default"
    priority: int = 0  # higher runs first
    deadline: float | None = None  # absolute
    max_inflight: int | None = None  # its run's own limit of jobs at once; None: the policy's


class BatchLimits(msgspec.Struct, frozen=True, gc=False):
    """How many tasks may share one call, and how long the first may wait for company."""

    max_items: int = 64
    max_tokens: int = 16384  # in_tokens of all of them; one task alone may be larger
    max_wait_s: float = 0.0  # 0: company is whoever queued while the endpoints were busy


class TaskView(msgspec.Struct, frozen=True, gc=False):
    """One step of one job that needs an endpoint, as ordering, placing and batching see it."""

    id: int  # unique in the session, rising with readiness
    job: int
    step: str
    pipeline: str
    pool: str
    kind: TaskKind
    arrived: float  # of its job
    ready: float
    tenant: str = "default"
    priority: int = 0
    deadline: float | None = None  # absolute, of its job
    in_tokens: int = 0  # estimate; for embeddings, of all its texts
    max_out_tokens: int = 0
    batch_key: str | None = None  # tasks with equal keys may share one call; None: never
    remaining_steps: int = 1  # endpoint-bound steps on the longest path to the job's end, this one included
    batch: BatchLimits | None = None  # the step's own; the same for equal batch keys. None: the policy's


class EndpointView(msgspec.Struct, frozen=True, gc=False):
    """One replica of an engine, or the worker slots of one node. In-flight counts are the core's own ledger."""

    name: str
    pool: str
    limit: int  # calls at once
    in_flight: int = 0  # calls
    in_flight_tokens: int = 0  # in_tokens + max_out_tokens of the tasks in those calls
    state: Literal["healthy", "draining", "open"] = "healthy"


class Snapshot(msgspec.Struct, frozen=True):
    """What the scheduler holds at one moment: for people, metrics and tests. No policy sees it."""

    admitted: int  # jobs let in and not over
    waiting: int  # jobs that arrived and were not let in yet
    queued: Mapping[str, int]  # pool -> tasks that could start, or wait for company
    delayed: int  # tasks waiting for their next attempt
    running: int  # tasks in calls
    endpoints: tuple[EndpointView, ...]  # in joining order; draining ones until their last call ends
