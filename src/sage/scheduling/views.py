"""What a policy may look at: frozen views of jobs, tasks and endpoints. Times are monotonic seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["EndpointView", "JobView", "TaskKind", "TaskView"]

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


class EndpointView(msgspec.Struct, frozen=True, gc=False):
    """One replica of an engine, or the worker slots of one node. In-flight counts are the core's own ledger."""

    name: str
    pool: str
    limit: int  # calls at once
    in_flight: int = 0  # calls
    in_flight_tokens: int = 0  # in_tokens + max_out_tokens of the tasks in those calls
    state: Literal["healthy", "draining", "open"] = "healthy"
