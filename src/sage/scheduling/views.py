"""What a policy may look at: frozen views of jobs, tasks and endpoints. Times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

__all__ = [
    "BatchLimits",
    "ClusterView",
    "EndedCall",
    "EndpointState",
    "EndpointView",
    "Forecast",
    "JobView",
    "PoolView",
    "Snapshot",
    "TaskKind",
    "TaskView",
]

TaskKind = Literal["generate", "embed", "compute"]

#: Draining: it left, and its last calls are ending. Open: its breaker keeps calls away. Half open: one probe may go.
EndpointState = Literal["healthy", "draining", "open", "half_open"]


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
    weight: float = 1.0  # of its tenant, above 0: twice the weight, twice the share
    reserved: int = 0  # calls at once, in each pool, that its tenant gets before others share the rest
    tokens_per_s: float | None = None  # its tenant's own rate, in and out; None: the policy's, if it has one
    burst_tokens: float | None = None  # what its tenant may save up of that; None: the policy's seconds of it
    pulled: bool = False  # from a source that waits: it may be put off, but is never rejected


class BatchLimits(msgspec.Struct, frozen=True, gc=False):
    """How many tasks may share one call, and how long the first may wait for company."""

    max_items: int = 64
    max_tokens: int = 16384  # in_tokens of all of them; one task alone may be larger
    max_wait_s: float = 0.0  # 0: company is whoever queued while the endpoints were busy


class TaskView(msgspec.Struct, frozen=True, gc=False):
    """One step of one job that needs an endpoint, as ordering, placing and batching see it.

    The driver gives what it knows. The scheduler fills in the rest, from the task's job and from what it
    learned of earlier calls; before there were any, a step counts as a millisecond. Where neither the order nor
    the share nor admission looks at that, it is left at its defaults.
    """

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
    path: tuple[str, ...] = ()  # names of those remaining steps, each the same for all jobs; empty: not known
    prefix_key: str | None = None  # tasks with equal keys begin with the same long prompt; None: not known

    # Filled in by the scheduler
    weight: float = 1.0  # of its tenant
    reserved: int = 0  # calls at once its tenant gets first
    service_s: float = 0.0  # expected of its call, or of its share of one
    remaining_path_s: float = 0.0  # expected of the longest path to the job's end, its own call included
    remaining_work_s: float = 0.0  # service times expected of all calls the job still has to make
    attained_s: float = 0.0  # service times of the calls the job has made
    out_tokens_p50: float = 0.0  # expected of its answer
    out_tokens_p90: float = 0.0
    siblings: int = 0  # other tasks of its job that queue, run or are put off


class EndpointView(msgspec.Struct, frozen=True, gc=False):
    """One replica of an engine, or the worker slots of one node. In-flight counts are the core's own ledger."""

    name: str
    pool: str
    limit: int  # calls at once; while half open, those running and one probe
    in_flight: int = 0  # calls
    in_flight_tokens: int = 0  # in_tokens + max_out_tokens of the tasks in those calls
    state: EndpointState = "healthy"
    measured_at: float | None = (
        None  # when its server last told of its load; now less this is the metrics' age
    )
    elsewhere: float = 0.0  # requests it had then that are not this scheduler's
    kv_used: float | None = None  # share of its KV cache that was in use then


class EndedCall(msgspec.Struct, frozen=True, gc=False):
    """One call that ended, as a limit that adapts sees it."""

    started: float
    ended: float
    in_flight: int  # calls on its endpoint just before it ended, itself included
    out_tokens: int  # generated in it; 0 for embeddings and functions
    tasks: int
    overloaded: bool = False  # the engine said it has too much to do
    failed: bool = False  # in any way


class Forecast(msgspec.Struct, frozen=True, gc=False):
    """What is expected of a job, from earlier jobs of its pipeline. Nothing: 0 and empty."""

    path_s: float = 0.0  # service times on its longest path: the soonest it can be done
    work_s: Mapping[str, float] = {}  # pool -> service times of all its calls there
    tokens_p90: float = 0.0  # in and out, of all its calls


class PoolView(msgspec.Struct, frozen=True, gc=False):
    """One pool as admission sees it."""

    slots: int  # calls at once that its endpoints take now
    in_flight: int  # calls
    queued: int  # tasks


class ClusterView(msgspec.Struct, frozen=True, gc=False):
    """All pools at one moment, as admission sees them."""

    now: float
    pools: Mapping[str, PoolView]


class Snapshot(msgspec.Struct, frozen=True):
    """What the scheduler holds at one moment: for people, metrics and tests. No policy sees it."""

    admitted: int  # jobs let in and not over
    waiting: int  # jobs that arrived and were not let in yet
    queued: Mapping[str, int]  # pool -> tasks that could start, or wait for company
    delayed: int  # tasks waiting for their next attempt
    running: int  # tasks in calls
    endpoints: tuple[EndpointView, ...]  # in joining order; draining ones until their last call ends
    down: tuple[str, ...] = ()  # pools all of whose endpoints keep failing: their tasks are parked
